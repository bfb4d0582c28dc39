package podlifecycle_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/eviction"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// fakeNode is what a node has left and what its pods use, as the test says.
type fakeNode struct {
	mu      sync.Mutex
	signals map[eviction.Signal]eviction.Observation
	memory  map[string]int64 // by a part of the cgroup's path
	disk    map[string]int64 // by a part of the directory's
	err     error
	reclaim func()
	asked   []eviction.Signal
}

func (n *fakeNode) set(signal eviction.Signal, available int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.signals[signal] = eviction.Observation{Available: available, Capacity: 1000 << 20}
}

func (n *fakeNode) uses(disk bool, part string, amount int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if disk {
		n.disk[part] = amount
	} else {
		n.memory[part] = amount
	}
}

func (n *fakeNode) Read(context.Context) (eviction.Reading, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := eviction.Reading{Signals: map[eviction.Signal]eviction.Observation{}}
	for signal, o := range n.signals {
		r.Signals[signal] = o
	}
	return r, n.err
}

func (n *fakeNode) Cgroup(_ context.Context, cgroup string) (memory, processes int64, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for part, amount := range n.memory {
		if strings.Contains(cgroup, part) {
			return amount, 1, nil
		}
	}
	return 0, 0, errors.New("no such cgroup")
}

func (n *fakeNode) measure(_ context.Context, dir string) (eviction.Disk, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for part, amount := range n.disk {
		if strings.Contains(dir, part) {
			return eviction.Disk{Bytes: amount, Inodes: 1}, nil
		}
	}
	return eviction.Disk{}, nil
}

func (n *fakeNode) collect(_ context.Context, signal eviction.Signal) error {
	n.mu.Lock()
	n.asked = append(n.asked, signal)
	reclaim := n.reclaim
	n.mu.Unlock()
	if reclaim != nil {
		reclaim()
	}
	return nil
}

func newNode() *fakeNode {
	n := &fakeNode{signals: map[eviction.Signal]eviction.Observation{}, memory: map[string]int64{}, disk: map[string]int64{}}
	for _, s := range []eviction.Signal{eviction.MemoryAvailable, eviction.NodeFSAvailable, eviction.ImageFSAvailable, eviction.PIDAvailable} {
		n.set(s, 900<<20)
	}
	return n
}

func evicting(r *rig, n *fakeNode, edits ...func(*podlifecycle.Eviction)) *rig {
	r.tune = func(c *podlifecycle.Config) {
		e := &podlifecycle.Eviction{Node: n, Meter: n, Disk: n.measure, Reclaim: n.collect}
		for _, edit := range edits {
			edit(e)
		}
		c.Eviction = e
	}
	return r
}

func conditions(r *rig) string {
	var out []string
	for _, c := range r.m.NodeConditions() {
		if c.Status == corev1.ConditionTrue {
			out = append(out, string(c.Type)+": "+c.Reason)
		}
	}
	return strings.Join(out, " ")
}

func phases(r *rig, names ...string) string {
	var out []string
	for _, name := range names {
		out = append(out, string(r.pod(name).Status.Phase))
	}
	return strings.Join(out, " ")
}

func memoryRequest(amount string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(amount)}
	}
}

// Short of memory, one pod after the other goes, the next only when the one
// before is gone; they stay Failed over a restart; the condition keeps pods
// without requests out until 5 min after.
func TestEvictionForMemory(t *testing.T) {
	bubble(t, func(t *testing.T) {
		node := newNode()
		r := evicting(newRig(t, lingers), node).start()
		pods := []*corev1.Pod{newPod("a", memoryRequest("1Mi")), newPod("b", memoryRequest("1Mi")), newPod("c", memoryRequest("1Gi")), newPod("crit", criticalPod)}
		r.set(pods...)
		node.uses(false, "uid-a", 100<<20)
		node.uses(false, "uid-b", 200<<20)
		node.uses(false, "uid-c", 300<<20)
		node.uses(false, "uid-crit", 400<<20)
		r.pass(15 * time.Second)
		r.wantRunning("app/0", "app/0", "app/0", "app/0")
		if got := conditions(r); got != "" || len(r.m.NodeConditions()) != 3 {
			t.Errorf("conditions %q of %v", got, r.m.NodeConditions())
		}
		node.set(eviction.MemoryAvailable, 50<<20)
		r.pass(5 * time.Second)
		if got := conditions(r); got != "MemoryPressure: KubeletHasInsufficientMemory" {
			t.Errorf("conditions %q", got)
		}
		if got := phases(r, "a", "b", "c"); got != "Running Failed Running" && got != "Running Running Running" {
			t.Errorf("phases %s", got)
		}
		r.pass(5 * time.Second)
		pod := r.phase("b", corev1.PodFailed)
		message := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container app was using 200Mi, request is 1Mi, has larger consumption of memory. "
		if pod.Status.Reason != "Evicted" || pod.Status.Message != message || disruption(pod) != "True TerminationByKubelet: "+message {
			t.Errorf("victim %s %q, %s", pod.Status.Reason, pod.Status.Message, disruption(pod))
		}
		for name, word := range map[string]string{"b": "[eviction] evict: The node was low on resource: memory", "crit": "[eviction] spare: critical pods are not evicted"} {
			if text := r.why(name); !strings.Contains(text, word) {
				t.Errorf("why %s does not say %q: %s", name, word, text)
			}
		}
		var records []string
		for _, rec := range r.m.Records() {
			records = append(records, rec.String())
		}
		for _, word := range []string{"[eviction] condition True: kubelet has insufficient memory available (MemoryPressure)",
			"[eviction] evict: pod default/b goes first (memory.available is 50Mi, below 100Mi)"} {
			if !strings.Contains(strings.Join(records, "\n"), word) {
				t.Errorf("the node's records do not say %q: %q", word, records)
			}
		}
		r.pass(30 * time.Second)
		if got := phases(r, "a", "b", "c", "crit"); got != "Failed Failed Failed Running" {
			t.Errorf("phases at the end %s", got)
		}

		node.set(eviction.MemoryAvailable, 900<<20)
		r.kill()
		node.set(eviction.MemoryAvailable, 50<<20)
		r.start()
		r.settle()
		pods = append(pods, newPod("late"), newPod("asks", memoryRequest("1Mi")), newPod("late-crit", criticalPod))
		r.set(pods...)
		r.settle()
		if pod := r.phase("b", corev1.PodFailed); pod.Status.Reason != "Evicted" || pod.Status.Message != message {
			t.Errorf("after a restart %s %q", pod.Status.Reason, pod.Status.Message)
		}
		if pod := r.phase("late", corev1.PodFailed); pod.Status.Reason != "Evicted" || pod.Status.Message != "Pod was rejected: The node had condition: [MemoryPressure]. " {
			t.Errorf("refused %s %q", pod.Status.Reason, pod.Status.Message)
		}
		r.ready("asks", true)
		r.ready("late-crit", true)
		node.set(eviction.MemoryAvailable, 900<<20)
		r.pass(5*time.Minute - 10*time.Second)
		if conditions(r) == "" {
			t.Error("the condition went before its time")
		}
		r.pass(20 * time.Second)
		if got := conditions(r); got != "" {
			t.Errorf("condition %s stays", got)
		}
		r.set(append(pods, newPod("later"))...)
		r.settle()
		r.ready("later", true)
	})
}

// Garbage is collected before a pod goes for a disk, and if that is enough none does.
func TestEvictionForDisk(t *testing.T) {
	for _, enough := range []bool{true, false} {
		bubble(t, func(t *testing.T) {
			node := newNode()
			r := evicting(newRig(t), node).start()
			if enough {
				node.reclaim = func() { node.set(eviction.NodeFSAvailable, 900<<20) }
			}
			pods := []*corev1.Pod{newPod("a"), newPod("b", func(p *corev1.Pod) {
				p.Spec.Volumes = []corev1.Volume{{Name: "cache", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			})}
			r.set(pods...)
			node.uses(true, "default_a_uid-a/app", 3<<20) // its logs
			node.uses(true, filepath.Join("uid-b", "volumes", "kubernetes.io~empty-dir", "cache"), 5<<20)
			r.settle()
			node.set(eviction.NodeFSAvailable, 10<<20)
			r.pass(10500 * time.Millisecond)
			if len(r.fake.Calls(runtimetest.OpRemoveImage)) == 0 {
				t.Error("the unused image is still there")
			}
			if len(node.asked) != 1 || node.asked[0] != eviction.NodeFSAvailable {
				t.Errorf("garbage was asked for %v", node.asked)
			}
			if got := conditions(r); got != "DiskPressure: KubeletHasDiskPressure" {
				t.Errorf("conditions %q", got)
			}
			node.set(eviction.NodeFSAvailable, 900<<20)
			r.pass(time.Second)
			want := "Running Failed"
			if enough {
				want = "Running Running"
			}
			if got := phases(r, "a", "b"); got != want {
				t.Errorf("enough %v: phases %s, want %s", enough, got, want)
			}
			r.set(append(pods, newPod("late", memoryRequest("1Mi")))...)
			r.settle()
			if pod := r.phase("late", corev1.PodFailed); pod.Status.Reason != "Evicted" {
				t.Errorf("reason %s", pod.Status.Reason)
			}
		})
	}
}

func limitedPod(p *corev1.Pod) {
	size := resource.MustParse("4Mi")
	p.Spec.Volumes = []corev1.Volume{{Name: "cache", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &size}}}}
}

// A pod that writes more than it may is evicted once that has been measured;
// without somebody to measure it, the pod's records say that nobody does.
func TestLimitsOfDisk(t *testing.T) {
	bubble(t, func(t *testing.T) {
		node := newNode()
		r := evicting(newRig(t), node, func(e *podlifecycle.Eviction) {
			e.RootFS = func(context.Context, string) (runtimeiface.Filesystem, error) {
				return runtimeiface.Filesystem{UsedBytes: 7 << 20}, nil
			}
		}).start()
		container := newPod("b", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("8Mi")}
		})
		r.set(newPod("a", limitedPod), container, newPod("free"))
		node.uses(true, filepath.Join("uid-a", "volumes", "kubernetes.io~empty-dir", "cache"), 4<<20)
		r.pass(3 * time.Minute)
		if got := phases(r, "a", "b", "free"); got != "Running Running Running" {
			t.Fatalf("phases %s", got)
		}
		node.uses(true, filepath.Join("uid-a", "volumes", "kubernetes.io~empty-dir", "cache"), 5<<20)
		node.uses(true, "default_b_uid-b/app", 2<<20)
		r.pass(2 * time.Minute)
		if got := phases(r, "a", "b", "free"); got != "Failed Failed Running" {
			t.Fatalf("phases %s", got)
		}
		for name, message := range map[string]string{"a": `Usage of EmptyDir volume "cache" exceeds the limit "4Mi". `,
			"b": "Pod ephemeral local storage usage exceeds the total limit of containers 8Mi. "} {
			if s := r.pod(name).Status; s.Reason != "Evicted" || s.Message != message || disruption(r.pod(name)) != "" {
				t.Errorf("%s: %s %q %s", name, s.Reason, s.Message, disruption(r.pod(name)))
			}
		}
		if got := conditions(r); got != "" {
			t.Errorf("conditions %s", got)
		}
	})
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		r.set(newPod("a", limitedPod))
		r.settle()
		r.ready("a", true)
		if text := r.why("a"); !strings.Contains(text, "nothing measures all that the pod writes") || !strings.Contains(text, "spec.volumes[0].emptyDir.sizeLimit") {
			t.Errorf("why: %s", text)
		}
		if got := r.m.NodeConditions(); got != nil {
			t.Errorf("conditions without eviction: %v", got)
		}
	})
}

// A soft threshold waits for its grace, then gives pods time; the next one
// goes only when the one before is gone.
func TestSoftEviction(t *testing.T) {
	bubble(t, func(t *testing.T) {
		node := newNode()
		r := evicting(newRig(t, lingers), node, func(e *podlifecycle.Eviction) {
			e.Policy = eviction.Config{MaxGrace: time.Minute, Thresholds: []eviction.Threshold{
				{Signal: eviction.MemoryAvailable, Below: eviction.Value{Amount: 500 << 20}, Grace: 90 * time.Second}}}
		}).start()
		r.set(newPod("a"), newPod("b"))
		node.uses(false, "uid-a", 2<<20)
		node.uses(false, "uid-b", 1<<20)
		r.settle()
		node.set(eviction.MemoryAvailable, 400<<20)
		r.pass(99500 * time.Millisecond) // seen at 10 s
		if got := phases(r, "a", "b"); got != "Running Running" || conditions(r) == "" || strings.Contains(r.why("a"), "ending") {
			t.Fatalf("phases %s, conditions %q: %s", got, conditions(r), r.why("a"))
		}
		r.pass(4 * time.Second) // its program needs 5 s to end
		if !strings.Contains(r.why("a"), "ending (Evicted") || strings.Contains(r.why("b"), "ending (Evicted") {
			t.Fatalf("a: %s\nb: %s", r.why("a"), r.why("b"))
		}
		r.wantRunning("app/0", "app/0")
		r.pass(3 * time.Second)
		if pod := r.phase("a", corev1.PodFailed); status(pod, "app").State.Terminated.ExitCode == 137 {
			t.Errorf("killed: %+v", status(pod, "app"))
		}
		if !strings.Contains(r.why("b"), "ending (Evicted") {
			t.Errorf("b: %s", r.why("b"))
		}
	})
}

// What cannot be read is told once, and nobody goes for it.
func TestUnreadableNode(t *testing.T) {
	bubble(t, func(t *testing.T) {
		node := newNode()
		node.signals, node.err = nil, errors.New("no cgroups here")
		r := evicting(newRig(t), node).start()
		r.set(newPod("a"))
		r.pass(time.Minute)
		r.ready("a", true)
		if got := r.m.NodeConditions(); got != nil {
			t.Errorf("conditions of a node that nobody has seen: %v", got)
		}
	})
}

// endingNode is a node that is being read while its agent ends: what could be read
// until then is short of disk.
type endingNode struct {
	*fakeNode
	reads chan struct{}
}

func (n *endingNode) Read(ctx context.Context) (eviction.Reading, error) {
	n.reads <- struct{}{}
	<-ctx.Done()
	r, _ := n.fakeNode.Read(ctx)
	return r, ctx.Err()
}

// An agent that ends evicts nobody and collects nothing for what it was reading.
func TestEndingAgentEvictsNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		node := &endingNode{newNode(), make(chan struct{}, 10)}
		node.set(eviction.NodeFSAvailable, 50<<20)
		r := evicting(newRig(t, lingers), node.fakeNode, func(e *podlifecycle.Eviction) { e.Node = node }).start()
		r.set(newPod("web"))
		<-node.reads
		r.settle()
		r.stop()
		if len(node.reads) != 0 || len(node.asked) != 0 || len(r.fake.Calls(runtimetest.OpStopContainer)) != 0 {
			t.Errorf("read %d times more, collected for %v, ended %v", len(node.reads), node.asked, r.fake.Calls(runtimetest.OpStopContainer))
		}
	})
}

func TestEvictionConfig(t *testing.T) {
	_, err := podlifecycle.New(podlifecycle.Config{Root: "/x", Eviction: &podlifecycle.Eviction{Interval: -1, Policy: eviction.Config{MaxGrace: -1}},
		AllowedUnsafeSysctls: []string{"vm.x"}})
	for _, word := range []string{"a Runtime is required", "Node and Meter", "intervals", "MaxGrace", "vm.x"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v does not say %q", err, word)
		}
	}
}
