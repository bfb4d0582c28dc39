package podlifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/shutdown"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

var simPeriods = []shutdown.Period{{Priority: 0, Grace: 12 * time.Second}, {Priority: 100, Grace: 8 * time.Second}, {Priority: 2_000_000_000, Grace: 5 * time.Second}}

// down is a shutdown of the simulated node.
type down struct {
	cancel context.CancelFunc
	result chan error
	began  time.Time
	// taken in before it, by UID; and the period of each that had not ended.
	taken   map[types.UID]bool
	periods map[types.UID]int

	mu   sync.Mutex
	over bool // Shutdown has returned
}

func (d *down) isOver() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.over
}

// shuts are the shutdowns of a simulated life.
type shuts struct {
	mu    sync.Mutex
	now   *down // nil while the node stays up
	backs int   // how often it stayed up after all, or came back
}

func (s *shuts) going() *down {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *shuts) returns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.backs
}

// goDown begins a shutdown, once the agent knows all that it shall run.
func (s *sim) goDown() {
	synctest.Wait()
	pods := s.m.Pods()
	for _, want := range s.desired {
		if !slices.ContainsFunc(pods, func(pod *corev1.Pod) bool { return pod.UID == want.UID }) {
			return
		}
	}
	s.note("the node goes down")
	ctx, cancel := context.WithCancel(context.Background())
	d := &down{cancel: cancel, result: make(chan error, 1), began: time.Now(), taken: map[types.UID]bool{}, periods: map[types.UID]int{}}
	for _, pod := range pods {
		waits := pod.Status.Phase == corev1.PodPending && pod.Status.Reason+pod.Status.Message != ""
		d.taken[pod.UID] = !waits
		if waits || ended(pod) || pod.Status.StartTime == nil {
			continue
		}
		group := shutdown.Groups(simPeriods, []*corev1.Pod{pod})[0]
		d.periods[pod.UID] = slices.Index(simPeriods, group.Period)
	}
	s.shuts.mu.Lock()
	s.shuts.now = d
	s.shuts.mu.Unlock()
	m := s.m
	go func() {
		err := m.Shutdown(ctx, simPeriods)
		d.mu.Lock()
		d.over = true
		d.mu.Unlock()
		d.result <- err
	}()
	synctest.Wait()
}

// staysUp calls a shutdown off, or says that the node is back.
func (s *sim) staysUp(resume bool) {
	s.shuts.mu.Lock()
	d := s.shuts.now
	s.shuts.now = nil
	if d != nil {
		s.shuts.backs++
	}
	s.shuts.mu.Unlock()
	if d == nil {
		return
	}
	d.cancel()
	switch err := <-d.result; {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, podlifecycle.ErrEnded):
	default:
		s.violated("Shutdown: %v", err)
	}
	if resume {
		s.note("the node stays up")
		s.m.Resume()
		synctest.Wait()
	}
}

// begins takes a container that has started: none does of a pod that had not been
// taken in before the node began to go down, and none at all once that is through.
func (s *shuts) begins(uid types.UID) error {
	if d := s.going(); d != nil && (!d.taken[uid] || d.isOver()) {
		return fmt.Errorf("pod %s begins while the node goes down", uid)
	}
	return nil
}

// stops takes a call of the agent while the node goes down: none ends a pod before
// those of lower periods have ended or have had their time, or gives it more than
// its own and its period's.
func (s *sim) stops(call runtimetest.Call) {
	d, uid := s.shuts.going(), types.UID(call.PodUID)
	if d == nil || call.Op != runtimetest.OpStopContainer {
		return
	}
	pods := s.m.Pods()
	period, asked := d.periods[uid]
	i := slices.IndexFunc(pods, func(pod *corev1.Pod) bool { return pod.UID == uid && shut(pod) })
	if !asked || i < 0 {
		return
	}
	for other, lower := range d.periods {
		if lower < period && time.Since(d.began) < simPeriods[lower].Grace && s.runs(other) {
			s.violated("pod %s of priority %d ends before %s of %d", uid, simPeriods[period].Priority, other, simPeriods[lower].Priority)
		}
	}
	most := min(podlifecycle.GracePeriod(pods[i]), simPeriods[period].Grace)
	running := func(c runtimeiface.Container) bool {
		return c.ID == call.ContainerID && c.State == runtimeiface.ContainerRunning
	}
	// One that ended by itself while its hook ran has no grace that could grow.
	if call.Grace > max(most, 2*time.Second) && slices.ContainsFunc(s.fake.State().Containers, running) {
		s.violated("pod %s : %s has %v to end and may have %v", uid, call.Container, call.Grace, most)
	}
}

// shut tells whether a pod ends, or has ended, because its node goes down.
func shut(pod *corev1.Pod) bool {
	c := condition(pod, corev1.DisruptionTarget)
	return c != nil && c.Message == shutdown.Message
}

func (s *sim) runs(uid types.UID) bool {
	return slices.ContainsFunc(s.fake.State().Containers, func(c runtimeiface.Container) bool {
		return c.Labels[podlifecycle.LabelPodUID] == string(uid) && c.State == runtimeiface.ContainerRunning
	})
}

// comesBack tells whether a pod runs again after a shutdown that has ended it.
func comesBack(pod *corev1.Pod) bool {
	from := pod.Annotations[source.AnnotationSource]
	return from != "" && from != "api" && pod.Spec.RestartPolicy != corev1.RestartPolicyNever
}

// fall has the node, left in peace otherwise, go down: all that runs ends in time,
// nothing comes, and then the node stays up after all, or boots.
func (s *sim) fall() error {
	s.goDown()
	d := s.shuts.going()
	if d == nil {
		return errors.New("there is a pod that the agent does not know")
	}
	latest := shutdown.Total(simPeriods) + time.Second
	for !d.isOver() {
		if time.Since(d.began) > latest {
			return fmt.Errorf("the shutdown takes longer than %v", latest)
		}
		if err := s.pass(time.Second); err != nil {
			return err
		}
	}
	// What of sidecars is left has its last window, one after the other.
	if err := s.pass(15 * time.Second); err != nil {
		return err
	}
	if left := s.running(); len(left) != 0 {
		return fmt.Errorf("after the shutdown %v run", left)
	}
	for _, pod := range s.m.Pods() {
		if _, asked := d.periods[pod.UID]; asked && !ended(pod) {
			return fmt.Errorf("%s was to end with its node and is %s\n%s", pod.Name, pod.Status.Phase, s.why(pod.Name))
		}
		if pod.Status.Reason == shutdown.Reason && (pod.Status.Phase != corev1.PodFailed || !shut(pod)) {
			return fmt.Errorf("%s has ended with its node and is %s, %s", pod.Name, pod.Status.Phase, disruption(pod))
		}
	}
	name := fmt.Sprintf("pod%d", s.serial)
	s.serial++
	s.desired[name] = s.randomPod(name)
	s.apply()
	if err := s.pass(20 * time.Second); err != nil {
		return err
	}
	if pod := s.pod(name); pod.Status.Phase != corev1.PodPending || pod.Status.Reason != shutdown.ReasonRejected {
		return fmt.Errorf("%s came while the node goes down and is %s %s", name, pod.Status.Phase, pod.Status.Reason)
	}
	if s.rng.IntN(2) == 0 {
		s.staysUp(true)
	} else {
		s.note("the node boots")
		s.halt()
		s.fake.Reboot(false)
		s.start()
		s.apply()
	}
	return s.settles()
}

// endedAndRuns finds a pod that has ended and of which something runs.
func (s *sim) endedAndRuns() error {
	for _, pod := range s.m.Pods() {
		if ended(pod) && s.runs(pod.UID) {
			return fmt.Errorf("%s is %s and runs\n%s", pod.Name, pod.Status.Phase, s.why(pod.Name))
		}
	}
	return nil
}

// returned tells that everybody who comes back after a shutdown has.
func (s *sim) returned() error {
	for _, name := range slices.Sorted(maps.Keys(s.desired)) {
		pod, err := s.m.Pod("default", name)
		if err == nil && pod.Status.Reason == shutdown.Reason && comesBack(pod) {
			return fmt.Errorf("%s does not come back\n%s", name, s.why(name))
		}
	}
	return nil
}
