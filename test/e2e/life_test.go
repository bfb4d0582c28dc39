package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
)

var _ = Describe("a running pod", func() {
	It("gets other resources in place, across a kill of the agent", func() {
		n := newNode()
		n.start()
		pod := func(cpu, memory string) string {
			return fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sized", "uid": "5a6e0000-0000-4000-8000-000000000001"},
"spec": {"terminationGracePeriodSeconds": 1, "containers": [
  {"name": "main", "image": "localhost:5010/demo:1", "args": ["sleep", "sized"], "resources": {"limits": {"cpu": %q, "memory": %q}},
   "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}]},
  {"name": "other", "image": "localhost:5010/demo:1", "args": ["sleep", "other"], "resources": {"limits": {"cpu": %q, "memory": "32Mi"}},
   "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]}]}}`, cpu, memory, cpu)
		}
		Expect(n.Write("sized.json", pod("100m", "64Mi"))).To(Succeed())
		n.awaitReady("sized")
		main, other := n.process("/bin/demo", "sleep"), 0
		for _, pid := range n.processes("/bin/demo", "sleep") {
			if strings.Contains(cmdline(pid), "other") {
				other = pid
			} else {
				main = pid
			}
		}
		Expect(memoryLimit(main)).To(Equal(int64(64 << 20)))
		Expect(quota(main)).To(HavePrefix("10000"))

		Expect(n.Write("sized.json", pod("200m", "128Mi"))).To(Succeed())
		n.awaitSize("sized", "200m", "128Mi")
		Expect(memoryLimit(main)).To(Equal(int64(128<<20)), "the same process, another limit")
		Expect(quota(main)).To(HavePrefix("20000"))
		Expect(memoryLimit(main, "..")).To(Equal(int64(160<<20)), "the pod's cgroup")
		Expect(quota(main, "..")).To(HavePrefix("40000"))
		status := n.pod("sized").Status
		Expect(status.ContainerStatuses[0].RestartCount).To(BeZero())
		Expect(status.ContainerStatuses[1].RestartCount).To(BeEquivalentTo(1), "its policy is to restart")
		Eventually(func() bool { return alive(other) }).WithTimeout(time.Minute).Should(BeFalse(), "its policy is to restart")

		n.kill()
		Expect(n.Write("sized.json", pod("200m", "48Mi"))).To(Succeed())
		n.start()
		n.awaitSize("sized", "200m", "48Mi")
		Expect(alive(main)).To(BeTrue())
		Expect(memoryLimit(main)).To(Equal(int64(48 << 20)))
		Expect(memoryLimit(main, "..")).To(Equal(int64(80 << 20)))

		Expect(n.Write("sized.json", pod("200m", "8Ki"))).To(Succeed())
		Eventually(func() string { return n.why("sized") }).WithTimeout(time.Minute).Should(ContainSubstring("below current usage"))
		Expect(memoryLimit(main)).To(Equal(int64(48<<20)), "not below what is used")
		Expect(conditionOf(n.pod("sized"), corev1.PodResizeInProgress).Reason).To(Equal(corev1.PodReasonError))

		Expect(n.Write("sized.json", strings.Replace(pod("200m", "48Mi"), `"limits": {"cpu": "200m", "memory": "48Mi"}`,
			`"limits": {"cpu": "200m", "memory": "48Mi"}, "requests": {"cpu": "100m"}`, 1))).To(Succeed())
		Eventually(func() corev1.PodCondition { return conditionOf(n.pod("sized"), corev1.PodResizePending) }).WithTimeout(time.Minute).
			Should(HaveField("Message", ContainSubstring("QOS Class may not change")))
		Expect(alive(main)).To(BeTrue())
	})

	It("restarts all its containers in its sandbox when a rule says so", func() {
		n := newNode()
		n.start()
		Expect(n.Write("all.json", `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "all"},
"spec": {"terminationGracePeriodSeconds": 30, "restartPolicy": "Never",
  "initContainers": [{"name": "setup", "image": "localhost:5010/demo:1", "args": ["exit", "0"]}],
  "containers": [
    {"name": "web", "image": "localhost:5010/demo:1", "args": ["web"], "restartPolicy": "Never",
     "restartPolicyRules": [{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]},
    {"name": "clock", "image": "localhost:5010/demo:1", "args": ["clock", "/tmp/clock"]}]}}`)).To(Succeed())
		before := n.awaitReady("all")["all"].Status
		n.listens(before.PodIP)
		_, _ = n.Do("POST", "http://"+before.PodIP+":8080/crash?code=42")
		Eventually(func(g Gomega) {
			after := n.pod("all").Status
			g.Expect(after.PodIP).To(Equal(before.PodIP), "the same sandbox")
			for _, s := range append(after.InitContainerStatuses, after.ContainerStatuses...) {
				g.Expect(s.RestartCount).To(BeEquivalentTo(1), s.Name)
			}
			g.Expect(conditionOf(n.pod("all"), corev1.AllContainersRestarting).Status).To(Equal(corev1.ConditionFalse))
			g.Expect(after.ContainerStatuses[1].LastTerminationState.Terminated).To(HaveField("Reason", "RestartingAllContainers"))
		}).WithTimeout(time.Minute).Should(Succeed())
		n.awaitReady("all")
		Expect(n.why("all")).To(ContainSubstring("container web exited with 42"))
	})

	It("has users of its own, and no pod the same", func() {
		n := newNode()
		n.start()
		for _, name := range []string{"one", "two"} {
			Expect(n.Write(name+".json", fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q},
"spec": {"terminationGracePeriodSeconds": 1, "hostUsers": false, "volumes": [{"name": "data"}],
  "initContainers": [{"name": "note", "image": "localhost:5010/demo:1", "args": ["note", "/data/note", "x"], "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
  "containers": [{"name": "main", "image": "localhost:5010/demo:1", "args": ["check", "/data/note"], "volumeMounts": [{"name": "data", "mountPath": "/data"}]},
    {"name": "stays", "image": "localhost:5010/demo:1", "args": ["sleep", %q]}]}}`, name, name))).To(Succeed())
		}
		maps := map[string]bool{}
		Eventually(func(g Gomega) {
			pids := n.processes("/bin/demo", "sleep")
			g.Expect(pids).To(HaveLen(2))
			for _, pid := range pids {
				text, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", pid))
				g.Expect(err).NotTo(HaveOccurred())
				maps[strings.Join(strings.Fields(string(text)), " ")] = true
			}
		}).WithTimeout(time.Minute).Should(Succeed())
		Expect(maps).To(HaveLen(2))
		Expect(maps).To(HaveKey("0 65536 65536"))
		Expect(maps).To(HaveKey("0 131072 65536"))
		files, err := filepath.Glob(filepath.Join(n.State, "pods", "pods", "*", "volumes", "kubernetes.io~empty-dir", "data", "note"))
		Expect(err).NotTo(HaveOccurred())
		Expect(files).To(HaveLen(2))
		for _, file := range files {
			Expect(owner(file)).To(Equal(65532), "the image's user, as the volume has it and not as the process")
		}
		Eventually(func(g Gomega) {
			g.Expect(n.pod("one").Status.ContainerStatuses).To(ContainElement(HaveField("LastTerminationState.Terminated", HaveField("ExitCode", BeZero()))))
		}).WithTimeout(time.Minute).Should(Succeed(), "the file is there for the pod")
	})

	It("takes a container for a look at another, and keeps all else as it is", func() {
		n := newNode()
		n.start()
		pod := func(more string) string {
			return singleWith("looked", `"args": ["web"]`, more)
		}
		Expect(n.Write("looked.json", pod(""))).To(Succeed())
		before := n.awaitReady("looked")["looked"]
		main := n.process("/bin/demo", "web")
		Expect(n.Write("looked.json", pod(`"ephemeralContainers": [
  {"name": "debug", "image": "localhost:5010/demo:1", "args": ["clock", "/tmp/clock"], "targetContainerName": "main", "stdin": true, "tty": true},
  {"name": "once", "image": "localhost:5010/demo:1", "args": ["exit", "3"]}],`))).To(Succeed())
		Eventually(func(g Gomega) {
			list := n.pod("looked").Status.EphemeralContainerStatuses
			g.Expect(list).To(HaveLen(2))
			g.Expect(list[0].State.Running).NotTo(BeNil(), n.why("looked"))
			g.Expect(list[1].State.Terminated).To(HaveField("ExitCode", BeEquivalentTo(3)))
		}).WithTimeout(time.Minute).Should(Succeed())
		after := n.pod("looked")
		Expect(after.UID).To(Equal(before.UID))
		Expect(after.Status.ContainerStatuses[0].RestartCount).To(BeZero())
		// It is told running a moment before it is the program.
		Eventually(func() []int { return n.processes("/bin/demo", "clock") }).WithTimeout(time.Minute).Should(HaveLen(1))
		debug := n.process("/bin/demo", "clock")
		namespace := func(pid int) string {
			target, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
			Expect(err).NotTo(HaveOccurred())
			return target
		}
		Expect(namespace(debug)).To(Equal(namespace(main)), "it sees main's processes")
		Consistently(func() int32 { return n.pod("looked").Status.EphemeralContainerStatuses[1].RestartCount }).WithTimeout(2 * time.Second).Should(BeZero())
	})

	It("has a terminal or an open standard input if it asks", func() {
		n := newNode()
		n.start()
		Expect(n.Write("stdin.json", `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stdin"},
"spec": {"terminationGracePeriodSeconds": 1, "containers": [
  {"name": "tty", "image": "localhost:5010/demo:1", "args": ["sleep", "tty"], "stdin": true, "tty": true},
  {"name": "pipe", "image": "localhost:5010/demo:1", "args": ["sleep", "pipe"], "stdin": true, "stdinOnce": true},
  {"name": "none", "image": "localhost:5010/demo:1", "args": ["sleep", "none"]}]}}`)).To(Succeed())
		n.awaitReady("stdin")
		inputs := map[string]string{}
		for _, pid := range n.processes("/bin/demo", "sleep") {
			target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/0", pid))
			Expect(err).NotTo(HaveOccurred())
			inputs[strings.Fields(cmdline(pid))[2]] = target
		}
		Expect(inputs).To(HaveKeyWithValue("tty", HavePrefix("/dev/pts/")))
		Expect(inputs).To(HaveKeyWithValue("pipe", HavePrefix("pipe:")))
		Expect(inputs).To(HaveKeyWithValue("none", Not(HavePrefix("/dev/pts/"))))
	})
})

// awaitSize waits until the first container has those limits, and all is done.
func (n *node) awaitSize(name, cpu, memory string) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		pod := n.pod(name)
		g.Expect(ready(pod)).To(BeTrue())
		limits := pod.Status.ContainerStatuses[0].Resources.Limits
		g.Expect(limits.Cpu().String()+" "+limits.Memory().String()).To(Equal(cpu+" "+memory), n.why(name))
		g.Expect(conditionOf(pod, corev1.PodResizeInProgress).Type).To(BeEmpty())
	}).WithTimeout(time.Minute).Should(Succeed())
}

func conditionOf(pod corev1.Pod, kind corev1.PodConditionType) corev1.PodCondition {
	for _, c := range pod.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.PodCondition{}
}
