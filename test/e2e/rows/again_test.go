package rows_test

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

func init() { rows = append(rows, again) }

func again(n *node) {
	It("restarts all its containers in its sandbox when a rule says so", func(ctx SpecContext) {
		mount := "volumeMounts: [{name: v, mountPath: /v}]"
		n.apply("all", "restartPolicy: Never\n  volumes: [{name: v, emptyDir: {}}]\n  initContainers: ["+n.does("setup", "append /v/log x", mount)+"]\n  containers: ["+
			n.does("app", "await /v/go ; exit 42", mount, "restartPolicy: Never",
				"restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: NotIn, values: [0]}}]")+", "+
			n.does("other", "ignore ; forever")+"]")
		before := n.untilReady("all")
		_, err := n.manager.Exec(ctx, "default", "all", "app", runtimeiface.ExecSpec{Command: []string{"/prog", "write", "/v/go", "x"}})
		Expect(err).NotTo(HaveOccurred())
		after := n.until("all", func(g Gomega, pod *corev1.Pod) {
			for _, s := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
				g.Expect(s.RestartCount).To(BeNumerically(">=", 1), s.Name)
			}
			g.Expect(pod.Status.ContainerStatuses[1].LastTerminationState.Terminated).To(HaveField("Reason", "RestartingAllContainers"))
		})
		Expect(after.Status.PodIP).To(Equal(before.Status.PodIP), "the same sandbox")
		Expect(after.Status.Phase).To(Equal(corev1.PodRunning))
		Expect(n.tell("all")).To(ContainSubstring("whose rule restarts all containers"))
	})

	It("takes a container for a look at another's processes", func() {
		app := "containers: [" + n.does("app", "ignore ; forever") + "]"
		n.apply("looked", app)
		before := n.untilReady("looked")
		n.apply("looked", app+"\n  ephemeralContainers: ["+n.does("debug", "ps ; exit 3", "targetContainerName: app")+"]")
		after := n.until("looked", func(g Gomega, pod *corev1.Pod) {
			g.Expect(pod.Status.EphemeralContainerStatuses).To(HaveLen(1))
			g.Expect(pod.Status.EphemeralContainerStatuses[0].State.Terminated).To(HaveField("ExitCode", BeEquivalentTo(3)))
		})
		Expect(after.UID).To(Equal(before.UID))
		Expect(after.Status.ContainerStatuses[0].ContainerID).To(Equal(before.Status.ContainerStatuses[0].ContainerID))
		Expect(n.output("looked", "debug")).To(ContainSubstring("forever"), "the target's program")
	})

	It("has variables from a file that its init container left", func() {
		mount := "volumeMounts: [{name: v, mountPath: /v}]"
		Expect(n.prints("filed", "env LEVEL", "\n  volumes: [{name: v, emptyDir: {medium: Memory}}]\n  initContainers: ["+n.does("setup", "write /v/vars LEVEL='debug'", mount)+"]",
			"env: [{name: LEVEL, valueFrom: {fileKeyRef: {volumeName: v, path: vars, key: LEVEL}}}]")).To(ContainSubstring("debug"))
	})
}
