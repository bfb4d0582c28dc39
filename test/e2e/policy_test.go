package e2e_test

import (
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/podlifecycle"
)

var _ = Describe("a pod that asks for more", func() {
	It("answers on a port of the node, and leaves it when it goes", func() {
		n := newNode()
		n.start()
		Expect(n.Write("port.json", singleWith("port", `"args": ["web"], "ports": [{"containerPort": 8080, "hostPort": 18080}]`, ""))).To(Succeed())
		n.awaitReady("port")
		Eventually(func() (string, error) { return n.Do("GET", nodeURL(18080)+"/") }).WithTimeout(time.Minute).Should(ContainSubstring("says"))
		Expect(n.get("http://127.0.0.1:18080/")).To(ContainSubstring("says"))
		Expect(n.Delete("port.json")).To(Succeed())
		Eventually(func() error { _, err := n.Do("GET", nodeURL(18080)+"/"); return err }).WithTimeout(time.Minute).Should(HaveOccurred())
	})

	It("starts all its containers or none", func() {
		n := newNode()
		n.start()
		two := func(second string) string {
			return fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "both", "annotations": {%q: %q}},
"spec": {"terminationGracePeriodSeconds": 1, "containers": [
  {"name": "first", "image": "localhost:5010/demo:1", "args": ["clock", "/tmp/clock"]},
  {"name": "second", "image": %q, "args": ["clock", "/tmp/clock"]}]}}`,
				podlifecycle.AnnotationStartPolicy, podlifecycle.StartAllOrNothing, second)
		}
		Expect(n.Write("both.json", two("localhost:5010/none:1"))).To(Succeed())
		Eventually(func() string { return n.why("both") }).WithTimeout(time.Minute).Should(ContainSubstring("start together"))
		Expect(n.pod("both").Status.ContainerStatuses[0].State.Running).To(BeNil(), "the first waits for the second")
		Expect(n.Write("both.json", two("localhost:5010/demo:1"))).To(Succeed())
		pod := n.awaitReady("both")["both"]
		started := func(i int) time.Time { return pod.Status.ContainerStatuses[i].State.Running.StartedAt.Time }
		AddReportEntry("all or nothing", fmt.Sprintf("started %v apart", started(1).Sub(started(0))), ReportEntryVisibilityAlways)
	})

	It("is replaced when a container of it fails", func() {
		n := newNode()
		n.start()
		Expect(n.Write("fails.json", fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "fails", "annotations": {%q: %q}},
"spec": {"terminationGracePeriodSeconds": 1,
  "initContainers": [{"name": "setup", "image": "localhost:5010/demo:1", "args": ["exit", "0"]}],
  "containers": [{"name": "web", "image": "localhost:5010/demo:1", "args": ["web"]}, {"name": "other", "image": "localhost:5010/demo:1", "args": ["clock", "/tmp/clock"]}]}}`,
			podlifecycle.AnnotationFailurePolicy, podlifecycle.FailureReplacePod))).To(Succeed())
		before := n.awaitReady("fails")["fails"].Status
		n.listens(before.PodIP)
		_, _ = n.Do("POST", "http://"+before.PodIP+":8080/crash?code=3")
		Eventually(func(g Gomega) {
			after := n.pod("fails").Status
			g.Expect(after.PodIP).NotTo(Or(BeEmpty(), Equal(before.PodIP)), "a new address")
			g.Expect(after.ContainerStatuses).To(HaveLen(2))
			for _, s := range append(after.InitContainerStatuses, after.ContainerStatuses...) {
				g.Expect(s.RestartCount).To(BeEquivalentTo(1), s.Name)
			}
			g.Expect(after.ContainerStatuses[0].LastTerminationState.Terminated.ExitCode).To(BeEquivalentTo(3))
		}).WithTimeout(time.Minute).Should(Succeed())
		n.awaitReady("fails")
		Expect(strings.Count(n.why("fails"), podlifecycle.RuleReplacePod)).To(BeNumerically(">", 0))
	})
})
