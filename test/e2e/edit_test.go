package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
)

var _ = Describe("a manifest", func() {
	It("edited or deleted does what kubectl apply or delete would", func() {
		n := newNode()
		n.examples()
		n.start()
		before := n.awaitReady("web-1", "web-2")["web-1"]
		text, err := os.ReadFile(filepath.Join(n.Manifests, "web-1.yaml"))
		Expect(err).NotTo(HaveOccurred())
		manifest := string(text)

		By("another image of one container restarts that container, in the same pod")
		at := strings.LastIndex(manifest, "demo:1")
		manifest = manifest[:at] + "demo:2" + manifest[at+len("demo:1"):]
		Expect(n.Write("web-1.yaml", manifest)).To(Succeed())
		var after corev1.Pod
		Eventually(func(g Gomega) {
			after = n.pod("web-1")
			g.Expect(ready(after)).To(BeTrue())
			g.Expect(after.Status.ContainerStatuses[0].Image).To(HaveSuffix("demo:2"))
		}).WithTimeout(time.Minute).Should(Succeed())
		Expect(after.UID).To(Equal(before.UID))
		Expect(after.Status.PodIP).To(Equal(before.Status.PodIP))
		Expect(after.Status.ContainerStatuses[0].RestartCount).To(BeEquivalentTo(1))
		Expect(after.Status.ContainerStatuses[0].ImageID).NotTo(Equal(before.Status.ContainerStatuses[0].ImageID))
		Expect(after.Status.InitContainerStatuses[1].ContainerID).To(Equal(before.Status.InitContainerStatuses[1].ContainerID), "the sidecar")

		By("another label changes the pod and restarts nothing")
		manifest = strings.Replace(manifest, "{app: web}", "{app: web, tier: front}", 1)
		Expect(n.Write("web-1.yaml", manifest)).To(Succeed())
		Eventually(func() map[string]string { return n.pod("web-1").Labels }).WithTimeout(time.Minute).Should(HaveKeyWithValue("tier", "front"))
		Expect(instances(n.pod("web-1"))).To(Equal(instances(after)))

		By("anything else makes another pod, after the old one is gone")
		Expect(n.Write("web-1.yaml", strings.Replace(manifest, "failureThreshold: 1", "failureThreshold: 2", 1))).To(Succeed())
		Eventually(func(g Gomega) {
			pod := n.pod("web-1")
			if pod.UID != before.UID && len(pod.Status.ContainerStatuses) > 0 && pod.Status.ContainerStatuses[0].State.Running != nil {
				g.Expect(n.census().pods).To(Equal(3), "the old pod's cgroup is gone")
			}
			g.Expect(pod.UID).NotTo(Equal(before.UID))
			g.Expect(ready(pod)).To(BeTrue())
		}).WithTimeout(time.Minute).WithPolling(20 * time.Millisecond).Should(Succeed())

		By("content of a ConfigMap reaches the volume, not the environment")
		service, err := os.ReadFile(filepath.Join(n.Manifests, "service.yaml"))
		Expect(err).NotTo(HaveOccurred())
		settled := instances(n.pod("web-1"))
		Expect(n.Write("service.yaml", strings.Replace(string(service), "hello from", "good bye from", 1))).To(Succeed())
		Eventually(func() string {
			paths, _ := filepath.Glob(filepath.Join(n.State, "pods", "pods", string(n.pod("web-1").UID), "volumes", "*", "config", "greeting"))
			if len(paths) != 1 {
				return strings.Join(paths, " ")
			}
			content, _ := os.ReadFile(paths[0])
			return string(content)
		}).WithTimeout(time.Minute).Should(HavePrefix("good bye"))
		Expect(n.get("http://" + n.pod("web-1").Status.PodIP + ":8080/")).To(ContainSubstring("hello from"))
		Expect(instances(n.pod("web-1"))).To(Equal(settled))

		By("a deleted file ends its pod gracefully: it leaves the Service, then stops, then is gone")
		Expect(n.Delete("web-1.yaml")).To(Succeed())
		var broken []error
		Eventually(func(g Gomega) {
			count, err := n.answers(vip+"/", 5)
			if err != nil {
				broken = append(broken, err)
			}
			g.Expect(count).NotTo(HaveKey("web-1"))
			g.Expect(n.pods()).NotTo(HaveKey("web-1"))
		}).WithTimeout(time.Minute).WithPolling(10 * time.Millisecond).Should(Succeed())
		Expect(broken).To(BeEmpty(), "calls of the Service while the pod ended")
	})
})
