package podlifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle/probe"
	"github.com/nodekit/nodekit/runtimeiface"
)

// observe looks at the runtime and gathers what is known. The list begins
// after every flight that landed, and what is still in the air stays in
// Flights whatever it does meanwhile: so the view is never older than the
// last action.
func (w *worker) observe(ctx context.Context) (Observed, *corev1.Pod, error) {
	sandboxes, containers, err := w.lists(ctx)
	if err != nil {
		return Observed{}, nil, err
	}
	now := w.m.config.Clock.Now()
	w.learn(containers, now)
	w.outcome(sandboxes, containers)

	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fresh {
		w.fresh = false
		for lane, f := range w.faults {
			if f.config {
				f.RetryAt, f.failures = time.Time{}, 0
				w.faults[lane] = f
			}
		}
	}
	if w.ending != nil && w.ending.Forget && !w.forgetful {
		// An end that was to leave something has become one that leaves nothing.
		w.forgetful, w.ended.Torn = true, false
	}
	for _, c := range w.told {
		w.status.Conditions = withCondition(w.status.Conditions, c)
	}
	clear(w.told)
	o := Observed{
		Sandboxes: sandboxes, Containers: containers,
		Flights: make(map[string]Flight, len(w.flights)), Images: make(map[string]Image, len(w.images)),
		Faults: make(map[string]Fault, len(w.faults)), Verdicts: map[string]Verdicts{},
		Hooks: w.hooks, Kills: w.kills, Messages: w.messages, ExitedFor: map[string]time.Duration{},
		Prepared: w.prepared, Stale: w.stale, Ending: w.ending, Ended: w.ended,
		Rejected: w.rejected, Blocked: w.blocked, Prior: w.status,
		Allocated: w.allocated, ResizePending: w.pending, Actuated: w.actuated, Cgroup: w.size,
		Node: NodeFacts{HostIPs: w.m.config.NodeIPs, Scheme: w.m.scheme(), KeptDead: w.m.config.KeptDead},
	}
	for lane, f := range w.flights {
		o.Flights[lane] = f.Flight
	}
	for name, i := range w.images {
		i.Progress = w.progress[name]
		o.Images[name] = i.Image
	}
	for lane, f := range w.faults {
		o.Faults[lane] = f.Fault
	}
	for _, c := range containers {
		switch c.State {
		case runtimeiface.ContainerRunning:
			o.Verdicts[c.ID] = w.verdictsOf(c.ID)
		case runtimeiface.ContainerExited:
			o.ExitedFor[c.ID] = now.Sub(w.exitSince[c.ID])
		}
	}
	return o, w.pod, nil
}

// lists asks the runtime for the pod, or gives what it said if only actions that
// are none of its business have ended since.
func (w *worker) lists(ctx context.Context) ([]runtimeiface.Sandbox, []runtimeiface.Container, error) {
	now := w.m.config.Clock.Now()
	if age := now.Sub(w.looked); !w.looked.IsZero() && age >= 0 && age < lookAge {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.seen.sandboxes, w.seen.containers, nil
	}
	ctx, cancel := context.WithTimeout(ctx, observeTimeout)
	defer cancel()
	own := map[string]string{LabelPodUID: string(w.uid)}
	sandboxes, err := w.m.config.Runtime.ListSandboxes(ctx, runtimeiface.SandboxFilter{UID: string(w.uid), Labels: own})
	if err != nil {
		return nil, nil, fmt.Errorf("list sandboxes: %w", err)
	}
	containers, err := w.m.config.Runtime.ListContainers(ctx, runtimeiface.ContainerFilter{Labels: own})
	if err != nil {
		return nil, nil, fmt.Errorf("list containers: %w", err)
	}
	w.looked = now
	return sandboxes, containers, nil
}

// learn keeps what belongs to containers by ID, and drops what belongs to
// those that are gone.
func (w *worker) learn(containers []runtimeiface.Container, now time.Time) {
	known := make(map[string]bool, len(containers))
	for _, c := range containers {
		known[c.ID] = true
		switch c.State {
		case runtimeiface.ContainerExited:
			if _, ok := w.exitSince[c.ID]; !ok {
				w.exitSince[c.ID] = now
				w.messages[c.ID] = terminationMessage(c)
			}
		case runtimeiface.ContainerRunning:
			if _, ok := w.hooks[c.ID]; !ok && !w.adopted {
				// Started by an earlier run of the agent, which ran its hook.
				w.mu.Lock()
				w.hooks[c.ID] = Hook{State: HookDone}
				w.mu.Unlock()
			}
		}
	}
	w.adopted = true
	w.mu.Lock()
	defer w.mu.Unlock()
	gone := func(id string) bool { return !known[id] }
	prune(w.hooks, gone)
	prune(w.kills, gone)
	prune(w.actuated, gone)
	prune(w.messages, gone)
	prune(w.exitSince, gone)
	prune(w.seeds, gone)
}

func prune[V any](m map[string]V, gone func(string) bool) {
	maps.DeleteFunc(m, func(id string, _ V) bool { return gone(id) })
}

// outcome drops faults that the runtime shows to be over.
func (w *worker) outcome(sandboxes []runtimeiface.Sandbox, containers []runtimeiface.Container) {
	for _, c := range containers {
		f, ok := w.faults[c.Name]
		switch running := c.State == runtimeiface.ContainerRunning; {
		case !ok || f.Reason == reasonKill || f.Reason == reasonRemove:
		case running != (f.Reason == reasonResize): // of a resize: until it runs no more
			delete(w.faults, c.Name)
		}
	}
}

// verdictsOf gives what the probes say of a running container, or what an
// earlier agent had found before they say anything.
func (w *worker) verdictsOf(id string) Verdicts {
	get := func(kind probe.Kind) probe.Result {
		if result, ok := w.m.probes.Result(id, kind); ok {
			return result
		}
		return w.seeds[id][kind]
	}
	v := Verdicts{Startup: get(probe.Startup), Liveness: get(probe.Liveness), Readiness: get(probe.Readiness)}
	if v.Startup == probe.Failure || v.Liveness == probe.Failure {
		for _, s := range w.m.probes.Status(id) {
			if s.Kind != probe.Readiness && s.Result == probe.Failure && len(s.Attempts) > 0 {
				v.Output = s.Attempts[len(s.Attempts)-1].Output
			}
		}
	}
	return v
}

// verdicts of all running containers, for the journal. w.mu is held.
func (w *worker) verdicts() map[string]map[probe.Kind]probe.Result {
	all := map[string]map[probe.Kind]probe.Result{}
	for _, c := range w.seen.containers {
		if c.State != runtimeiface.ContainerRunning {
			continue
		}
		of := map[probe.Kind]probe.Result{}
		for _, kind := range []probe.Kind{probe.Startup, probe.Liveness, probe.Readiness} {
			if result, ok := w.m.probes.Result(c.ID, kind); ok && result != probe.Unknown {
				of[kind] = result
			}
		}
		if len(of) > 0 {
			all[c.ID] = of
		} else if seed := w.seeds[c.ID]; len(seed) > 0 {
			all[c.ID] = seed
		}
	}
	return all
}

// look tells in short how the pod stands in the runtime, to see by a list of
// everything whether a worker missed something.
func look(sandboxes []runtimeiface.Sandbox, containers []runtimeiface.Container) string {
	words := make([]string, 0, len(sandboxes)+len(containers))
	for _, s := range sandboxes {
		words = append(words, s.ID+string(s.State))
	}
	for _, c := range containers {
		words = append(words, c.ID+string(c.State))
	}
	slices.Sort(words)
	return fmt.Sprint(words)
}

var errCancelled = errors.New("cancelled")
