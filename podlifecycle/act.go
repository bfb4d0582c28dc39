package podlifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle/volume"
	"github.com/nodekit/nodekit/runtimeiface"
)

// Reasons of faults that are not waiting reasons of containers.
const (
	reasonKill   = "KillContainerError"
	reasonRemove = "RemoveError"
	// reasonRefresh is of volumes, and holds up nothing but their next refresh.
	reasonRefresh = "RefreshError"
)

// Time limits of single calls: a runtime that hangs longer has lost the call,
// and the next look tells what became of it.
const (
	sandboxTimeout   = 4 * time.Minute
	containerTimeout = 2 * time.Minute
	teardownTimeout  = 2 * time.Minute
	killSlack        = 30 * time.Second
)

// flight is an action under way.
type flight struct {
	Flight
	action  Action
	record  int
	began   time.Time
	cancel  context.CancelFunc
	shorten chan time.Time // of a kill
}

// result is what a flight brings home.
type result struct {
	lane string
	err  error
	at   time.Time // when it ended
	// cancelled: its context had ended.
	cancelled bool
	// then changes the worker's own state, in its goroutine.
	then func()
}

// begin does one action, in a goroutine of its own.
func (w *worker) begin(ctx context.Context, pod *corev1.Pod, a Action, now time.Time) {
	lane := a.Container
	rec := Record{Time: now, Container: a.Container, Rule: a.Rule, Input: a.Input, Action: describe(a), Reason: a.Reason}
	if f := w.flights[lane]; f != nil {
		w.steer(f, a, rec)
		return
	}
	if a.Type == ActionCancel {
		return // it landed meanwhile
	}
	w.mu.Lock()
	number := w.ring.add(rec, true)
	w.mu.Unlock()
	flightCtx, cancel := context.WithCancel(ctx)
	f := &flight{Flight: Flight{Type: a.Type, ID: a.ID, Deadline: a.Deadline}, action: a, record: number, began: now,
		cancel: cancel, shorten: make(chan time.Time, 1)}
	if a.Type == ActionPull {
		f.Image = a.Image
	}
	if a.Type == ActionKill {
		w.kills[a.ID] = Kill{Rule: a.Rule, Message: a.Reason}
	}
	w.flights[lane] = f
	w.log.V(4).Info("action", "action", describe(a), "container", a.Container, "rule", a.Rule, "reason", a.Reason)
	if a.Type == ActionKill {
		w.mu.Lock()
		w.deadlines[lane] = a.Deadline
		w.mu.Unlock()
	}
	w.begins(a)
	do := w.doer(pod, a, f)
	if a.Type == ActionPersist { // there is nothing else to do for the pod meanwhile
		then, err := do(flightCtx)
		w.land(result{lane, err, w.m.config.Clock.Now(), false, then})
		w.wake()
		return
	}
	go func() {
		then, err := do(flightCtx)
		w.done <- result{lane, err, w.m.config.Clock.Now(), flightCtx.Err() != nil, then}
	}()
}

// unseen tells that an action which has just gone well is asked for again: the
// runtime shows a view older than its own answer. It is given time, because
// acting on that would go round without end.
func (w *worker) unseen(a Action, now time.Time) bool {
	if w.flights[a.Container] != nil || w.lastDone[a.Container] != actionKey(a) || a.Type == ActionPull || a.Type == ActionRefresh {
		return false
	}
	delete(w.lastDone, a.Container) // once is enough: then it is done again
	w.mu.Lock()
	w.ring.add(Record{Time: now, Container: a.Container, Rule: "observe", Action: "wait", Reason: "the runtime does not show yet: " + describe(a)}, false)
	w.mu.Unlock()
	w.faults[a.Container] = fault{Fault: Fault{Message: "the runtime does not show yet: " + describe(a), At: now, RetryAt: now.Add(staleRetry)}}
	return true
}

func actionKey(a Action) string {
	return fmt.Sprintln(a.Type, a.ID, a.Attempt, a.Image, a.Resource, a.Size)
}

// steer changes a flight: cancelled, or a kill made faster.
func (w *worker) steer(f *flight, a Action, rec Record) {
	switch {
	case a.Type == ActionCancel:
		f.Cancelled = true
		f.cancel()
	case a.Type == ActionKill && f.Type == ActionKill:
		f.Deadline = a.Deadline
		w.mu.Lock()
		w.deadlines[a.Container] = a.Deadline
		w.mu.Unlock()
		select { // only the newest counts
		case <-f.shorten:
		default:
		}
		f.shorten <- a.Deadline
	default:
		return
	}
	rec.Result = "done"
	w.mu.Lock()
	w.ring.add(rec, false)
	w.mu.Unlock()
}

// doer gives what an action does. It runs outside of the worker's goroutine
// and touches nothing of it.
func (w *worker) doer(pod *corev1.Pod, a Action, f *flight) func(context.Context) (func(), error) {
	rt := w.m.config.Runtime
	limited := func(limit time.Duration, do func(context.Context) error) func(context.Context) (func(), error) {
		return func(ctx context.Context) (func(), error) {
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			return nil, do(ctx)
		}
	}
	c := containerOf(pod, a.Container)
	switch a.Type {
	case ActionPrepare:
		size := w.cgroupSize(pod)
		return func(ctx context.Context) (func(), error) {
			err := w.prepare(ctx, pod, size)
			return func() {
				w.prepared = err == nil
				if err == nil && w.m.config.Cgroups != nil {
					w.size = &size
				}
			}, err
		}
	case ActionRefresh:
		return w.refresh(pod)
	case ActionRunSandbox:
		return limited(sandboxTimeout, func(ctx context.Context) error { return w.runSandbox(ctx, pod, a) })
	case ActionStopSandbox:
		return limited(sandboxTimeout, func(ctx context.Context) error { return rt.StopSandbox(ctx, a.ID) })
	case ActionRemoveSandbox:
		return limited(sandboxTimeout, func(ctx context.Context) error { return rt.RemoveSandbox(ctx, a.ID) })
	case ActionPull:
		return func(ctx context.Context) (func(), error) { return w.pull(ctx, pod, c, a) }
	case ActionCreate:
		img, sandbox := w.images[a.Container], w.sandbox(a.ID)
		return func(ctx context.Context) (func(), error) { return w.create(ctx, pod, c, a, sandbox, img) }
	case ActionStartAll:
		images := map[string]imageState{}
		for _, one := range a.Group {
			images[one.Container] = w.images[one.Container]
		}
		sandbox := w.sandbox(a.ID)
		return func(ctx context.Context) (func(), error) { return w.startAll(ctx, pod, a, sandbox, images) }
	case ActionStart:
		return limited(containerTimeout, func(ctx context.Context) error { return w.start(ctx, a.ID) })
	case ActionPostStart:
		host := w.podIP()
		return func(ctx context.Context) (func(), error) { return w.postStart(ctx, pod, c, a.ID, host) }
	case ActionKill:
		host := w.podIP()
		return func(ctx context.Context) (func(), error) { return nil, w.kill(ctx, pod, c, a, host, f.shorten) }
	case ActionResize:
		return func(ctx context.Context) (func(), error) { return w.resize(ctx, pod, a) }
	case ActionRemove:
		return limited(containerTimeout, func(ctx context.Context) error { return rt.RemoveContainer(ctx, a.ID) })
	case ActionPersist:
		unsaved := w.saveErr
		return func(context.Context) (func(), error) {
			err := unsaved // of the save just before
			if err == nil {
				err = w.m.journal.Sync()
			}
			return func() { w.ended.Persisted = err == nil }, err
		}
	case ActionTeardown:
		forget, cgroup := w.forgets(), w.cgroup
		return func(ctx context.Context) (func(), error) {
			err := w.teardown(ctx, pod, cgroup, forget)
			return func() { w.ended.Torn = err == nil; w.prepared = false }, err
		}
	}
	return func(context.Context) (func(), error) { return nil, fmt.Errorf("action %q: unknown", a.Type) }
}

func (w *worker) forgets() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ending != nil && w.ending.Forget
}

// land takes a flight's result in.
func (w *worker) land(r result) {
	f := w.flights[r.lane]
	delete(w.flights, r.lane)
	if f.Type != ActionPrepare && f.Type != ActionPull && f.Type != ActionRefresh {
		w.looked = time.Time{} // the view must be newer than the action
	}
	f.cancel()
	now := w.m.config.Clock.Now()
	took := r.at.Sub(f.began)
	word := "done"
	switch {
	case r.cancelled && r.err != nil:
		word, r.err = "cancelled", nil
		delete(w.faults, r.lane)
	case r.err != nil:
		word = "failed"
	}
	if r.then != nil {
		r.then()
	}
	w.mu.Lock()
	delete(w.progress, r.lane)
	delete(w.deadlines, r.lane)
	w.ring.finish(f.record, word, r.err, took)
	w.mu.Unlock()
	if word != "cancelled" {
		w.ends(f.action, r.err)
	}
	switch {
	case r.err == nil:
		if word == "done" {
			w.lastDone[r.lane] = actionKey(f.action)
		}
		if word == "done" && f.Type != ActionPull && (f.Type != ActionRefresh || w.faults[r.lane].Reason == reasonRefresh) {
			delete(w.faults, r.lane)
		}
		if f.Type == ActionKill || f.Type == ActionCreate {
			w.log.Info("container "+map[ActionType]string{ActionKill: "killed", ActionCreate: "started"}[f.Type],
				"container", r.lane, "rule", f.action.Rule, "attempt", f.action.Attempt, "duration", took)
		}
	default:
		w.failed(f, r, now)
	}
}

// failed makes a fault of an error, to be shown and tried again.
func (w *worker) failed(f *flight, r result, now time.Time) {
	old := w.faults[r.lane]
	switch {
	case f.Type == ActionPersist:
		w.m.journalFailed(r.err)
	case old.Message == r.err.Error(): // it is known, and its record counts
		w.log.V(4).Info("action failed again", "action", describe(f.action), "container", r.lane, "error", old.Message)
	default:
		w.log.Error(r.err, "action failed", "action", describe(f.action), "container", r.lane)
	}
	if f.Type == ActionPull {
		return // the image's state says when to try again
	}
	if errors.Is(r.err, errExited) {
		delete(w.faults, r.lane)
		return
	}
	n := fault{failures: old.failures + 1}
	n.Reason, n.Message, n.At = "", r.err.Error(), now
	var shown *waitingError
	if errors.As(r.err, &shown) {
		n.Reason, n.config = shown.reason, shown.config
	}
	switch {
	case f.Type == ActionKill:
		n.Reason = reasonKill
	case f.Type == ActionRemove:
		n.Reason = reasonRemove
	case f.Type == ActionPrepare:
		n.config = errors.Is(r.err, volume.ErrMissing)
	case f.Type == ActionRefresh:
		n.Reason, n.config = reasonRefresh, errors.Is(r.err, volume.ErrMissing)
		w.mu.Lock()
		w.stale = true
		w.mu.Unlock()
	}
	n.RetryAt = now.Add(faultDelay(n.failures))
	if n.failures == 1 && errors.Is(r.err, runtimeiface.ErrNotRunning) {
		n.RetryAt = now // its sandbox has just ended: what to do now shows at the next look
	}
	w.faults[r.lane] = n
}

// faultDelay is 1, 2, 4, ... 32 s.
func faultDelay(failures int) time.Duration {
	return time.Second << min(failures-1, 5)
}

// waitingError is an error with the reason that Kubernetes shows for it.
type waitingError struct {
	reason string
	config bool // another ConfigMap or Secret may cure it
	err    error
}

func (e *waitingError) Error() string { return e.err.Error() }
func (e *waitingError) Unwrap() error { return e.err }

func (w *worker) prepare(ctx context.Context, pod *corev1.Pod, size corev1.ResourceRequirements) error {
	if cg := w.m.config.Cgroups; cg != nil {
		if err := cg.Ensure(ctx, w.m.config.QoS.PodCgroup(pod), w.m.config.QoS.PodResources(sized(pod, size))); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	if err := os.MkdirAll(w.m.podDir(pod.UID), 0o750); err != nil {
		return fmt.Errorf("make pod directory: %w", err)
	}
	if err := w.m.config.Volumes.Setup(ctx, pod, w.m.objects()); err != nil {
		return fmt.Errorf("set up volumes%s: %w", inFile(pod), err)
	}
	return nil
}

func (w *worker) refresh(pod *corev1.Pod) func(context.Context) (func(), error) {
	w.mu.Lock()
	w.stale = false
	w.mu.Unlock()
	return func(ctx context.Context) (func(), error) {
		changed, err := w.m.config.Volumes.Update(ctx, pod, w.m.objects())
		if len(changed) > 0 {
			w.log.Info("volumes updated", "volumes", changed)
		}
		return nil, err
	}
}

func (w *worker) teardown(ctx context.Context, pod *corev1.Pod, cgroup string, forget bool) error {
	ctx, cancel := context.WithTimeout(ctx, teardownTimeout)
	defer cancel()
	if err := w.m.config.Volumes.Teardown(ctx, pod.UID); err != nil {
		return fmt.Errorf("tear down volumes: %w", err)
	}
	if cgroup != "" && w.m.config.Cgroups != nil { // that of the containers found here
		if err := w.m.config.Cgroups.Remove(ctx, cgroup); err != nil {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
	if err := w.m.removeCgroups(ctx, pod.UID); err != nil {
		return err
	}
	if forget {
		if err := volume.RemoveTree(ctx, w.m.logDir(pod)); err != nil {
			return fmt.Errorf("remove logs: %w", err)
		}
	}
	return nil
}

func (w *worker) sandbox(id string) runtimeiface.Sandbox {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.seen.sandboxes {
		if s.ID == id {
			return s
		}
	}
	return runtimeiface.Sandbox{}
}

func (w *worker) podIP() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status.PodIP
}

// logDir is where the kubelet would put the logs, below LogRoot.
func (m *Manager) logDir(pod *corev1.Pod) string {
	return filepath.Join(m.config.LogRoot, fmt.Sprintf("%s_%s_%s", pod.Namespace, pod.Name, pod.UID))
}

func containerOf(pod *corev1.Pod, name string) *corev1.Container {
	list := everyContainer(pod)
	if i := slices.IndexFunc(list, func(c corev1.Container) bool { return c.Name == name }); i >= 0 {
		return &list[i]
	}
	return nil
}

// describe names an action in a record.
func describe(a Action) string {
	switch a.Type {
	case ActionKill:
		return fmt.Sprintf("kill attempt %d, grace %v", a.Attempt, a.Grace.Round(time.Millisecond))
	case ActionCreate:
		return fmt.Sprintf("start attempt %d", a.Attempt)
	case ActionStartAll:
		return fmt.Sprintf("start %d containers", len(a.Group))
	case ActionPull:
		return "image " + a.Image
	case ActionResize:
		return fmt.Sprintf("resize %s of attempt %d", a.Resource, a.Attempt)
	case ActionRunSandbox, ActionStopSandbox, ActionRemoveSandbox:
		return fmt.Sprintf("%s %d", a.Type, a.Attempt)
	}
	return string(a.Type)
}
