package rows_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/eviction"
	"github.com/nodekit/nodekit/podlifecycle/eviction/nodeusage"
	"github.com/nodekit/nodekit/runtimeiface"
)

func init() { rows = append(rows, admission, shortage) }

// nodeMemory is what pods have together on a node that is short.
const nodeMemory = 96 << 20

// softGrace is how long half of the memory may be used.
const softGrace = 4 * time.Second

// shortNode is this node with less memory for its pods, if short is set: what
// they use is real.
type shortNode struct {
	*nodeusage.Node
	pods  string // their cgroup
	short atomic.Bool
}

func (s *shortNode) Read(ctx context.Context) (eviction.Reading, error) {
	left := int64(nodeMemory)
	if s.short.Load() {
		used, _, err := s.Cgroup(ctx, s.pods)
		if err != nil {
			return eviction.Reading{}, err
		}
		left = max(0, left-used)
	}
	return eviction.Reading{Signals: map[eviction.Signal]eviction.Observation{
		eviction.MemoryAvailable: {Available: left, Capacity: nodeMemory, Time: time.Now()}}}, nil
}

// eviction keeps limits, and for one spec a quarter of the memory free.
func (n *node) eviction(rt podlifecycle.Runtime) *podlifecycle.Eviction {
	GinkgoHelper()
	usage, err := nodeusage.New(nodeusage.Config{NodeFS: n.dir})
	Expect(err).NotTo(HaveOccurred())
	short := n.shortage != nil && n.shortage.short.Load()
	n.shortage = &shortNode{Node: usage, pods: n.cgroup + "/pods"}
	n.shortage.short.Store(short)
	return &podlifecycle.Eviction{
		Policy: eviction.Config{PressureTransition: time.Second, Critical: func(*corev1.Pod) bool { return false },
			Thresholds: []eviction.Threshold{{Signal: eviction.MemoryAvailable, Below: eviction.Value{Part: 0.25}},
				{Signal: eviction.MemoryAvailable, Below: eviction.Value{Part: 0.5}, Grace: softGrace}}, MaxGrace: time.Second},
		Node: n.shortage, Meter: usage, Disk: usage.Disk, Interval: 200 * time.Millisecond, DiskInterval: 500 * time.Millisecond,
		RootFS: rt.(interface {
			ContainerFilesystem(ctx context.Context, id string) (runtimeiface.Filesystem, error)
		}).ContainerFilesystem,
	}
}

func admission(n *node) {
	for reason, spec := range map[string]string{
		"PodOSNotSupported": "os: {name: windows}",
		"NodeAffinity":      "nodeSelector: {disk: fast}",
		"SysctlForbidden":   "securityContext: {sysctls: [{name: net.core.somaxconn, value: '100'}]}",
	} {
		It("that the node cannot have fails with "+reason, func() {
			n.apply("odd", spec+"\n  containers: ["+n.does("app", "forever")+"]")
			status := n.untilPhase("odd", corev1.PodFailed).Status
			Expect(status.Reason).To(Equal(reason))
			Expect(status.Message).To(HavePrefix("Pod was rejected: "))
		})
	}

	It("of higher priority takes the place of a lower one, and never before that is gone", func() {
		resources := "resources: {requests: {cpu: 3}}"
		n.apply("low", "priority: 1\n  containers: ["+n.does("app", "forever", resources)+"]")
		n.untilReady("low")
		n.apply("high", "priority: 2\n  containers: ["+n.does("app", "forever", resources)+"]")
		n.untilReady("high")
		low := n.pod("low")
		Expect(low.Status.Phase).To(Equal(corev1.PodFailed))
		Expect(low.Status.Reason).To(Equal("Preempting"))
		Expect(condition(low, corev1.DisruptionTarget)).To(Equal(corev1.ConditionTrue))
		ended := low.Status.ContainerStatuses[0].State.Terminated.FinishedAt
		began := n.pod("high").Status.ContainerStatuses[0].State.Running.StartedAt
		Expect(began.Before(&ended)).To(BeFalse())
	})
}

func shortage(n *node) {
	text := strings.Repeat("x", 100<<10)
	evicted := func(name, message string) *corev1.Pod {
		GinkgoHelper()
		pod := n.untilPhase(name, corev1.PodFailed)
		Expect(pod.Status.Reason).To(Equal("Evicted"))
		Expect(pod.Status.Message).To(Equal(message))
		return pod
	}

	atEase := func() {
		GinkgoHelper()
		Eventually(n.manager.NodeConditions, patience).Should(HaveEach(HaveField("Status", corev1.ConditionFalse)))
	}
	runShort := func() {
		n.shortage.short.Store(true)
		DeferCleanup(func() {
			n.shortage.short.Store(false)
			atEase() // or the next pod is refused
		})
	}

	It("that stays within its limits is left alone", func() {
		n.apply("small", "containers: ["+n.does("app", "write /v/f "+text+" ; forever", "volumeMounts: [{name: v, mountPath: /v}]",
			"resources: {limits: {ephemeral-storage: 64Mi}}")+"]\n  volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}]")
		n.untilReady("small")
		Consistently(func() corev1.PodPhase { return n.pod("small").Status.Phase }, 3*time.Second).Should(Equal(corev1.PodRunning))
	})

	for what, steps := range map[string]string{"its own files": strings.Repeat("append /f "+text+" ; ", 8) + "forever", "its log": "line 1000000 ; forever"} {
		It("whose container writes more than its limit into "+what+" is evicted", func() {
			n.apply("writes", "containers: ["+n.does("app", steps, "resources: {limits: {ephemeral-storage: 400Ki}}")+", "+
				n.does("other", "forever", "resources: {limits: {ephemeral-storage: 64Mi}}")+"]")
			evicted("writes", `Container app exceeded its local ephemeral storage limit "400Ki". `)
		})
	}

	It("that uses most above its request goes when memory is short, and others stay", func() {
		runShort()
		n.apply("modest", "containers: ["+n.does("app", "forever", "resources: {requests: {memory: 64Mi}}")+"]")
		n.untilReady("modest")
		atEase()
		n.apply("greedy", "containers: ["+n.does("app", "hold 83886080 ; forever", "resources: {requests: {memory: 1Mi}}")+"]")
		pod := n.untilPhase("greedy", corev1.PodFailed)
		Expect(pod.Status.Reason).To(Equal("Evicted"))
		Expect(pod.Status.Message).To(HavePrefix("The node was low on resource: memory. "))
		Expect(condition(pod, corev1.DisruptionTarget)).To(Equal(corev1.ConditionTrue))
		Expect(slices.ContainsFunc(n.manager.Records(), func(r podlifecycle.Record) bool {
			return r.Rule == podlifecycle.RuleEviction && strings.HasPrefix(r.Reason, "pod default/greedy")
		})).To(BeTrue())
		atEase()
		n.untilReady("modest")
	})

	It("that uses more than its part of half the memory goes after a while, with grace", func() {
		runShort()
		n.apply("large", "containers: ["+n.does("app", "trap 0 ; hold 62914560 ; forever", "resources: {requests: {memory: 1Mi}}")+"]")
		n.untilReady("large")
		Eventually(n.manager.NodeConditions, patience).Should(ContainElement(HaveField("Status", corev1.ConditionTrue)))
		pressed := time.Now()
		pod := n.untilPhase("large", corev1.PodFailed)
		Expect(pod.Status.Reason).To(Equal("Evicted"))
		Expect(time.Since(pressed)).To(BeNumerically(">", softGrace/2), "it had its time")
		Expect(pod.Status.ContainerStatuses[0].State.Terminated.ExitCode).To(BeZero(), "it ended itself")
	})
}
