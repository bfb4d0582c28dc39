package rows_test

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/runtimeiface"
)

func init() { rows = append(rows, bounds, policies) }

func bounds(n *node) {
	It("has its time, and fails after it", func() {
		n.apply("brief", "activeDeadlineSeconds: 2\n  containers: ["+n.does("app", "forever")+"]")
		Expect(n.untilPhase("brief", corev1.PodFailed).Status.Reason).To(Equal("DeadlineExceeded"))
	})

	It("waits for a port of the node's until that is free", func() {
		port := "ports: [{containerPort: 80, hostPort: 18080}]"
		n.apply("has", "containers: ["+n.does("app", "forever", port)+"]")
		n.untilReady("has")
		n.apply("wants", "containers: ["+n.does("app", "forever", port)+"]")
		n.until("wants", func(g Gomega, pod *corev1.Pod) {
			g.Expect(pod.Status.Phase).To(Equal(corev1.PodPending))
			g.Expect(pod.Status.Reason).To(Equal("NodePorts"))
		})
		Expect(os.Remove(filepath.Join(n.manifests, "has.yaml"))).To(Succeed())
		n.untilReady("wants")
	})

	It("is ready when its gates are open, and no sooner", func() {
		n.apply("gated", "readinessGates: [{conditionType: example.com/open}]\n  containers: ["+n.does("app", "forever")+"]")
		n.until("gated", func(g Gomega, pod *corev1.Pod) {
			g.Expect(condition(pod, corev1.ContainersReady)).To(Equal(corev1.ConditionTrue))
		})
		Expect(condition(n.pod("gated"), corev1.PodReady)).To(Equal(corev1.ConditionFalse))
		Expect(n.manager.SetCondition("default", "gated", corev1.PodCondition{Type: "example.com/open", Status: corev1.ConditionTrue})).To(Succeed())
		n.untilReady("gated")
	})

	It("sleeps before it is told to end, if its hook does", func() {
		n.apply("sleeps", "terminationGracePeriodSeconds: 60\n  containers: ["+n.does("app", "trap 0 ; forever", "lifecycle: {preStop: {sleep: {seconds: 2}}}")+"]")
		n.untilReady("sleeps")
		began := time.Now()
		n.clear()
		Expect(time.Since(began)).To(BeNumerically(">=", 2*time.Second))
	})

	It("is told to end by the signal that it asks for", func() {
		// Whom the signal reaches before its program has a handler goes on, and has the
		// grace: the first process of a namespace is not ended by it.
		n.apply("signalled", "terminationGracePeriodSeconds: 2\n  os: {name: linux}\n  containers: ["+n.does("app", "forever",
			"lifecycle: {stopSignal: SIGUSR1}, livenessProbe: {exec: {command: [/prog, exit, \"1\"]}, initialDelaySeconds: 2, periodSeconds: 1, failureThreshold: 1}")+"]")
		n.until("signalled", func(g Gomega, pod *corev1.Pod) {
			g.Expect(first(g, pod).LastTerminationState.Terminated).NotTo(BeNil())
			g.Expect(first(g, pod).LastTerminationState.Terminated.ExitCode).To(BeEquivalentTo(128 + 10))
		})
	})

	It("has the grace of the probe that it fails", func() {
		n.apply("sick", "terminationGracePeriodSeconds: 6\n  containers: ["+n.does("app", "ignore ; forever",
			"livenessProbe: {exec: {command: [/prog, exit, \"1\"]}, periodSeconds: 1, failureThreshold: 1, terminationGracePeriodSeconds: 1}")+"]")
		n.until("sick", func(g Gomega, pod *corev1.Pod) {
			g.Expect(first(g, pod).RestartCount).To(BeNumerically(">=", 1))
			g.Expect(first(g, pod).LastTerminationState.Terminated).NotTo(BeNil())
			g.Expect(first(g, pod).LastTerminationState.Terminated.ExitCode).To(BeEquivalentTo(137))
		})
		Expect(n.tell("sick")).To(ContainSubstring("kill attempt 0, grace 1s"))
	})
}

func policies(n *node) {
	with := func(name, annotation, value, containers string) {
		n.write(name+".yaml", fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata:\n  name: %s\n  annotations: {%s: %s}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers: [%s]\n",
			name, annotation, value, containers))
	}
	It("runs none of its containers before all of them can be, if it says so", func() {
		with("together", podlifecycle.AnnotationStartPolicy, podlifecycle.StartAllOrNothing,
			n.does("app", "forever")+", "+n.does("other", "forever", "envFrom: [{configMapRef: {name: settings}}]"))
		n.until("together", func(g Gomega, pod *corev1.Pod) {
			g.Expect(pod.Status.ContainerStatuses).To(HaveLen(2))
			g.Expect(pod.Status.ContainerStatuses).To(HaveEach(HaveField("State.Waiting", Not(BeNil()))))
			g.Expect(n.tell("together")).To(ContainSubstring("CreateContainerConfigError"))
		})
		uid := string(n.pod("together").UID)
		Expect(n.rt.ListContainers(GinkgoT().Context(), runtimeiface.ContainerFilter{Labels: map[string]string{podlifecycle.LabelPodUID: uid}, State: runtimeiface.ContainerRunning})).To(BeEmpty())
		n.settings("red")
		n.untilReady("together")
	})

	It("is made anew as a whole when one of its containers fails, if it says so", func() {
		with("replaced", podlifecycle.AnnotationFailurePolicy, podlifecycle.FailureReplacePod,
			n.does("app", "forever")+", "+n.does("fails", "sleep 1s ; exit 1"))
		id := ""
		n.until("replaced", func(g Gomega, pod *corev1.Pod) {
			g.Expect(pod.Status.ContainerStatuses).To(HaveLen(2))
			g.Expect(pod.Status.ContainerStatuses[0].State.Running).NotTo(BeNil())
			id = pod.Status.ContainerStatuses[0].ContainerID
		})
		n.until("replaced", func(g Gomega, pod *corev1.Pod) {
			g.Expect(pod.Status.ContainerStatuses[0].State.Running).NotTo(BeNil())
			g.Expect(pod.Status.ContainerStatuses[0].ContainerID).NotTo(Equal(id))
		})
		list, err := n.rt.ListSandboxes(GinkgoT().Context(), runtimeiface.SandboxFilter{UID: string(n.pod("replaced").UID)})
		Expect(err).NotTo(HaveOccurred())
		Expect(list).To(ContainElement(HaveField("Attempt", BeNumerically(">=", 1))))
	})
}
