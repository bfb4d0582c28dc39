package podlifecycle_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/runtimeiface"
)

// world is a node in miniature around Plan: actions take time, fail, are lost
// with the agent, and things happen. It checks what must always hold.
type world struct {
	rng  *rand.Rand
	calm bool // nothing fails any more
	now  time.Time
	pod  *corev1.Pod

	sandboxes  []runtimeiface.Sandbox
	containers []runtimeiface.Container
	flights    map[string]podlifecycle.Action
	cancelled  map[string]bool
	images     map[string]podlifecycle.Image
	faults     map[string]podlifecycle.Fault
	verdicts   map[string]podlifecycle.Verdicts
	hooks      map[string]podlifecycle.Hook
	kills      map[string]podlifecycle.Kill
	actuated   map[string]corev1.ResourceRequirements
	cgroup     *corev1.ResourceRequirements
	prepared   bool
	ended      podlifecycle.Ended
	ending     *podlifecycle.Ending
	status     corev1.PodStatus
	next       *podlifecycle.Next
	done       bool
	mainsIn    map[string]bool // sandboxes in which a main container has been started, pruned or not
	debugged   bool            // the ephemeral container has run
	idle       bool            // the last plan asked for nothing
	serial     int
	together   bool            // the pod's containers start all or not at all
	initDone   map[string]bool // sandbox and init container that succeeded
	trace      []string
}

func newWorld(seed uint64) *world {
	rng := rand.New(rand.NewPCG(seed, 1))
	w := &world{
		rng: rng, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), flights: map[string]podlifecycle.Action{},
		cancelled: map[string]bool{}, images: map[string]podlifecycle.Image{}, faults: map[string]podlifecycle.Fault{},
		verdicts: map[string]podlifecycle.Verdicts{}, hooks: map[string]podlifecycle.Hook{}, kills: map[string]podlifecycle.Kill{}, actuated: map[string]corev1.ResourceRequirements{},
		cgroup: &corev1.ResourceRequirements{}, mainsIn: map[string]bool{},
	}
	w.together = rng.IntN(3) == 0
	w.pod = newPod("web", func(p *corev1.Pod) {
		p.Annotations = map[string]string{}
		if w.together {
			p.Annotations[podlifecycle.AnnotationStartPolicy] = podlifecycle.StartAllOrNothing
		}
		if rng.IntN(3) == 0 {
			p.Annotations[podlifecycle.AnnotationFailurePolicy] = podlifecycle.FailureReplacePod
		}
		p.Spec.RestartPolicy = []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}[rng.IntN(3)]
		grace := int64(rng.IntN(40))
		p.Spec.TerminationGracePeriodSeconds = &grace
		if rng.IntN(5) == 0 {
			limit := int64(100 + rng.IntN(5000))
			p.Spec.ActiveDeadlineSeconds = &limit
		}
		for i := range rng.IntN(4) {
			c := container(fmt.Sprintf("init%d", i), "web:1")
			if rng.IntN(2) == 0 {
				c = sidecar(fmt.Sprintf("side%d", i), "web:1")
				if rng.IntN(2) == 0 {
					c.StartupProbe = execProbe("up")
				}
			}
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		}
		for i := range rng.IntN(3) {
			p.Spec.Containers = append(p.Spec.Containers, container(fmt.Sprintf("more%d", i), "web:1"))
		}
		for i := range p.Spec.Containers {
			c := &p.Spec.Containers[i]
			if rng.IntN(3) == 0 {
				c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 1}}}
			}
			if rng.IntN(3) == 0 {
				c.LivenessProbe = execProbe("live")
			}
			if rng.IntN(4) == 0 {
				c.ImagePullPolicy = corev1.PullAlways
			}
			if rng.IntN(4) == 0 {
				never := corev1.ContainerRestartPolicyNever
				c.RestartPolicy, c.RestartPolicyRules = &never, allOn(2)
			}
			if rng.IntN(4) == 0 {
				c.ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceCPU, RestartPolicy: corev1.RestartContainer}}
			}
		}
	})
	return w
}

func (w *world) chance(percent int) bool { return w.rng.IntN(100) < percent }

func (w *world) observed() podlifecycle.Observed {
	o := podlifecycle.Observed{
		Sandboxes: slices.Clone(w.sandboxes), Containers: slices.Clone(w.containers), Flights: map[string]podlifecycle.Flight{},
		Images: maps.Clone(w.images), Faults: maps.Clone(w.faults), Verdicts: maps.Clone(w.verdicts), Hooks: maps.Clone(w.hooks),
		Kills: maps.Clone(w.kills), Prepared: w.prepared, Ending: w.ending, Ended: w.ended, Prior: *w.status.DeepCopy(),
		Actuated: maps.Clone(w.actuated), Cgroup: w.cgroup.DeepCopy(),
	}
	for lane, a := range w.flights {
		o.Flights[lane] = podlifecycle.Flight{Type: a.Type, ID: a.ID, Deadline: a.Deadline, Image: a.Image, Cancelled: w.cancelled[lane]}
	}
	return o
}

// plan plans, checks, and takes the actions into the air.
func (w *world) plan() error {
	d := podlifecycle.Plan(w.pod, w.observed(), w.now)
	if err := w.check(d); err != nil {
		return err
	}
	w.status, w.next, w.done = d.Status, d.Next, d.Done
	if d.Ending != nil {
		w.ending = w.ending.Merge(*d.Ending)
	}
	w.idle = len(d.Actions) == 0
	for _, a := range d.Actions {
		w.trace = append(w.trace, fmt.Sprintf("%s %s %s %s/%d (%s: %s)", w.now.Format("15:04:05"), a.Type, a.Container, a.ID, a.Attempt, a.Rule, a.Reason))
		if _, busy := w.flights[a.Container]; busy {
			if a.Type == podlifecycle.ActionCancel {
				w.cancelled[a.Container] = true
			} else {
				w.flights[a.Container] = a // a kill made faster
			}
			continue
		}
		if a.Type == podlifecycle.ActionKill {
			w.kills[a.ID] = podlifecycle.Kill{Rule: a.Rule, Message: a.Reason}
		}
		w.flights[a.Container] = a
	}
	return nil
}

// check holds a decision against what must always be so.
func (w *world) check(d podlifecycle.Decision) error {
	old := w.status.Phase
	terminal := old == corev1.PodSucceeded || old == corev1.PodFailed
	if terminal && d.Status.Phase != old || old == corev1.PodRunning && d.Status.Phase == corev1.PodPending {
		return fmt.Errorf("phase %s after %s", d.Status.Phase, old)
	}
	for i, s := range d.Status.ContainerStatuses {
		if i < len(w.status.ContainerStatuses) && s.RestartCount < w.status.ContainerStatuses[i].RestartCount {
			return fmt.Errorf("restart count of %s goes back from %d to %d", s.Name, w.status.ContainerStatuses[i].RestartCount, s.RestartCount)
		}
		states := 0
		for _, set := range []bool{s.State.Waiting != nil, s.State.Running != nil, s.State.Terminated != nil} {
			if set {
				states++
			}
		}
		if states != 1 {
			return fmt.Errorf("container %s is in %d states: %+v", s.Name, states, s.State)
		}
	}
	if d.Ending != nil && w.ending != nil {
		return fmt.Errorf("ending decided twice: %+v after %+v", d.Ending, w.ending)
	}
	lanes := map[string]bool{}
	for _, a := range d.Actions {
		if lanes[a.Container] {
			return fmt.Errorf("two actions of %q in one decision: %+v", a.Container, d.Actions)
		}
		lanes[a.Container] = true
		f, busy := w.flights[a.Container]
		switch {
		case !busy && a.Type == podlifecycle.ActionCancel:
			return fmt.Errorf("nothing to cancel: %+v", a)
		case busy && a.Type == podlifecycle.ActionKill && f.Type == podlifecycle.ActionKill:
			if !a.Deadline.Before(f.Deadline) {
				return fmt.Errorf("grace grows: %v after %v", a.Deadline, f.Deadline)
			}
		case busy && a.Type != podlifecycle.ActionCancel:
			return fmt.Errorf("%+v beside %+v", a, f)
		}
		if terminal && (a.Type == podlifecycle.ActionCreate || a.Type == podlifecycle.ActionRunSandbox || a.Type == podlifecycle.ActionPull) {
			return fmt.Errorf("a pod that has ended begins again: %+v", a)
		}
		if w.ending != nil && a.Type == podlifecycle.ActionCreate {
			return fmt.Errorf("a pod that ends starts something: %+v", a)
		}
	}
	return nil
}

// land ends one action, well or not.
func (w *world) land(lane string) error {
	a := w.flights[lane]
	delete(w.flights, lane)
	cancelled := w.cancelled[lane]
	delete(w.cancelled, lane)
	fails := !w.calm && w.chance(20)
	effect := !fails || w.chance(30)
	if cancelled && w.chance(70) && a.Type != podlifecycle.ActionKill {
		return nil
	}
	w.trace = append(w.trace, fmt.Sprintf("%s   landed %s %s fails=%v effect=%v", w.now.Format("15:04:05"), a.Type, lane, fails, effect))
	if effect {
		if err := w.effect(a, cancelled); err != nil {
			return err
		}
	}
	if fails && a.Type != podlifecycle.ActionPull {
		w.faults[lane] = podlifecycle.Fault{Reason: "CreateContainerError", Message: "by chance", At: w.now, RetryAt: w.now.Add(time.Duration(1+w.rng.IntN(10)) * time.Second)}
	} else if a.Type != podlifecycle.ActionPull {
		delete(w.faults, lane)
	}
	switch {
	case a.Type == podlifecycle.ActionPull && fails:
		w.images[lane] = podlifecycle.Image{Ref: a.Image, Attempt: a.Attempt, Reason: "ErrImagePull", At: w.now, RetryAt: w.now.Add(10 * time.Second)}
	case fails:
	case a.Type == podlifecycle.ActionPersist:
		w.ended.Persisted = true
	case a.Type == podlifecycle.ActionTeardown:
		w.ended.Torn, w.prepared = true, false
	case a.Type == podlifecycle.ActionPrepare:
		w.prepared = true
	case a.Type == podlifecycle.ActionPull:
		w.images[lane] = podlifecycle.Image{Ref: a.Image, Attempt: a.Attempt, ID: "id of " + a.Image}
	case a.Type == podlifecycle.ActionPostStart:
		state := podlifecycle.HookDone
		if !w.calm && w.chance(20) {
			state = podlifecycle.HookFailed
		}
		w.hooks[a.ID] = podlifecycle.Hook{State: state}
	}
	return nil
}

// effect is what an action does to the runtime.
func (w *world) effect(a podlifecycle.Action, cancelled bool) error {
	w.serial++
	switch a.Type {
	case podlifecycle.ActionRunSandbox:
		for _, s := range w.sandboxes {
			if s.Attempt == a.Attempt && s.State == runtimeiface.SandboxReady {
				return nil
			}
		}
		w.sandboxes = append(w.sandboxes, runtimeiface.Sandbox{ID: fmt.Sprintf("s%d", w.serial), Attempt: a.Attempt, State: runtimeiface.SandboxReady, IPs: anIP})
	case podlifecycle.ActionStopSandbox:
		w.stopSandbox(a.ID)
	case podlifecycle.ActionRemoveSandbox:
		w.stopSandbox(a.ID)
		w.sandboxes = slices.DeleteFunc(w.sandboxes, func(s runtimeiface.Sandbox) bool { return s.ID == a.ID })
		w.containers = slices.DeleteFunc(w.containers, func(c runtimeiface.Container) bool { return c.SandboxID == a.ID })
	case podlifecycle.ActionCreate:
		return w.create(a, cancelled)
	case podlifecycle.ActionStartAll:
		return w.startAll(a)
	case podlifecycle.ActionStart:
		return w.run(a.ID)
	case podlifecycle.ActionKill:
		w.exit(a.ID, 137)
	case podlifecycle.ActionResize:
		if a.ID == "" {
			w.cgroup = &a.Size
		} else {
			w.actuated[a.ID] = a.Size
		}
	case podlifecycle.ActionRemove:
		if a.Rule == podlifecycle.RuleRestartAll { // what it has done counts no more
			clear(w.mainsIn)
			maps.DeleteFunc(w.initDone, func(key string, _ bool) bool { return strings.HasSuffix(key, a.Container) })
		}
		w.containers = slices.DeleteFunc(w.containers, func(c runtimeiface.Container) bool { return c.ID == a.ID })
	}
	return nil
}

// startAll keeps what RunContainers promises; a failure may be before all, or
// cut off between two starts.
func (w *world) startAll(a podlifecycle.Action) error {
	if len(a.Group) != len(w.pod.Spec.Containers) {
		return fmt.Errorf("%d of %d containers start together", len(a.Group), len(w.pod.Spec.Containers))
	}
	for _, c := range w.containers {
		if c.SandboxID == a.ID && w.isMain(c.Name) && c.State != runtimeiface.ContainerCreated {
			return fmt.Errorf("%s starts with others after it has been started", c.Name)
		}
	}
	var ids []string
	for _, one := range a.Group {
		w.serial++
		if id := w.make(one); id != "" {
			ids = append(ids, id)
		}
	}
	for i, id := range ids {
		if i > 0 && !w.calm && w.chance(5) {
			return nil
		}
		if err := w.run(id); err != nil {
			return err
		}
	}
	return nil
}

// make gives the container of an action, "" if its sandbox is not ready.
func (w *world) make(a podlifecycle.Action) string {
	ready := slices.ContainsFunc(w.sandboxes, func(s runtimeiface.Sandbox) bool { return s.ID == a.ID && s.State == runtimeiface.SandboxReady })
	if !ready {
		return "" // an error of the runtime
	}
	for _, c := range w.containers {
		if c.SandboxID == a.ID && c.Name == a.Container && c.Attempt == a.Attempt {
			return c.ID
		}
	}
	c := runtimeiface.Container{ID: fmt.Sprintf("c%d", w.serial), SandboxID: a.ID, Name: a.Container, Attempt: a.Attempt,
		State: runtimeiface.ContainerCreated, CreatedAt: w.now, Annotations: map[string]string{
			podlifecycle.AnnotationHash: podlifecycle.ContainerHash(w.spec(a.Container)), podlifecycle.AnnotationLevel: fmt.Sprint(a.Level)}}
	w.actuated[c.ID] = *w.spec(a.Container).Resources.DeepCopy()
	w.containers = append(w.containers, c)
	return c.ID
}

// create is judged by what was there when it was decided, if it was called off
// since and comes all the same.
func (w *world) create(a podlifecycle.Action, cancelled bool) error {
	if w.together && !cancelled && w.isMain(a.Container) && !w.mainsIn[a.ID] {
		return fmt.Errorf("%s starts before the others are created", a.Container)
	}
	id := w.make(a)
	if id == "" || !w.calm && w.chance(10) {
		return nil // created, and not started
	}
	return w.run(id)
}

// run starts a container, and is where the two oldest rules are checked.
func (w *world) run(id string) error {
	i := slices.IndexFunc(w.containers, func(c runtimeiface.Container) bool { return c.ID == id })
	if i < 0 || w.containers[i].State != runtimeiface.ContainerCreated {
		return nil
	}
	c := &w.containers[i]
	for _, other := range w.containers {
		if other.ID != c.ID && other.Name == c.Name && other.State == runtimeiface.ContainerRunning {
			return fmt.Errorf("two instances of %s run: %s and %s", c.Name, other.ID, c.ID)
		}
		if w.isInit(c.Name) && w.isMain(other.Name) && other.SandboxID == c.SandboxID && other.State != runtimeiface.ContainerCreated {
			return fmt.Errorf("init container %s runs after %s has started in sandbox %s", c.Name, other.Name, c.SandboxID)
		}
	}
	if !w.isInit(c.Name) && w.isMain(c.Name) {
		for _, spec := range w.pod.Spec.InitContainers {
			if w.isInit(spec.Name) && !w.initDone[c.SandboxID+spec.Name] {
				return fmt.Errorf("%s runs before init container %s has succeeded", c.Name, spec.Name)
			}
		}
	}
	if w.isMain(c.Name) {
		w.mainsIn[c.SandboxID] = true
	}
	if c.Name == "debug" {
		if w.debugged {
			return fmt.Errorf("ephemeral container %s runs again", c.Name)
		}
		w.debugged = true
	}
	c.State, c.StartedAt = runtimeiface.ContainerRunning, w.now
	return nil
}

func (w *world) exit(id string, code int32) {
	for i := range w.containers {
		c := &w.containers[i]
		if c.ID != id || c.State == runtimeiface.ContainerExited {
			continue
		}
		if c.StartedAt.IsZero() {
			c.StartedAt = w.now
		}
		c.State, c.ExitCode, c.FinishedAt = runtimeiface.ContainerExited, code, w.now
		if code == 0 && w.isInit(c.Name) {
			if w.initDone == nil {
				w.initDone = map[string]bool{}
			}
			w.initDone[c.SandboxID+c.Name] = true
		}
	}
}

func (w *world) stopSandbox(id string) {
	for i := range w.sandboxes {
		if w.sandboxes[i].ID == id {
			w.sandboxes[i].State, w.sandboxes[i].IPs = runtimeiface.SandboxNotReady, nil
		}
	}
	for _, c := range slices.Clone(w.containers) {
		if c.SandboxID == id {
			w.exit(c.ID, 137)
		}
	}
}

func (w *world) spec(name string) *corev1.Container {
	for _, list := range [][]corev1.Container{w.pod.Spec.InitContainers, w.pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	for _, e := range w.pod.Spec.EphemeralContainers {
		if e.Name == name {
			c := corev1.Container(e.EphemeralContainerCommon)
			return &c
		}
	}
	return nil
}

func (w *world) isMain(name string) bool {
	return slices.ContainsFunc(w.pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == name })
}

func (w *world) isInit(name string) bool {
	return slices.ContainsFunc(w.pod.Spec.InitContainers, func(c corev1.Container) bool {
		return c.Name == name && (c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways)
	})
}
