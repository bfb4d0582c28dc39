package podlifecycle

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle/eviction"
	"github.com/nodekit/nodekit/runtimeiface"
)

const (
	readTimeout    = 10 * time.Second
	reclaimTimeout = 2 * time.Minute
	// goneTimeout is how long an evicted pod may take before the next one is
	// looked for, asked every goneEvery. Source: Kubernetes v1.37.0
	// pkg/kubelet/eviction/eviction_manager.go.
	goneTimeout = 30 * time.Second
	goneEvery   = time.Second
)

// NodeReader tells what the node has left; *nodeusage.Node is one.
type NodeReader interface {
	Read(ctx context.Context) (eviction.Reading, error)
}

// PodMeter tells what a cgroup uses, by its path from each hierarchy's root:
// working set in bytes, and processes. *nodeusage.Node is one.
type PodMeter interface {
	Cgroup(ctx context.Context, cgroup string) (memory, processes int64, err error)
}

// Eviction is how pods are evicted, see package eviction.
type Eviction struct {
	// Policy; its zero value is the kubelet's.
	Policy eviction.Config
	// Node is asked each Interval; required.
	Node NodeReader
	// Meter is asked when the node is short of memory or processes; required.
	Meter PodMeter
	// Disk measures a directory, as nodeusage.Node.Disk does. Nil: sizeLimit of
	// emptyDirs and limits of ephemeral-storage are not kept, and nobody is
	// evicted for want of disk.
	Disk func(ctx context.Context, dir string) (eviction.Disk, error)
	// RootFS tells what a container has written into its own file system, in
	// UsedBytes and UsedInodes; ContainerFilesystem of the runtimes oci and cri
	// does. Nil: that counts for nothing, and Why tells of limits that it
	// should count for.
	RootFS func(ctx context.Context, containerID string) (runtimeiface.Filesystem, error)
	// Reclaim collects other garbage before pods are evicted for a disk, beside
	// images that nobody uses, which Manager.Reclaim removes; nil: there is none.
	// It is asked for whatever can be had, not for an amount.
	Reclaim func(ctx context.Context, signal eviction.Signal) error
	// Interval between two looks at the node; 0 means 10 s.
	Interval time.Duration
	// DiskInterval between two measurements of a pod with limits; 0 means 1 min.
	DiskInterval time.Duration
}

// evictor watches the node and ends pods.
type evictor struct {
	m      *Manager
	config Eviction
	policy *eviction.Policy

	mu         sync.Mutex
	conditions map[corev1.NodeConditionType]corev1.NodeCondition
	measured   map[types.UID]diskUsage

	// Of run's goroutine alone.
	state   eviction.State
	leaving map[types.UID]time.Time // evicted then, and perhaps not gone yet
	failing bool                    // the last reading had an error, which is on the log
	short   eviction.Signal         // of what the last look found too little, likewise
}

func newEvictor(m *Manager, config Eviction) (*evictor, error) {
	var errs []error
	if config.Node == nil || config.Meter == nil {
		errs = append(errs, errors.New("the Eviction needs Node and Meter"))
	}
	if config.Interval < 0 || config.DiskInterval < 0 {
		errs = append(errs, errors.New("the Eviction's intervals must not be negative"))
	}
	policy, err := eviction.New(config.Policy)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	if config.Interval == 0 {
		config.Interval = 10 * time.Second
	}
	if config.DiskInterval == 0 {
		config.DiskInterval = time.Minute
	}
	return &evictor{m: m, config: config, policy: policy, conditions: map[corev1.NodeConditionType]corev1.NodeCondition{},
		measured: map[types.UID]diskUsage{}, leaving: map[types.UID]time.Time{}}, nil
}

func (e *evictor) run(ctx context.Context) {
	for e.m.sleep(ctx, e.round(ctx)) {
	}
}

// round looks at the node once, evicts at most one pod for it, and tells when
// to look again.
func (e *evictor) round(ctx context.Context) time.Duration {
	reading, ok := e.read(ctx)
	if !ok || ctx.Err() != nil { // an agent that ends may have read half
		return e.config.Interval
	}
	now := e.m.config.Clock.Now()
	a := e.policy.Assess(e.state, reading, now)
	e.state = a.State
	e.tell(a, now)
	if e.waits(now) {
		return goneEvery
	}
	if victims := e.policy.OverLimit(e.limited(), reading.DedicatedImageFS); len(victims) > 0 {
		for _, v := range victims {
			e.evict(v, v.Signal)
		}
		return goneEvery
	}
	if a.Starved == nil {
		e.short = ""
	} else if e.relieve(ctx, *a.Starved, reading) {
		return goneEvery
	}
	wait := e.config.Interval
	if !a.Next.IsZero() {
		wait = max(time.Millisecond, min(wait, a.Next.Sub(now)))
	}
	return wait
}

// read gives what could be read of the node.
func (e *evictor) read(ctx context.Context) (eviction.Reading, bool) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	reading, err := e.config.Node.Read(ctx)
	if err != nil && !e.failing {
		e.m.config.Logger.Error(err, "node cannot be read whole")
	}
	e.failing = err != nil
	return reading, len(reading.Signals) > 0
}

// waits tells whether a pod that was evicted is still there, for a time.
func (e *evictor) waits(now time.Time) bool {
	for uid, at := range e.leaving {
		if w := e.m.worker(uid); w != nil && now.Sub(at) < goneTimeout {
			w.mu.Lock()
			over := w.over
			w.mu.Unlock()
			if !over {
				return true
			}
		}
		delete(e.leaving, uid)
	}
	return false
}

// relieve frees what the node is short of: garbage first, then one pod, which
// it tells.
func (e *evictor) relieve(ctx context.Context, s eviction.Starved, reading eviction.Reading) bool {
	log := e.m.config.Logger.WithValues("signal", s.Signal, "shortage", s.String())
	if e.short != s.Signal {
		e.short = s.Signal
		log.Info("node is short")
	}
	note := func(action, reason string) {
		e.m.note(Record{Rule: RuleEviction, Input: s.String(), Action: action, Reason: reason})
		log.V(4).Info("eviction decided", "action", action, "reason", reason)
	}
	garbage := !reading.DedicatedImageFS || s.Signal == eviction.ImageFSAvailable || s.Signal == eviction.ImageFSInodes
	if s.Signal.Disk() && garbage {
		e.reclaim(ctx, s.Signal)
		if ctx.Err() != nil {
			return false
		}
		again, ok := e.read(ctx)
		if ok && e.policy.Relieved(again) {
			note("none", "removing unused images and other garbage was enough")
			return false
		}
	}
	if s.Signal.Disk() && e.config.Disk == nil {
		note("none", "nothing measures what pods write, so none is evicted for it")
		return false
	}
	pods := e.usage(ctx, s.Signal)
	if ctx.Err() != nil {
		return false
	}
	victim, spared := e.policy.Pick(s, pods, reading.DedicatedImageFS)
	for _, pod := range spared {
		if w := e.m.worker(pod.UID); w != nil {
			w.record(Record{Time: e.m.config.Clock.Now(), Rule: RuleEviction, Input: string(s.Signal) + " is low", Action: "spare",
				Reason: "critical pods are not evicted"})
		}
	}
	if victim == nil {
		note("none", "there is no pod that may be evicted")
		return false
	}
	note("evict", "pod "+victim.Pod.Namespace+"/"+victim.Pod.Name+" goes first")
	e.evict(*victim, s.String())
	return true
}

// reclaim frees what no pod needs.
func (e *evictor) reclaim(ctx context.Context, signal eviction.Signal) {
	ctx, cancel := context.WithTimeout(ctx, reclaimTimeout)
	defer cancel()
	log := e.m.config.Logger.WithValues("signal", signal)
	freed, err := e.m.Reclaim(ctx)
	if err != nil && ctx.Err() == nil {
		log.Error(err, "unused images could not be removed")
	}
	log.Info("unused images removed", "bytes", freed)
	if e.config.Reclaim == nil {
		return
	}
	if err := e.config.Reclaim(ctx, signal); err != nil && ctx.Err() == nil {
		log.Error(err, "garbage could not be collected")
	}
}

func (e *evictor) evict(v eviction.Victim, input string) {
	w := e.m.worker(v.Pod.UID)
	if w == nil {
		return // it went meanwhile
	}
	now := e.m.config.Clock.Now()
	w.record(Record{Time: now, Rule: RuleEviction, Input: input, Action: "evict", Reason: v.Message})
	w.log.Info("pod is evicted", "signal", v.Signal, "message", v.Message)
	w.end(Ending{Reason: EndingEvicted, Message: v.Message, Disruption: v.Disruption, Since: now, Grace: v.Grace, Failed: true})
	e.leaving[v.Pod.UID] = now
}

// refuse tells why the node takes no such pod now, or "".
func (m *Manager) refuse(pod *corev1.Pod) (reason, message string) {
	if m.evictor == nil {
		return "", ""
	}
	return m.evictor.policy.Refuse(m.evictor.pressure(), pod)
}

// unkept names the limits of a pod that are not kept, or not wholly.
func (m *Manager) unkept(pod *corev1.Pod) []string {
	limits := eviction.Limits(pod)
	if m.evictor == nil || m.evictor.config.Disk == nil {
		return limits
	}
	if m.evictor.config.RootFS == nil {
		return slices.DeleteFunc(limits, func(path string) bool { return !strings.HasSuffix(path, "[ephemeral-storage]") })
	}
	return nil
}
