package rows_test

import (
	"fmt"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
)

func init() { rows = append(rows, images, logs) }

func images(n *node) {
	for reason, c := range map[string]struct{ image, policy string }{
		"ErrImageNeverPull": {"127.0.0.1:1/test/never:1", "Never"},
		"InvalidImageName":  {"Not A Name", "IfNotPresent"},
	} {
		It("waits with "+reason, func() {
			n.apply("image", fmt.Sprintf("containers: [{name: app, image: %q, imagePullPolicy: %s}]", c.image, c.policy))
			n.until("image", func(g Gomega, pod *corev1.Pod) {
				g.Expect(pod.Status.ContainerStatuses).To(HaveLen(1))
				g.Expect(first(g, pod).State.Waiting).NotTo(BeNil())
				g.Expect(first(g, pod).State.Waiting.Reason).To(Equal(reason))
			})
		})
	}

	It("whose image is nowhere waits, and tries again after a back-off", func() {
		n.apply("missing", fmt.Sprintf("containers: [{name: app, image: %q}]", n.images.Missing))
		seen := map[string]bool{}
		n.until("missing", func(g Gomega, pod *corev1.Pod) {
			g.Expect(pod.Status.ContainerStatuses).To(HaveLen(1))
			g.Expect(first(g, pod).State.Waiting).NotTo(BeNil())
			seen[pod.Status.ContainerStatuses[0].State.Waiting.Reason] = true
			g.Expect(seen).To(HaveKey("ImagePullBackOff"))
		})
		Expect(n.tell("missing")).To(ContainSubstring("not found"))
	})

	It("gets another image without a new sandbox", func() {
		text := "apiVersion: v1\nkind: Pod\nmetadata: {name: other, uid: 6e2c5b1c-0b0e-4a52-9a0b-7f6c7a3f0001}\nspec: {terminationGracePeriodSeconds: 1, containers: [{name: app, image: \"" + demoRegistry + "/demo:%d\", args: [web]}]}\n"
		n.write("other.yaml", fmt.Sprintf(text, 1))
		before := n.untilReady("other")
		n.write("other.yaml", fmt.Sprintf(text, 2))
		n.until("other", func(g Gomega, pod *corev1.Pod) {
			g.Expect(first(g, pod).Image).To(HaveSuffix("/demo:2"))
			g.Expect(condition(pod, corev1.PodReady)).To(Equal(corev1.ConditionTrue))
			g.Expect(pod.Status.PodIP).NotTo(BeEmpty())
		})
		if n.pod("other").UID == before.UID {
			Expect(n.pod("other").Status.PodIP).To(Equal(before.Status.PodIP))
		}
	})
}

func logs(n *node) {
	It("has its output in a file that others read, by name, UID and restart", func() {
		n.apply("logs", "restartPolicy: Never\n  containers: ["+n.does("app", "print out ; eprint err")+"]")
		pod := n.untilPhase("logs", corev1.PodSucceeded)
		data, err := os.ReadFile(filepath.Join(n.dir, "logs", "default_logs_"+string(pod.UID), "app", "0.log"))
		Expect(err).NotTo(HaveOccurred())
		Expect(string(data)).To(MatchRegexp(`(?m)^\d{4}-\d\d-\d\dT\S+ stdout F out$`))
		Expect(string(data)).To(MatchRegexp(`(?m)^\d{4}-\d\d-\d\dT\S+ stderr F err$`))
	})
}
