package podlifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/eviction"
	"github.com/nodekit/nodekit/podlifecycle/qos"
	"github.com/nodekit/nodekit/runtimeiface"
)

// What the simulated node has, and when that is too little.
const (
	simCapacity  = 1000 << 20
	simImageDisk = 200 << 20
	simMaxGrace  = 10 * time.Second
	simRelief    = 20 * time.Second
)

var simThresholds = []eviction.Threshold{
	{Signal: eviction.MemoryAvailable, Below: eviction.Value{Amount: 100 << 20}},
	{Signal: eviction.MemoryAvailable, Below: eviction.Value{Part: 0.3}, Grace: 30 * time.Second},
	{Signal: eviction.NodeFSAvailable, Below: eviction.Value{Part: 0.1}},
	{Signal: eviction.NodeFSAvailable, Below: eviction.Value{Part: 0.2}, Grace: 15 * time.Second},
	{Signal: eviction.ImageFSAvailable, Below: eviction.Value{Part: 0.15}},
	{Signal: eviction.PIDAvailable, Below: eviction.Value{Part: 0.05}},
}

// simNode is what the node has left and what its pods use. The file system of
// images is the fake runtime's, beside ballast. What is asked waits for its turn.
type simNode struct {
	turns *turns
	fake  *turnRuntime
	root  string

	mu      sync.Mutex
	left    map[eviction.Signal]int64
	ballast int64
	memory  map[types.UID]int64
	disk    map[types.UID]int64
	// since when each threshold is met, as this agent has seen, and when each
	// resource was last short for long enough that somebody might go for it.
	since map[eviction.Threshold]time.Time
	short map[string]time.Time
	low   bool // something was, for however short a time
	// born is when the first pod of a UID came, wrote who ever wrote too much.
	born  map[types.UID]time.Time
	wrote map[types.UID]bool
}

func newSimNode(turns *turns, fake *turnRuntime, root string) *simNode {
	n := &simNode{turns: turns, fake: fake, root: root, left: map[eviction.Signal]int64{}, memory: map[types.UID]int64{},
		disk: map[types.UID]int64{}, since: map[eviction.Threshold]time.Time{}, short: map[string]time.Time{},
		born: map[types.UID]time.Time{}, wrote: map[types.UID]bool{}}
	n.relieve()
	return n
}

// relieve gives the node enough of everything.
func (n *simNode) relieve() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, signal := range []eviction.Signal{eviction.MemoryAvailable, eviction.NodeFSAvailable, eviction.PIDAvailable} {
		n.left[signal] = 900 << 20
	}
	n.ballast = 0
	clear(n.disk)
}

// takes says of a new pod what memory it will use.
func (n *simNode) takes(uid types.UID, memory int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.memory[uid] = memory
	if n.born[uid].IsZero() {
		n.born[uid] = time.Now()
	}
}

func (n *simNode) has(signal eviction.Signal, left int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.left[signal] = left
}

func (n *simNode) Read(ctx context.Context) (eviction.Reading, error) {
	n.turns.wait("read node")
	images, err := n.fake.ImageFilesystem(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	r := eviction.Reading{Signals: map[eviction.Signal]eviction.Observation{}}
	for signal, left := range n.left {
		r.Signals[signal] = eviction.Observation{Available: left, Capacity: simCapacity}
	}
	if err == nil {
		r.Signals[eviction.ImageFSAvailable] = eviction.Observation{Available: max(0, images.AvailableBytes-n.ballast), Capacity: simImageDisk}
	}
	for _, t := range simThresholds {
		o, known := r.Signals[t.Signal]
		if !known || o.Available >= t.Below.Of(o.Capacity) {
			delete(n.since, t)
			continue
		}
		if n.since[t].IsZero() {
			n.since[t], n.low = time.Now(), true
		}
		if time.Since(n.since[t]) >= t.Grace {
			n.short[shortOf(t.Signal)] = time.Now()
		}
	}
	return r, err
}

func shortOf(signal eviction.Signal) string {
	switch {
	case signal.Disk():
		return "ephemeral-storage"
	case signal == eviction.PIDAvailable:
		return "pids"
	}
	return "memory"
}

// forget what an agent has seen that is no more.
func (n *simNode) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.since)
}

func (n *simNode) Cgroup(_ context.Context, cgroup string) (memory, processes int64, err error) {
	n.turns.wait("meter ", cgroup)
	_, uid, _ := strings.Cut(cgroup, "/pod")
	uid, _, _ = strings.Cut(uid, "/")
	n.mu.Lock()
	defer n.mu.Unlock()
	if used, known := n.memory[types.UID(uid)]; known {
		return used, used >> 20, nil
	}
	return 0, 0, errors.New("no such cgroup")
}

func (n *simNode) measure(_ context.Context, dir string) (eviction.Disk, error) {
	dir, err := filepath.Rel(n.root, dir)
	n.turns.wait("measure ", dir)
	n.mu.Lock()
	defer n.mu.Unlock()
	for uid, used := range n.disk {
		if strings.HasPrefix(dir, filepath.Join("pods", string(uid))+"/") {
			return eviction.Disk{Bytes: used, Inodes: 1}, err
		}
	}
	return eviction.Disk{}, err
}

func (n *simNode) rootFS(_ context.Context, id string) (runtimeiface.Filesystem, error) {
	n.turns.wait("root file system of ", short(id))
	return runtimeiface.Filesystem{UsedBytes: 1 << 20}, nil
}

func (n *simNode) eviction() *podlifecycle.Eviction {
	return &podlifecycle.Eviction{Node: n, Meter: n, Disk: n.measure, RootFS: n.rootFS, DiskInterval: 20 * time.Second,
		Policy: eviction.Config{Thresholds: simThresholds, MaxGrace: simMaxGrace, PressureTransition: simRelief}}
}

// pressure makes the node short of something, or not any more, or has a pod
// write more than it may.
func (s *sim) pressure() {
	n := s.node
	switch s.rng.IntN(7) {
	case 0:
		n.has(eviction.MemoryAvailable, 50<<20)
	case 1:
		n.has(eviction.MemoryAvailable, 200<<20)
	case 2:
		n.has(eviction.NodeFSAvailable, int64(50+s.rng.IntN(2)*100)<<20)
	case 3:
		n.mu.Lock()
		n.ballast = int64(80+s.rng.IntN(100)) << 20
		n.mu.Unlock()
	case 4:
		n.has(eviction.PIDAvailable, 10<<20)
	case 5:
		if pod := s.desired[s.some()]; pod != nil {
			n.mu.Lock()
			n.disk[pod.UID], n.wrote[pod.UID] = 20<<20, true
			n.mu.Unlock()
		}
	default:
		n.relieve()
	}
}

// evicted checks what was reported of a pod that the node would not keep: it is
// none that the kubelet spares, something was short, and nothing of it runs.
func (s *sim) evicted(pod *corev1.Pod) {
	if qos.Critical(pod) {
		s.violated("pod %s is critical and was evicted: %s", pod.UID, pod.Status.Message)
	}
	s.node.mu.Lock()
	defer s.node.mu.Unlock()
	message := pod.Status.Message
	rest, low := strings.CutPrefix(message, "The node was low on resource: ")
	what, _, _ := strings.Cut(rest, ".")
	switch {
	case low && !s.node.short[what].Before(s.node.born[pod.UID]):
		if target := condition(pod, corev1.DisruptionTarget); target == nil || target.Status != corev1.ConditionTrue || target.Message != message {
			s.violated("pod %s was evicted and is no DisruptionTarget: %+v", pod.UID, target)
		}
	case strings.HasPrefix(message, "Pod was rejected: The node had condition: "):
		if !s.node.low {
			s.violated("pod %s was refused and the node was never short: %s", pod.UID, message)
		}
	case strings.HasPrefix(message, `Usage of EmptyDir volume "cache" exceeds the limit`) && s.node.wrote[pod.UID]:
	default:
		s.violated("pod %s was evicted for nothing: %s", pod.UID, message)
	}
}

// starve has the node, left in peace otherwise, be short of memory until nobody
// is left who may go for it: one goes after the other, and the critical stay.
func (s *sim) starve() error {
	s.note("the node starves")
	s.node.has(eviction.MemoryAvailable, 50<<20)
	spared := map[types.UID]corev1.PodPhase{}
	for _, pod := range s.m.Pods() {
		if qos.Critical(pod) {
			spared[pod.UID] = pod.Status.Phase
		}
	}
	left := 0
	for range 100 {
		if err := s.pass(3 * time.Second); err != nil {
			return err
		}
		going := 0
		left = 0
		for _, pod := range s.m.Pods() {
			if qos.Critical(pod) || ended(pod) || pod.Status.StartTime == nil {
				continue
			}
			left++
			if disruption(pod) != "" {
				going++
			}
		}
		if going > 1 {
			return fmt.Errorf("%d pods are being evicted at once", going)
		}
		if left == 0 {
			break
		}
	}
	if left > 0 {
		return fmt.Errorf("%d pods are left that are not critical, and the node starves", left)
	}
	for _, pod := range s.m.Pods() {
		if was, critical := spared[pod.UID]; critical && was == corev1.PodRunning && pod.Status.Reason == podlifecycle.EndingEvicted {
			return fmt.Errorf("critical pod %s was evicted\n%s", pod.UID, s.why(pod.Name))
		}
	}
	s.node.relieve()
	if err := s.pass(simRelief + 15*time.Second); err != nil {
		return err
	}
	return s.relieved()
}

// relieved tells that a node that has enough says so.
func (s *sim) relieved() error {
	for _, c := range s.m.NodeConditions() {
		if c.Status != corev1.ConditionFalse {
			return fmt.Errorf("the node has enough and says %s", c.Type)
		}
	}
	return nil
}

func ended(pod *corev1.Pod) bool {
	return slices.Contains([]corev1.PodPhase{corev1.PodSucceeded, corev1.PodFailed}, pod.Status.Phase)
}
