package podlifecycle_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/shutdown"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// checks are what must hold at every moment of a simulated life.
type checks struct {
	// backs are how often the clock was set back, begun what they were when the
	// agent began; agent counts agents.
	backs, begun, agent int
	acted               bool // something may have started since the last look
	// started containers by ID, and sandboxes in which a main one has.
	started, mains map[string]bool
	specs          map[types.UID]*corev1.Pod
	ports          map[string][]uint16 // of the host, by sandbox

	// dead: what the agent says now nobody hears.
	dead *atomic.Bool
	mu   *sync.Mutex
	// lives by UID, as they were reported.
	lives map[types.UID]life
	// stops are the latest moment of SIGKILL by container ID.
	stops map[string]time.Time
	fault *error
}

// life is the newest that was reported of a pod.
type life struct {
	phase    corev1.PodPhase
	reason   string
	shut     bool      // for a shutdown of the node
	backs    int       // how often the node had come back by then
	start    int64     // in seconds, as the API has it
	gone     time.Time // its deletion timestamp
	begun    int       // and agent: of checks when it was reported
	agent    int
	restarts map[string]int32
}

func newChecks() checks {
	return checks{started: map[string]bool{}, mains: map[string]bool{}, ports: map[string][]uint16{}, specs: map[types.UID]*corev1.Pod{}, dead: new(atomic.Bool),
		mu: new(sync.Mutex), lives: map[types.UID]life{}, stops: map[string]time.Time{}, fault: new(error)}
}

func (c *checks) violated(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *c.fault == nil {
		*c.fault = fmt.Errorf(format, args...)
	}
}

// verdict gives the first violation, with what the agent says about the pod.
func (c *checks) verdict(r *rig) error {
	c.mu.Lock()
	err := *c.fault
	c.mu.Unlock()
	if err == nil {
		return nil
	}
	for _, pod := range r.m.Pods() {
		if strings.Contains(err.Error(), string(pod.UID)+" ") {
			err = fmt.Errorf("%w\n%s", err, r.why(pod.Name))
		}
	}
	return err
}

func (c *checks) setBack() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.backs++
}

func (c *checks) incarnation() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead.Store(false)
	clear(c.stops)
	c.agent, c.begun = c.agent+1, c.backs
}

// inspect looks at the runtime after each act: never two instances of a
// container, never two pods of a name, no init container after a main one in a
// sandbox, all or nothing.
func (c *checks) inspect(fake *runtimetest.Fake, begins func(types.UID) error) {
	if !c.acted {
		return
	}
	c.acted = false
	list := fake.State().Containers
	c.forgetMains(list)
	running, names, ports := map[string]string{}, map[string]string{}, map[uint16]string{}
	for i := range list {
		one := &list[i]
		uid, name := one.Labels[podlifecycle.LabelPodUID], one.Labels[podlifecycle.LabelPodName]
		if one.StartedAt.IsZero() {
			continue
		}
		if !c.started[one.ID] {
			c.started[one.ID] = true
			if box, _, err := fake.Specs(one.ID); err == nil {
				c.ports[one.SandboxID] = nil
				for _, p := range box.PortMappings {
					c.ports[one.SandboxID] = append(c.ports[one.SandboxID], p.HostPort)
				}
			}
			c.starts(one, types.UID(uid), list)
			if err := begins(types.UID(uid)); err != nil {
				c.violated("%v: %s", err, one.Name)
			}
		}
		if one.State != runtimeiface.ContainerRunning {
			continue
		}
		if other := running[uid+one.Name]; other != "" {
			c.violated("pod %s has two instances of %s: %s and %s", uid, one.Name, short(other), short(one.ID))
		}
		running[uid+one.Name] = one.ID
		if other := names[name]; other != "" && other != uid {
			c.violated("pods %s and %s of the same name run at once", other, uid)
		}
		names[name] = uid
		for _, port := range c.ports[one.SandboxID] {
			if other := ports[port]; other != "" && other != uid {
				c.violated("pods %s and %s have host port %d at once", other, uid, port)
			}
			ports[port] = uid
		}
	}
}

// forgetMains: where all containers were made to restart it is as if none had
// been started.
func (c *checks) forgetMains(list []runtimeiface.Container) {
	maps.DeleteFunc(c.mains, func(sandbox string, _ bool) bool {
		return !slices.ContainsFunc(list, func(one runtimeiface.Container) bool {
			spec := c.specs[types.UID(one.Labels[podlifecycle.LabelPodUID])]
			return one.SandboxID == sandbox && (strings.HasPrefix(one.Name, "main") || spec == nil || !restartsAll(spec))
		})
	})
}

func (c *checks) starts(one *runtimeiface.Container, uid types.UID, list []runtimeiface.Container) {
	switch {
	case strings.HasPrefix(one.Name, "init") && c.mains[one.SandboxID]:
		c.violated("pod %s : %s started after a main container in its sandbox", uid, one.Name)
	case strings.HasPrefix(one.Name, "main") && !c.mains[one.SandboxID]:
		c.mains[one.SandboxID] = true
		spec := c.specs[uid]
		if spec == nil || spec.Annotations[podlifecycle.AnnotationStartPolicy] != podlifecycle.StartAllOrNothing {
			return
		}
		there := map[string]bool{}
		for i := range list {
			if list[i].SandboxID == one.SandboxID {
				there[list[i].Name] = true
			}
		}
		for _, of := range spec.Spec.Containers {
			if !there[of.Name] {
				c.violated("pod %s : %s started before %s was created", uid, one.Name, of.Name)
			}
		}
	}
}

// reported takes a status: what has ended stays so, for the reason that it gave,
// unless it comes back after a shutdown of the node; nothing of it runs; restarts
// are counted up, and the end of a deleted pod only comes nearer.
func (s *sim) reported(pod *corev1.Pod) {
	c := &s.checks
	now := life{phase: pod.Status.Phase, reason: pod.Status.Reason, shut: shut(pod), backs: s.shuts.returns(), restarts: map[string]int32{}}
	if ended(pod) && s.runs(pod.UID) {
		s.violated("pod %s is %s and runs", pod.UID, pod.Status.Phase)
	}
	if target := condition(pod, corev1.DisruptionTarget); target != nil && ended(pod) && now.reason != podlifecycle.EndingEvicted && now.reason != shutdown.Reason {
		s.violated("pod %s is %s for %q and not for %q", pod.UID, pod.Status.Phase, now.reason, target.Message)
	}
	if now.reason == podlifecycle.EndingEvicted {
		s.evicted(pod)
	}
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			now.restarts[list[i].Name] = list[i].RestartCount
		}
	}
	if pod.DeletionTimestamp != nil {
		now.gone = pod.DeletionTimestamp.Time
	}
	if pod.Status.StartTime != nil {
		now.start = pod.Status.StartTime.Unix()
	}
	var backs int
	c.mu.Lock()
	now.begun, now.agent, backs = c.begun, c.agent, c.backs
	old, known := c.lives[pod.UID]
	c.lives[pod.UID] = now
	c.mu.Unlock()
	if !known || !old.gone.IsZero() && (now.gone.IsZero() || old.start != now.start) {
		return // the first of it, or it was made again
	}
	over := old.phase == corev1.PodSucceeded || old.phase == corev1.PodFailed
	if comesBack(pod) && s.shuts.going() == nil && (over && old.reason == shutdown.Reason || !over && (old.shut || old.backs != now.backs)) {
		return // it begins anew
	}
	if over && (now.phase != old.phase || now.reason != old.reason) || old.phase == corev1.PodRunning && now.phase == corev1.PodPending {
		c.violated("pod %s was %s %s and is %s %s", pod.UID, old.phase, old.reason, now.phase, now.reason)
	}
	// Without a clock that nobody can set, a new agent gives at most the whole
	// grace again.
	again := old.agent != now.agent && old.begun != backs
	if !again && !old.gone.IsZero() && now.gone.After(old.gone.Add(time.Millisecond)) {
		c.violated("pod %s was to be gone at %v and is at %v", pod.UID, old.gone, now.gone)
	}
	for name, count := range now.restarts {
		if count < old.restarts[name] {
			c.violated("pod %s : restart count of %s was %d and is %d", pod.UID, name, old.restarts[name], count)
		}
	}
}

// arrives takes a call of the agent: the grace of a pod that goes only shrinks,
// but for the last window in which a container may still end in order.
func (c *checks) arrives(call runtimetest.Call) {
	if call.Op != runtimetest.OpStopContainer || call.PodUID == "" {
		return
	}
	c.mu.Lock()
	gone := c.lives[types.UID(call.PodUID)].gone
	going := !gone.IsZero()
	old, again := c.stops[call.ContainerID]
	at := time.Now().Add(call.Grace)
	if going {
		c.stops[call.ContainerID] = at
	}
	c.mu.Unlock()
	if going && again && call.Grace > 2*time.Second && at.After(old.Add(time.Millisecond)) && at.After(gone.Add(time.Millisecond)) {
		c.violated("pod %s : grace of %s grows by %v", call.PodUID, call.Container, at.Sub(old))
	}
}

// atRest tells what is not yet as it shall be: left in peace, every pod runs and
// is ready, has ended, or crashes by its own fault.
func (s *sim) atRest() error {
	for _, name := range slices.Sorted(maps.Keys(s.desired)) {
		want := s.desired[name]
		pod, err := s.m.Pod("default", name)
		if err != nil {
			return err
		}
		if pod.UID != want.UID || pod.DeletionTimestamp != nil {
			return fmt.Errorf("%s is %s, want %s\n%s", name, pod.UID, want.UID, s.why(name))
		}
		if ended(pod) || pod.Status.Reason == "NodePorts" {
			continue
		}
		crashes, over := false, false
		for _, c := range want.Spec.Containers {
			crashes = crashes || crashing(c.Image) && (want.Annotations[podlifecycle.AnnotationFailurePolicy] != "" || restartsAll(want))
		}
		for _, c := range pod.Status.ContainerStatuses {
			if !crashes && !crashing(c.Image) && c.State.Running == nil && c.State.Terminated == nil {
				return fmt.Errorf("%s does not come up\n%s", name, s.why(name))
			}
			over = over || crashes || crashing(c.Image) || c.State.Terminated != nil
		}
		if !over && !isReady(pod) {
			return fmt.Errorf("%s does not become ready\n%s", name, s.why(name))
		}
		if !over {
			if err := s.sized(want, pod); err != nil {
				return fmt.Errorf("%s %w\n%s", name, err, s.why(name))
			}
		}
	}
	for _, sandbox := range s.fake.State().Sandboxes {
		if want := s.desired[sandbox.Name]; want == nil || string(want.UID) != sandbox.UID {
			return fmt.Errorf("sandbox of %s left", sandbox.Name)
		}
	}
	return errors.Join(s.returned(), s.endedAndRuns(), s.relieved())
}

// sized tells which container does not have the limits that it shall have. One
// of another pod of this UID may have been in another class, and is told of.
func (s *sim) sized(want, pod *corev1.Pod) error {
	if c := condition(pod, corev1.PodResizePending); c != nil && c.Reason == corev1.PodReasonInfeasible {
		return nil
	}
	for i := range want.Spec.Containers {
		c := &want.Spec.Containers[i]
		if c.Resources.Limits == nil {
			continue
		}
		_, id, _ := strings.Cut(pod.Status.ContainerStatuses[i].ContainerID, "://")
		_, spec, err := s.fake.Specs(id)
		if err != nil {
			return err
		}
		if spec.Resources == nil || spec.Resources.Memory == nil || spec.Resources.Memory.Limit == nil {
			return fmt.Errorf("has no limits for %s", c.Name)
		}
		if got := *spec.Resources.Memory.Limit; got != c.Resources.Limits.Memory().Value() {
			return fmt.Errorf("has %d bytes for %s, want %d", got, c.Name, c.Resources.Limits.Memory().Value())
		}
		if got := pod.Status.ContainerStatuses[i].Resources; got == nil || !got.Limits.Memory().Equal(*c.Resources.Limits.Memory()) {
			return fmt.Errorf("tells of %+v for %s", got, c.Name)
		}
	}
	return nil
}

// nothingLeft tells what a node still has that has no pods any more.
func (s *sim) nothingLeft() error {
	if st := s.fake.State(); len(st.Sandboxes)+len(st.Containers)+len(s.m.Pods())+s.cgroups.left() != 0 {
		return fmt.Errorf("left %d sandboxes, %d containers, %d pods, %d cgroups", len(st.Sandboxes), len(st.Containers), len(s.m.Pods()), s.cgroups.left())
	}
	if uids, err := s.volumes.Pods(); err != nil || len(uids) != 0 {
		return fmt.Errorf("directories left: %v %w", uids, err)
	}
	return nil
}
