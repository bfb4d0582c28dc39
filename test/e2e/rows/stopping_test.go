package rows_test

import (
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface"
)

func init() { rows = append(rows, atOnce, whileStopped) }

// delete takes a pod's manifest away.
func (n *node) delete(name string) {
	GinkgoHelper()
	Expect(os.Remove(filepath.Join(n.manifests, name+".yaml"))).To(Succeed())
}

// gone waits until a pod is no more, and gives what was told of it last.
func (n *node) gone(ctx SpecContext, name string) *corev1.Pod {
	GinkgoHelper()
	Eventually(n.pod, patience).WithArguments(name).Should(BeNil())
	var last *corev1.Pod
	Eventually(func(g Gomega) { // it is told after it is gone
		told, _ := n.reported.Load(name)
		g.Expect(told).NotTo(BeNil())
		last = told.(*corev1.Pod)
		g.Expect(last.Status.ContainerStatuses).To(HaveEach(HaveField("State.Terminated", Not(BeNil()))))
	}, patience).Should(Succeed())
	uid := string(last.UID)
	Expect(n.rt.ListSandboxes(ctx, runtimeiface.SandboxFilter{UID: uid})).To(BeEmpty())
	Expect(filepath.Join(n.dir, "pods", "pods", uid)).NotTo(BeADirectory())
	Expect(cgroups(n, last.UID)).To(BeEmpty())
	return last
}

func atOnce(n *node) {
	It("without grace is killed at once, is not asked before, and leaves nothing", func(ctx SpecContext) {
		told := filepath.Join(n.dir, "told")
		Expect(os.Mkdir(told, 0o777)).To(Succeed())
		DeferCleanup(os.RemoveAll, told)
		n.apply("hasty", "terminationGracePeriodSeconds: 0\n  containers: ["+n.does("app", "trap 0 ; print up ; forever", "volumeMounts: [{name: told, mountPath: /told}]",
			"lifecycle: {preStop: {exec: {command: [/prog, write, /told/hook, x]}}}")+"]\n  volumes: [{name: told, hostPath: {path: "+told+"}}]")
		Eventually(n.output, patience).WithArguments("hasty", "app").Should(Equal("up\n"), func() string { return n.tell("hasty") })
		n.delete("hasty")
		last := n.gone(ctx, "hasty")
		Expect(first(Default, last).State.Terminated.ExitCode).To(BeEquivalentTo(137), "SIGTERM would have led to 0")
		Expect(filepath.Join(told, "hook")).NotTo(BeAnExistingFile())
	})

	It("that ends in an hour is killed at once when it is deleted without grace", func(ctx SpecContext) {
		n.apply("hurried", "terminationGracePeriodSeconds: 3600\n  containers: ["+n.does("app", "ignore ; print deaf ; forever")+"]")
		Eventually(n.output, patience).WithArguments("hurried", "app").Should(Equal("deaf\n"))
		n.delete("hurried")
		pod := n.until("hurried", func(g Gomega, pod *corev1.Pod) {
			g.Expect(pod.DeletionTimestamp).NotTo(BeNil())
			g.Expect(n.tell("hurried")).To(MatchRegexp("kill attempt 0, grace (1h|59m)"))
		})
		Expect(*pod.DeletionGracePeriodSeconds).To(BeEquivalentTo(3600))
		*pod.DeletionGracePeriodSeconds = 0
		n.manager.Set(source.Set{Pods: []*corev1.Pod{pod}}) // as from an API
		Expect(first(Default, n.gone(ctx, "hurried")).State.Terminated.ExitCode).To(BeEquivalentTo(137))
	})
}

func whileStopped(n *node) {
	It("is asked whether it is ready until it has stopped, and not any more whether it lives", func(ctx SpecContext) {
		probe := func(file string) string {
			return "{exec: {command: [/prog, open, " + file + "]}, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 30}"
		}
		n.apply("leaves", "terminationGracePeriodSeconds: 3600\n  containers: ["+n.does("app", "ignore ; write /v/lives x ; write /v/ready x ; await /v/go ; exit 7",
			"volumeMounts: [{name: v, mountPath: /v}]", "readinessProbe: "+probe("/v/ready"), "startupProbe: "+strings.Replace(probe("/v/lives"), "Threshold: 1", "Threshold: 60", 1),
			"livenessProbe: "+strings.Replace(probe("/v/lives"), "failureThreshold: 1", "failureThreshold: 1, terminationGracePeriodSeconds: 1", 1))+
			"]\n  volumes: [{name: v, emptyDir: {}}]")
		pod := n.untilReady("leaves")
		file := func(name string) string {
			return filepath.Join(n.dir, "pods", "pods", string(pod.UID), "volumes", "kubernetes.io~empty-dir", "v", name)
		}
		becomes := func(ready corev1.ConditionStatus) {
			GinkgoHelper()
			n.until("leaves", func(g Gomega, pod *corev1.Pod) {
				g.Expect(pod.DeletionTimestamp).NotTo(BeNil())
				g.Expect(condition(pod, corev1.PodReady)).To(Equal(ready))
				g.Expect(first(g, pod).State.Running).NotTo(BeNil())
			})
		}
		n.delete("leaves")
		becomes(corev1.ConditionTrue) // its end alone changes nothing
		Expect(os.Remove(file("lives"))).To(Succeed())
		for range 2 {
			Expect(os.Remove(file("ready"))).To(Succeed())
			becomes(corev1.ConditionFalse)
			Expect(os.WriteFile(file("ready"), nil, 0o600)).To(Succeed())
			becomes(corev1.ConditionTrue)
		}
		Expect(os.WriteFile(file("go"), nil, 0o600)).To(Succeed())
		last := n.gone(ctx, "leaves")
		Expect(first(Default, last).State.Terminated.ExitCode).To(BeEquivalentTo(7), "it ended itself")
		Expect(condition(last, corev1.PodReady)).To(Equal(corev1.ConditionFalse))
	})
}
