package e2e_test

import (
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/internal/agenttest"
)

var _ = Describe("bad input", func() {
	It("is told on the log, by why and in the status, by file, pod and field; all else keeps running", func() {
		n := newNode()
		Expect(n.Write("good.json", single("good", "web"))).To(Succeed())
		n.start()
		before := n.awaitReady("good")

		for _, c := range []struct {
			what, file, pod, text string
			words                 []string // in log, why and status; the file and the pod are asked for besides
		}{
			{"an unknown field", "field.json", "field", singleWith("field", `"args": ["web"], "imagePullPolcy": "Never"`, ""),
				[]string{"spec.containers[0].imagePullPolcy"}},
			{"an unsupported field", "device.json", "device",
				singleWith("device", `"args": ["web"]`, `"volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}],`),
				[]string{"spec.volumes[0].nfs"}},
			{"an invalid value", "value.json", "value", singleWith("value", `"args": ["web"], "ports": [{"containerPort": 70000}]`, ""),
				[]string{"spec.containers[0].ports[0].containerPort"}},
			{"an unknown image", "image.json", "image",
				strings.Replace(single("image", "web"), "demo:1", "nosuch:9", 1), []string{"spec.containers[0].image", "localhost:5010/nosuch:9"}},
			{"a missing ConfigMap", "config.json", "config",
				singleWith("config", `"args": ["web"], "envFrom": [{"configMapRef": {"name": "nowhere"}}]`, ""), []string{"nowhere"}},
		} {
			By(c.what)
			Expect(n.Write(c.file, c.text)).To(Succeed())
			n.told(c.pod, append(c.words, c.file)...)
		}

		By("broken YAML names the file and the line on the log")
		Expect(n.Write("broken.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: broken\n")).To(Succeed())
		Eventually(n.agent.Output.String).WithTimeout(time.Minute).Should(ContainSubstring("broken.yaml"))

		By("two pods that want the same port of the node")
		port := `"args": ["web"], "ports": [{"containerPort": 8080, "hostPort": 8080}]`
		Expect(n.Write("port-a.json", singleWith("port-a", port, `"hostNetwork": true,`))).To(Succeed())
		n.awaitReady("port-a")
		Expect(n.Write("port-b.json", singleWith("port-b", port, `"hostNetwork": true,`))).To(Succeed())
		n.told("port-b", "spec.containers[0].ports[0].hostPort", "8080", "port-b.json", "port-a")
		Expect(n.pod("port-b").Status.Phase).To(Equal(corev1.PodPending))
		Expect(n.pod("port-b").Status.Reason).To(Equal("NodePorts"))
		Expect(n.Delete("port-a.json")).To(Succeed())
		n.awaitReady("port-b")

		By("a manifest that is broken by an edit stops nothing")
		Expect(n.Write("good.json", single("good", "web")[:40])).To(Succeed())
		Eventually(n.agent.Output.String).WithTimeout(time.Minute).Should(ContainSubstring("good.json"))
		Consistently(func() []string { return instances(n.pod("good")) }).WithTimeout(2 * time.Second).
			Should(Equal(instances(before["good"])))

		By("what was missing comes, and the pod starts")
		Expect(n.Write("nowhere.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: nowhere}\ndata: {a: b}\n")).To(Succeed())
		n.awaitReady("config")
		Expect(n.pods()).NotTo(HaveKey("broken"))
	})
})

// told waits until log, why and status of a pod hold all words.
func (n *node) told(pod string, words ...string) {
	GinkgoHelper()
	holds := make([]types.GomegaMatcher, 0, len(words))
	for _, word := range words {
		holds = append(holds, ContainSubstring(word))
	}
	Eventually(func(g Gomega) {
		g.Expect(n.agent.Output.String()).To(And(ContainSubstring(pod), And(holds...)), "on the log")
		g.Expect(n.why(pod)).To(And(holds...), "by why")
		g.Expect(agenttest.Print(n.pod(pod).Status)).To(And(holds...), "in the status")
	}).WithTimeout(time.Minute).WithPolling(100 * time.Millisecond).Should(Succeed())
}
