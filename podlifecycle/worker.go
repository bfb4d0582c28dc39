package podlifecycle

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/nodekit/nodekit/podlifecycle/probe"
	"github.com/nodekit/nodekit/runtimeiface"
)

const (
	observeTimeout = 30 * time.Second
	observeRetry   = time.Second
	staleRetry     = time.Second
	// How long a look at the runtime may serve a second decision.
	lookAge = time.Second
	// How long the runtime's events wait for an action under way, of which they
	// most likely tell, and whose end is looked at anyway.
	linger = 50 * time.Millisecond
)

// worker keeps one pod, by UID, going: observe, plan, act, record, sleep.
type worker struct {
	m        *Manager
	uid      types.UID
	key      string // namespace/name
	log      logr.Logger
	hint     chan struct{} // look again
	news     chan struct{} // the runtime has told something
	done     chan result   // flights that landed
	gone     chan struct{} // closed at the end
	finished chan struct{} // closed once nothing of the pod is left to end

	mu       sync.Mutex
	pod      *corev1.Pod // never changed, only replaced
	status   corev1.PodStatus
	text     []byte // of status, as JSON
	ending   *Ending
	rejected *Rejection
	// allocated is what of the pod's resources was granted, nil before its
	// admission; pending says why not all.
	allocated *Allocation
	pending   *Rejection
	users     uint32 // the first user ID of its own, 0 before its admission
	blocked   string
	stale     bool
	fresh     bool // objects changed: configuration errors count no more
	announce  bool // the pod itself changed: tell of it, whatever its status
	revived   bool // it ended for a shutdown that was called off, and starts anew
	next      *Next
	deadlines map[string]time.Time                            // of kills under way, by container
	over      bool                                            // its end is through: nothing of it takes up the node any more
	told      map[corev1.PodConditionType]corev1.PodCondition // by others, for the next look
	ring      ring
	seen      seen
	progress  map[string]string // of pulls, by container

	events  events
	hostsMu sync.Mutex

	// Of the manager's goroutine alone.
	launched bool
	due      bool   // there is news for it, see wakeDue
	admitted bool   // it was let in once and is not judged again
	objects  string // of the ConfigMaps and Secrets it refers to, when last told

	// Of the worker's goroutine alone.
	looked    time.Time // when seen was asked for; zero: it is out of date
	flights   map[string]*flight
	images    map[string]imageState
	faults    map[string]fault
	hooks     map[string]Hook
	kills     map[string]Kill
	messages  map[string]string
	exitSince map[string]time.Time
	actuated  map[string]corev1.ResourceRequirements // by container ID, where a resize made another size
	size      *corev1.ResourceRequirements           // of the pod's cgroup, nil before it was made
	lastDone  map[string]string                      // by lane: the action that last went well
	adopted   bool                                   // the first look has been taken
	prepared  bool
	ended     Ended
	forgetful bool   // that the pod is to be forgotten has been seen
	cgroup    string // as its sandboxes say
	seeds     map[string]map[probe.Kind]probe.Result
	probing   string // what probes were last told
	saved     saved  // what was last written to the journal, but for records
	saveErr   error
	links     map[string]string // of logs: target by name
}

// saved is a state as the journal has it.
type saved struct{ status, rest []byte }

// seen is the newest look at the runtime.
type seen struct {
	sandboxes  []runtimeiface.Sandbox
	containers []runtimeiface.Container
}

type imageState struct {
	Image
	user     string
	volumes  map[string]string // IDs of image volumes, by name of the volume
	failures int
}

type fault struct {
	Fault
	failures int
	config   bool // new objects may end it at once
}

func (m *Manager) newWorker(pod *corev1.Pod, state podState) *worker {
	w := &worker{
		m: m, uid: pod.UID, key: pod.Namespace + "/" + pod.Name, log: m.config.Logger.WithValues("pod", pod.Namespace+"/"+pod.Name, "podUID", pod.UID),
		hint: make(chan struct{}, 1), news: make(chan struct{}, 1), done: make(chan result), gone: make(chan struct{}), finished: make(chan struct{}),
		pod: pod, status: state.Status, text: encode(state.Status), ending: state.Ending.resumed(m.config.Clock.Now()), ring: ring{max: m.config.Records},
		told: map[corev1.PodConditionType]corev1.PodCondition{}, progress: map[string]string{}, deadlines: map[string]time.Time{}, flights: map[string]*flight{}, images: map[string]imageState{},
		users: state.Users, allocated: state.Allocated, size: state.Size, actuated: map[string]corev1.ResourceRequirements{},
		faults: map[string]fault{}, hooks: map[string]Hook{}, kills: map[string]Kill{},
		messages: map[string]string{}, exitSince: map[string]time.Time{}, lastDone: map[string]string{}, seeds: state.Verdicts,
		announce: true,
	}
	for id, h := range state.Hooks {
		w.hooks[id] = h
	}
	for id, k := range state.Kills {
		w.kills[id] = k
	}
	for id, size := range state.Actuated {
		w.actuated[id] = size
	}
	for _, r := range state.Records {
		w.ring.add(r, false)
	}
	return w
}

// wake makes the worker look again soon. It never blocks.
func (w *worker) wake() {
	select {
	case w.hint <- struct{}{}:
	default:
	}
}

// heard makes the worker look again, soon or after what is under way.
func (w *worker) heard() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// end asks for the pod's end; repeated, it can only become faster.
func (w *worker) end(e Ending) {
	w.merge(e)
	w.wake()
}

// decideEnd is end by the manager's goroutine, which wakes the worker once.
func (w *worker) decideEnd(e Ending) {
	w.merge(e)
	w.due = true
}

func (w *worker) merge(e Ending) {
	w.mu.Lock()
	if e.Forget && (w.ending == nil || !w.ending.Forget) {
		w.announce = true // it has a deletion timestamp now
	}
	w.ending = w.ending.Merge(e)
	w.mu.Unlock()
}

// run goes on until the pod is gone for good, which it tells, or ctx ends.
func (w *worker) run(ctx context.Context) (forgotten bool) {
	defer close(w.gone)
	timer := w.m.config.Clock.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if ctx.Err() != nil { // whatever else is to be seen to
			w.leave()
			return false
		}
		forgotten, wait := w.step(ctx)
		if forgotten {
			return true
		}
		if wait <= 0 {
			wait = time.Hour
		}
		if !w.rest(ctx, timer, wait) {
			w.leave()
			return false
		}
		w.landAll()
	}
}

// rest sleeps until there is something to do, or ctx ends.
func (w *worker) rest(ctx context.Context, timer clock.Timer, wait time.Duration) bool {
	reset(timer, wait)
	defer timer.Stop()
	for lingering := false; ; {
		select {
		case <-w.hint:
			w.looked = time.Time{}
		case <-w.news:
			w.looked = time.Time{}
			if w.starting() {
				if !lingering && wait > linger && w.runs() {
					reset(timer, linger)
				}
				lingering = true
				continue
			}
		case r := <-w.done:
			w.land(r)
		case <-timer.C():
			w.looked = time.Time{}
		case <-ctx.Done():
			return false
		}
		return true
	}
}

// starting tells whether something is under way that is quick and changes what
// the runtime tells.
func (w *worker) starting() bool {
	for _, f := range w.flights {
		switch f.Type {
		case ActionRunSandbox, ActionCreate, ActionStart, ActionStartAll:
			return true
		}
	}
	return false
}

// runs tells whether something ran at the last look, of whose end the runtime may
// be telling.
func (w *worker) runs() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.seen.containers, func(c runtimeiface.Container) bool { return alive(&c) })
}

func reset(timer clock.Timer, wait time.Duration) {
	timer.Stop()
	select { // a tick that came before the Stop
	case <-timer.C():
	default:
	}
	timer.Reset(wait)
}

// landAll takes what has ended meanwhile, so that one look serves them all.
func (w *worker) landAll() {
	for {
		select {
		case <-w.hint:
			w.looked = time.Time{}
		case <-w.news:
			w.looked = time.Time{}
		case r := <-w.done:
			w.land(r)
		default:
			return
		}
	}
}

// leave waits for the flights, which ctx has cancelled, and stops nothing.
func (w *worker) leave() {
	for len(w.flights) > 0 {
		w.land(<-w.done)
	}
	w.save(true)
}

// step is one turn. It gives how long to sleep, or 0 for as long as nothing happens.
func (w *worker) step(ctx context.Context) (forgotten bool, wait time.Duration) {
	now := w.m.config.Clock.Now()
	o, pod, err := w.observe(ctx)
	if ctx.Err() != nil {
		return false, 0
	}
	if err != nil {
		w.mu.Lock()
		w.ring.add(Record{Time: now, Rule: "observe", Action: "wait", Reason: "the runtime did not answer", Result: "failed", Error: err.Error()}, false)
		w.mu.Unlock()
		w.log.V(1).Info("runtime did not answer", "error", err.Error())
		return false, observeRetry
	}
	granted := o.Allocated.Granted(pod)
	o.MemoryUsage = w.usage(ctx, &o, granted)
	now = w.m.config.Clock.Now()
	d := Plan(pod, o, now)
	w.note(d, now)
	before, changed := w.accept(o, d)
	if len(d.Actions) > 0 && d.Actions[0].Type == ActionPersist {
		w.save(false)
	}
	// First what makes a restart quick, then what others want to know.
	for _, a := range d.Actions {
		if w.unseen(a, now) {
			wait = staleRetry
			continue
		}
		w.begin(ctx, granted, a, now)
	}
	w.publish(before, changed, d)
	w.linkLogs(pod, o.Containers)
	w.probe(pod, o, d)
	w.save(false)
	ending := d.Ending
	if ending == nil {
		ending = o.Ending
	}
	if d.Done {
		revived := w.finish()
		if ending.Forget {
			w.forget()
		}
		if ending.Forget || revived {
			return true, 0
		}
	}
	if d.Next != nil && (wait == 0 || d.Next.At.Sub(now) < wait) {
		wait = max(time.Millisecond, d.Next.At.Sub(now))
	}
	return false, wait
}

// note keeps the decisions not to act; those to act follow with their results.
func (w *worker) note(d Decision, now time.Time) {
	var fresh []Record
	w.mu.Lock()
	for _, r := range d.Records {
		r.Time = now
		before := w.ring.next
		if w.ring.add(r, false) > before {
			fresh = append(fresh, r)
		}
	}
	w.next = d.Next
	if d.Ending != nil {
		// It may have become more urgent while we planned.
		w.ending = w.ending.Merge(*d.Ending)
	}
	w.mu.Unlock()
	for _, r := range fresh {
		w.decided(r)
	}
}

// accept keeps what was seen and what is to be reported, gives the status
// before, and tells whether it reads otherwise now.
func (w *worker) accept(o Observed, d Decision) (before corev1.PodStatus, changed bool) {
	text := encode(d.Status)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = seen{o.Sandboxes, o.Containers}
	for _, s := range o.Sandboxes {
		if s.CgroupParent != "" {
			w.cgroup = s.CgroupParent
		}
	}
	before, changed = w.status, !bytes.Equal(w.text, text)
	w.status, w.text, w.over = d.Status, text, d.Done
	return before, changed
}

// publish makes the status known if it changed, or the pod itself did.
func (w *worker) publish(before corev1.PodStatus, changed bool, d Decision) {
	w.mu.Lock()
	announce := w.announce
	w.announce = false
	w.mu.Unlock()
	if !announce && !changed {
		return
	}
	if before.Phase != d.Status.Phase || ready(&before) != ready(&d.Status) {
		w.log.Info("pod changed", "phase", d.Status.Phase, "ready", ready(&d.Status), "reason", d.Status.Reason)
	}
	if terminal(d.Status.Phase) && !terminal(before.Phase) {
		w.m.kick() // its ports are free
	}
	if w.m.config.OnStatus != nil {
		pod := w.snapshot()
		w.save(false) // what is told must not be forgotten by a crash
		w.m.config.OnStatus(pod)
	}
}

// snapshot is the pod with its status, a copy.
func (w *worker) snapshot() *corev1.Pod {
	w.mu.Lock()
	pod, status, ending := w.pod, w.status, w.ending
	w.mu.Unlock()
	out := pod.DeepCopy()
	status.DeepCopyInto(&out.Status)
	if out.Status.Phase == "" {
		out.Status.Phase = corev1.PodPending
	}
	if ending != nil && ending.Forget {
		seconds := int64(ending.Grace / time.Second)
		out.DeletionTimestamp = &metav1.Time{Time: ending.Since.Add(ending.Grace)}
		out.DeletionGracePeriodSeconds = &seconds
	}
	return out
}

// probe tells the prober what runs, if that has changed.
func (w *worker) probe(pod *corev1.Pod, o Observed, d Decision) {
	set := probe.Pod{UID: w.uid, Host: d.Status.PodIP, Terminating: o.Ending != nil || d.Ending != nil}
	key := d.Status.PodIP
	if set.Terminating {
		key += " terminating"
	}
	views := newPlanner(pod, &o, time.Time{}).views
	for _, v := range views {
		if v.cur == nil || v.cur.State != runtimeiface.ContainerRunning || v.kind == initKind || !hasProbe(v.c) {
			continue
		}
		set.Containers = append(set.Containers, probe.Running{Container: v.c, ID: v.cur.ID, StartedAt: v.cur.StartedAt, Seed: w.seeds[v.cur.ID]})
		key += " " + v.cur.ID
	}
	if key == w.probing {
		return
	}
	w.probing = key
	if len(set.Containers) == 0 {
		w.m.probes.Remove(w.uid)
		return
	}
	w.m.probes.Set(set)
}

func hasProbe(c *corev1.Container) bool {
	return c.StartupProbe != nil || c.LivenessProbe != nil || c.ReadinessProbe != nil
}

// save writes to the journal what changed, or everything.
func (w *worker) save(all bool) {
	if w.m.journal == nil {
		return
	}
	w.mu.Lock()
	rest := encode(podState{Ending: w.ending, Hooks: w.hooks, Kills: w.kills, Verdicts: w.verdicts(),
		Users: w.users, Allocated: w.allocated, Actuated: w.actuated, Size: w.size})
	status := w.text
	if bytes.Equal(status, w.saved.status) && bytes.Equal(rest, w.saved.rest) && !all {
		w.mu.Unlock()
		return
	}
	text := stateText(status, rest, w.ring.texts(keptRecords))
	w.mu.Unlock()
	if w.saveErr = w.m.journal.Put(keyState+string(w.uid), text); w.saveErr == nil {
		w.saved = saved{status, rest}
	}
	w.m.wrote(w.saveErr)
}

// forget removes the last that is known of the pod.
func (w *worker) forget() {
	w.m.probes.Remove(w.uid)
	w.unlinkLogs(nil)
	for _, key := range []string{keyState, keySpec} {
		w.m.wrote(w.m.journal.Delete(key + string(w.uid)))
	}
	w.log.Info("pod is gone")
}

func ready(s *corev1.PodStatus) bool {
	for i := range s.Conditions {
		if s.Conditions[i].Type == corev1.PodReady {
			return s.Conditions[i].Status == corev1.ConditionTrue
		}
	}
	return false
}
