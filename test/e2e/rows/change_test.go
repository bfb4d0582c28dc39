package rows_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

func init() { rows = append(rows, sizes, streams, users, evictions) }

// sized is a pod that keeps its UID whatever it asks for.
func (n *node) sized(memory, policy string) {
	n.write("sized.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: sized, uid: 6e2c5b1c-0b0e-4a52-9a0b-7f6c7a3f0002}\nspec: {terminationGracePeriodSeconds: 1, containers: ["+
		n.does("app", "forever", "resources: {limits: {memory: "+memory+"}}", "resizePolicy: [{resourceName: memory, restartPolicy: "+policy+"}]")+"]}\n")
}

func sizes(n *node) {
	for policy, restarts := range map[string]int32{"NotRequired": 0, "RestartContainer": 1} {
		It("is given more memory in place, with policy "+policy, func() {
			n.sized("32Mi", policy)
			before := n.untilReady("sized").Status.ContainerStatuses[0]
			n.sized("64Mi", policy)
			pod := n.until("sized", func(g Gomega, pod *corev1.Pod) {
				s := first(g, pod)
				g.Expect(s.Resources).NotTo(BeNil())
				g.Expect(s.Resources.Limits.Memory().Value()).To(BeEquivalentTo(64 << 20))
				g.Expect(s.RestartCount).To(Equal(restarts))
				g.Expect(s.State.Running).NotTo(BeNil())
				g.Expect(condition(pod, corev1.PodResizeInProgress)).NotTo(Equal(corev1.ConditionTrue))
			})
			if restarts == 0 {
				Expect(pod.Status.ContainerStatuses[0].ContainerID).To(Equal(before.ContainerID))
			}
			Expect(limits(n, pod)).To(ContainElement("67108864"))
		})
	}
}

// limits are those of memory that any cgroup of a pod's containers has.
func limits(n *node, pod *corev1.Pod) (found []string) {
	for _, pattern := range []string{"/sys/fs/cgroup/memory%s/memory.limit_in_bytes", "/sys/fs/cgroup%s/memory.max"} {
		files, _ := filepath.Glob(fmt.Sprintf(pattern, n.cgroup+"/pods/*/pod"+string(pod.UID)+"/*"))
		for _, f := range files {
			if data, err := os.ReadFile(f); err == nil {
				found = append(found, strings.TrimSpace(string(data)))
			}
		}
	}
	return found
}

// heard is written by one and read by another.
type heard struct {
	mu   sync.Mutex
	text strings.Builder
}

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.Write(p)
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.String()
}

func streams(n *node) {
	It("runs commands for those who ask, by its name and its container's", func(ctx SpecContext) {
		n.apply("streams", "containers: ["+n.does("app", "forever")+"]")
		n.untilReady("streams")
		var out heard
		code, err := n.manager.Exec(ctx, "default", "streams", "app", runtimeiface.ExecSpec{Command: []string{"/prog", "print", "hi", ";", "exit", "4"}, Stdout: &out})
		Expect(err).NotTo(HaveOccurred())
		Expect(code).To(Equal(4))
		Expect(out.String()).To(Equal("hi\n"))
	})

	It("hears those who are attached", func(ctx SpecContext) {
		n.apply("attached", "restartPolicy: Never\n  containers: ["+n.does("app", "stdin", "stdin: true, stdinOnce: true")+"]")
		n.untilReady("attached")
		var out heard
		Expect(n.manager.Attach(ctx, "default", "attached", "app", runtimeiface.AttachSpec{Stdin: strings.NewReader("echo\n"), Stdout: &out})).To(Succeed())
		Expect(out.String()).To(Equal("echo\n"))
		n.untilPhase("attached", corev1.PodSucceeded)
	})
}

func users(n *node) {
	It("has user IDs of its own if it does not want the node's", func() {
		got := n.prints("users", "cat /proc/self/uid_map ; write /v/f data ; ids", "\n  hostUsers: false\n  volumes: [{name: v, emptyDir: {}}]", "volumeMounts: [{name: v, mountPath: /v}]")
		Expect(got).To(MatchRegexp(`^\s*0\s+[1-9]\d+\s+65536\n0 0`))
	})
}

func evictions(n *node) {
	It("that writes more than its volume may hold is evicted, and stays so", func() {
		n.apply("full", "containers: ["+n.does("app", "forever", "volumeMounts: [{name: v, mountPath: /v}]")+
			"]\n  volumes: [{name: v, emptyDir: {sizeLimit: 4Ki}}]")
		pod := n.until("full", func(g Gomega, pod *corev1.Pod) { g.Expect(pod.Status.Phase).NotTo(BeEmpty()) })
		dir := filepath.Join(n.dir, "pods", "pods", string(pod.UID), "volumes", "kubernetes.io~empty-dir", "v")
		Eventually(dir, patience).Should(BeADirectory())
		Expect(os.WriteFile(filepath.Join(dir, "much"), make([]byte, 1<<20), 0o600)).To(Succeed())
		status := n.untilPhase("full", corev1.PodFailed).Status
		Expect(status.Reason).To(Equal("Evicted"))
		Expect(status.Message).To(ContainSubstring(`"v"`))
		n.stop()
		n.start()
		Consistently(func() corev1.PodPhase {
			if pod := n.pod("full"); pod != nil {
				return pod.Status.Phase
			}
			return corev1.PodFailed // not read yet
		}, "1s").Should(Equal(corev1.PodFailed))
	})
}
