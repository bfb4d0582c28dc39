package rows_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/runtimeiface"
)

func init() { rows = append(rows, sources, order, restarts, ends, statuses, agents) }

func sources(n *node) {
	It("comes from a file, and not from one that is hidden or a backup", func() {
		text := "apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec: {terminationGracePeriodSeconds: 1, containers: [" + n.does("app", "forever") + "]}\n"
		for _, file := range []string{".hidden.yaml", "backup.yaml~", "edited.yaml.swp"} {
			n.write(file, strings.ReplaceAll(text, "%s", "not-wanted"))
		}
		n.write("wanted.yaml", strings.ReplaceAll(text, "%s", "wanted"))
		n.untilReady("wanted")
		Expect(n.manager.Pods()).To(HaveLen(1))
	})

	It("is refused by the path of a field that is not supported", func() {
		n.write("odd.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: odd}\nspec:\n  volumes: [{name: v, iscsi: {targetPortal: 192.0.2.1, iqn: iqn.2001-04.com.example, lun: 0}}]\n  containers: ["+n.does("app", "forever")+"]\n")
		pod := n.until("odd", func(g Gomega, pod *corev1.Pod) { g.Expect(pod.Status.Reason).To(Equal(podlifecycle.ReasonInvalid)) })
		Expect(pod.Status.Message).To(ContainSubstring("spec.volumes[0].iscsi"))
	})

	It("has the same UID as long as its manifest has the same content", func() {
		n.apply("same", "containers: ["+n.does("app", "forever")+"]")
		before := n.untilReady("same")
		n.clear()
		n.apply("same", "containers: ["+n.does("app", "forever")+"]")
		Expect(n.untilReady("same").UID).To(Equal(before.UID))
		n.apply("same", "containers: ["+n.does("app", "print other ; forever")+"]")
		n.until("same", func(g Gomega, pod *corev1.Pod) {
			g.Expect(pod.UID).NotTo(Equal(before.UID))
			g.Expect(pod.Status.Phase).To(Equal(corev1.PodRunning))
		})
	})

	It("that is made again starts only after the one before is gone", func() {
		runs := filepath.Join(n.dir, "runs")
		Expect(os.Mkdir(runs, 0o777)).To(Succeed())
		DeferCleanup(os.RemoveAll, runs)
		volume := "\n  volumes: [{name: runs, hostPath: {path: " + runs + "}}]\n  terminationGracePeriodSeconds: 30"
		mount := "volumeMounts: [{name: runs, mountPath: /runs}]"
		n.apply("again", "containers: ["+n.does("app", "trap 0 700ms ; append /runs/order 1 ; print trapped ; forever", mount)+"]"+volume)
		first := n.untilReady("again")
		Eventually(n.output, patience).WithArguments("again", "app").Should(Equal("trapped\n"))
		n.apply("again", "containers: ["+n.does("app", "append /runs/order 2 ; forever", mount)+"]"+volume)
		overlap := false
		Eventually(func(g Gomega) {
			list, err := n.rt.ListContainers(GinkgoT().Context(), runtimeiface.ContainerFilter{})
			g.Expect(err).NotTo(HaveOccurred())
			running := map[string]bool{}
			for _, c := range list {
				running[c.SandboxID] = running[c.SandboxID] || c.State == runtimeiface.ContainerRunning
			}
			count := 0
			for _, r := range running {
				if r {
					count++
				}
			}
			overlap = overlap || count > 1
			pod := n.pod("again")
			g.Expect(pod).NotTo(BeNil())
			g.Expect(pod.UID).NotTo(Equal(first.UID))
			g.Expect(pod.Status.Phase).To(Equal(corev1.PodRunning))
		}, patience, 10*time.Millisecond).Should(Succeed())
		Expect(overlap).To(BeFalse(), "the old and the new pod ran together")
		Eventually(func() ([]byte, error) { return os.ReadFile(filepath.Join(runs, "order")) }, patience).Should(BeEquivalentTo("12"))
	})
}

func order(n *node) {
	It("runs init containers one after the other, sidecars before what follows, and the rest then", func() {
		mount := "volumeMounts: [{name: v, mountPath: /v}]"
		n.apply("order", "initContainers:\n  - "+n.does("one", "sleep 100ms ; append /v/log 1", mount)+
			"\n  - "+n.does("side", "append /v/log s ; sleep 300ms ; write /v/up yes ; forever", mount, "restartPolicy: Always",
			`startupProbe: {exec: {command: [/prog, cat, /v/up]}, periodSeconds: 1, failureThreshold: 30}`)+
			"\n  - "+n.does("two", "append /v/log 2", mount)+
			"\n  containers:\n  - "+n.does("app", "cat /v/up ; append /v/log m ; cat /v/log ; print ; forever", mount)+
			"\n  volumes: [{name: v, emptyDir: {}}]")
		pod := n.untilReady("order")
		Eventually(n.output, patience).WithArguments("order", "app").Should(Equal("yes1s2m\n"))
		Expect(pod.Status.InitContainerStatuses).To(HaveLen(3))
		Expect(pod.Status.InitContainerStatuses[0].State.Terminated.Reason).To(Equal("Completed"))
		Expect(pod.Status.InitContainerStatuses[1].State.Running).NotTo(BeNil())
		Expect(*pod.Status.InitContainerStatuses[1].Started).To(BeTrue())
	})

	It("gets a new sandbox when its own is gone, and its init containers run once more", func() {
		n.apply("sandbox", "initContainers: ["+n.does("init", "print init")+"]\n  containers: ["+n.does("app", "forever")+"]")
		pod := n.untilReady("sandbox")
		list, err := n.rt.ListSandboxes(GinkgoT().Context(), runtimeiface.SandboxFilter{UID: string(pod.UID)})
		Expect(err).NotTo(HaveOccurred())
		Expect(list).To(HaveLen(1))
		Expect(n.rt.StopSandbox(GinkgoT().Context(), list[0].ID)).To(Succeed())
		n.until("sandbox", func(g Gomega, pod *corev1.Pod) {
			// Twice if it was tried before the end of the sandbox was known.
			g.Expect(first(g, pod).RestartCount).To(BeElementOf(int32(1), int32(2)))
			g.Expect(pod.Status.InitContainerStatuses[0].RestartCount).To(BeEquivalentTo(1))
			g.Expect(condition(pod, corev1.PodReady)).To(Equal(corev1.ConditionTrue))
		})
		now, err := n.rt.ListSandboxes(GinkgoT().Context(), runtimeiface.SandboxFilter{UID: string(pod.UID)})
		Expect(err).NotTo(HaveOccurred())
		Expect(now[len(now)-1].Attempt + now[0].Attempt).To(BeNumerically(">=", 1))
	})

	It("does not run its init containers again when a main one is restarted", func() {
		n.apply("once", "initContainers: ["+n.does("init", "print init")+"]\n  containers: ["+n.does("app", "sleep 200ms ; exit 1")+"]")
		n.until("once", func(g Gomega, pod *corev1.Pod) {
			g.Expect(first(g, pod).RestartCount).To(BeNumerically(">=", 1))
		})
		Expect(n.pod("once").Status.InitContainerStatuses[0].RestartCount).To(BeZero())
	})
}

func restarts(n *node) {
	for _, c := range []struct {
		policy string
		code   int
		phase  corev1.PodPhase
	}{
		{"Never", 0, corev1.PodSucceeded}, {"Never", 3, corev1.PodFailed}, {"OnFailure", 0, corev1.PodSucceeded},
	} {
		It("with policy "+c.policy+" is "+string(c.phase)+" after exit code "+strconv.Itoa(c.code), func() {
			n.apply("policy", "restartPolicy: "+c.policy+"\n  containers: ["+n.does("app", "exit "+strconv.Itoa(c.code))+"]")
			pod := n.untilPhase("policy", c.phase)
			Expect(pod.Status.ContainerStatuses[0].State.Terminated.ExitCode).To(BeEquivalentTo(c.code))
			Expect(pod.Status.ContainerStatuses[0].RestartCount).To(BeZero())
		})
	}

	for _, policy := range []string{"Always", "OnFailure"} {
		It("with policy "+policy+" is started again at once, and then after a back-off that it shows", func() {
			n.apply("crash", "restartPolicy: "+policy+"\n  containers: ["+n.does("app", "exit 3")+"]")
			pod := n.until("crash", func(g Gomega, pod *corev1.Pod) {
				s := pod.Status.ContainerStatuses
				g.Expect(s).To(HaveLen(1))
				g.Expect(s[0].State.Waiting).NotTo(BeNil())
				g.Expect(s[0].State.Waiting.Reason).To(Equal("CrashLoopBackOff"))
			})
			s := pod.Status.ContainerStatuses[0]
			Expect(s.RestartCount).To(BeEquivalentTo(1))
			Expect(s.State.Waiting.Message).To(ContainSubstring("back-off 10s"))
			Expect(s.LastTerminationState.Terminated.ExitCode).To(BeEquivalentTo(3))
			why, err := n.manager.Why("default", "crash")
			Expect(err).NotTo(HaveOccurred())
			Expect(why.Next).NotTo(BeNil(), "it says when it goes on")
		})
	}

	It("follows the restart rules of a container by its exit code", func() {
		rules := "restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]"
		n.apply("rules", "restartPolicy: Never\n  volumes: [{name: v, emptyDir: {}}]\n  containers: ["+
			n.does("app", "append /v/log x ; run try open /v/second ; run mkdir /v/second ; exit 42", "volumeMounts: [{name: v, mountPath: /v}]", rules)+"]")
		n.until("rules", func(g Gomega, pod *corev1.Pod) {
			g.Expect(first(g, pod).RestartCount).To(BeNumerically(">=", 1))
		})
	})
}

func ends(n *node) {
	It("is told by SIGTERM, runs on for its grace, and is killed then", func() {
		n.apply("deaf", "terminationGracePeriodSeconds: 1\n  containers: ["+n.does("app", "ignore ; print deaf ; forever")+"]")
		n.untilReady("deaf")
		Eventually(n.output, patience).WithArguments("deaf", "app").Should(Equal("deaf\n"))
		begin := time.Now()
		n.clear()
		Expect(time.Since(begin)).To(BeNumerically(">", 900*time.Millisecond))
	})

	It("ends its main containers first, and sidecars after them, the last one first", func() {
		runs := filepath.Join(n.dir, "ends")
		Expect(os.Mkdir(runs, 0o777)).To(Succeed())
		DeferCleanup(os.RemoveAll, runs)
		hook := func(word string) string {
			return "volumeMounts: [{name: runs, mountPath: /runs}], lifecycle: {preStop: {exec: {command: [/prog, append, /runs/order, " + word + "]}}}"
		}
		n.apply("reverse", "terminationGracePeriodSeconds: 30\n  initContainers:\n  - "+n.does("a", "trap 0 ; forever", "restartPolicy: Always", hook("a"))+
			"\n  - "+n.does("b", "trap 0 ; forever", "restartPolicy: Always", hook("b"))+
			"\n  containers:\n  - "+n.does("app", "trap 0 300ms ; forever", hook("m"))+
			"\n  volumes: [{name: runs, hostPath: {path: "+runs+"}}]")
		n.untilReady("reverse")
		n.clear()
		Expect(os.ReadFile(filepath.Join(runs, "order"))).To(BeEquivalentTo("mba"))
	})

	It("leaves neither directory nor cgroup", func() {
		n.apply("clean", "containers: ["+n.does("app", "forever")+"]\n  volumes: [{name: v, emptyDir: {}}]")
		uid := n.untilReady("clean").UID
		Expect(filepath.Join(n.dir, "pods", "pods", string(uid))).To(BeADirectory())
		Expect(cgroups(n, uid)).NotTo(BeEmpty())
		n.clear()
		Eventually(filepath.Join(n.dir, "pods", "pods", string(uid)), patience).ShouldNot(BeADirectory())
		Eventually(func() []string { return cgroups(n, uid) }, patience).Should(BeEmpty())
	})
}

func cgroups(n *node, uid types.UID) (found []string) {
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		for _, class := range []string{"", "/burstable", "/besteffort"} {
			got, _ := filepath.Glob(pattern + n.cgroup + "/pods" + class + "/pod" + string(uid))
			found = append(found, got...)
		}
	}
	return found
}

func statuses(n *node) {
	It("tells phase, conditions, addresses, IDs and class", func() {
		n.apply("status", "containers: ["+n.does("app", "forever", "resources: {requests: {cpu: 10m}}")+"]")
		s := n.untilReady("status").Status
		Expect(s.Phase).To(Equal(corev1.PodRunning))
		for _, c := range []corev1.PodConditionType{
			corev1.PodScheduled, corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady,
		} {
			Expect(condition(n.pod("status"), c)).To(Equal(corev1.ConditionTrue), string(c))
		}
		Expect(s.PodIP).NotTo(BeEmpty())
		Expect(s.PodIPs[0].IP).To(Equal(s.PodIP))
		Expect(s.HostIP).To(Equal(nodeIP.String()))
		Expect(s.QOSClass).To(Equal(corev1.PodQOSBurstable))
		Expect(s.StartTime).NotTo(BeNil())
		Expect(s.ContainerStatuses[0].ContainerID).To(ContainSubstring("://"))
		Expect(s.ContainerStatuses[0].ImageID).NotTo(BeEmpty())
		Expect(*s.ContainerStatuses[0].Started).To(BeTrue())
	})

	It("brings the last words of a container, from their file or from its log", func() {
		n.apply("words", "restartPolicy: Never\n  containers:\n  - "+n.does("file", "write /dev/termination-log adieu")+
			"\n  - "+n.does("log", "print farewell ; exit 1", "terminationMessagePolicy: FallbackToLogsOnError"))
		s := n.untilPhase("words", corev1.PodFailed).Status.ContainerStatuses
		Expect(s[0].State.Terminated.Message).To(Equal("adieu"))
		Expect(s[1].State.Terminated.Message).To(ContainSubstring("farewell"))
	})

	It("tells an end by lack of memory", func() {
		n.apply("greedy", "restartPolicy: Never\n  containers: ["+n.does("app", "hold 100000000 ; forever", "resources: {limits: {memory: 20Mi}}")+"]")
		end := n.untilPhase("greedy", corev1.PodFailed).Status.ContainerStatuses[0].State.Terminated
		Expect(end.Reason).To(Equal("OOMKilled"))
		Expect(end.ExitCode).To(BeEquivalentTo(137))
	})
}

func agents(n *node) {
	It("does not notice that its agent is gone and another comes", func() {
		n.apply("steady", "containers: ["+n.does("app", "lines 100000 5ms ; forever", "readinessProbe: {exec: {command: [/prog, exit, \"0\"]}, periodSeconds: 1}")+"]")
		n.apply("crashed", "containers: ["+n.does("app", "sleep 100ms ; exit 3")+"]")
		before := n.untilReady("steady").Status.ContainerStatuses[0]
		n.until("crashed", func(g Gomega, pod *corev1.Pod) {
			g.Expect(first(g, pod).RestartCount).To(BeEquivalentTo(1))
		})
		n.stop()
		n.start()
		after := n.until("steady", func(g Gomega, pod *corev1.Pod) { g.Expect(pod.Status.ContainerStatuses).To(HaveLen(1)) })
		Expect(after.Status.ContainerStatuses[0].ContainerID).To(Equal(before.ContainerID))
		Expect(after.Status.ContainerStatuses[0].RestartCount).To(BeZero())
		Expect(condition(after, corev1.PodReady)).To(Equal(corev1.ConditionTrue), "it stays ready")
		Consistently(func() corev1.ConditionStatus { return condition(n.pod("steady"), corev1.PodReady) }, "2s", "20ms").Should(Equal(corev1.ConditionTrue))
		Expect(n.pod("crashed").Status.ContainerStatuses[0].RestartCount).To(BeNumerically(">=", 1))
	})
}
