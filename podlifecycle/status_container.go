package podlifecycle

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit/nodekit/podlifecycle/probe"
	"github.com/nodekit/nodekit/runtimeiface"
)

// messageBudget is how many bytes of termination messages a pod's status holds,
// Kubernetes v1.37.0 pkg/kubelet/container MaxPodTerminationMessageLogLength.
const messageBudget = 12 << 10

// containerStatus tells how one container stands.
func (p *planner) containerStatus(v *view, initialized bool, phase corev1.PodPhase, budget *int) corev1.ContainerStatus {
	prior := p.prior(v)
	cs := corev1.ContainerStatus{Name: v.c.Name, Image: v.c.Image}
	if prior != nil {
		cs.RestartCount = prior.RestartCount
	}
	cur := v.cur
	if cur == nil && (p.ending != nil || p.sandbox == nil) {
		cur = p.newest(v) // what ran in a sandbox that is no more
		v.past = nil
	}
	if cur != nil {
		p.fill(&cs, v, cur)
	}
	switch {
	case cur == nil:
		p.absent(&cs, v, prior, initialized, phase)
	case cur.State == runtimeiface.ContainerRunning || cur.State == runtimeiface.ContainerUnknown:
		cs.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.Time{Time: cur.StartedAt}}
		cs.LastTerminationState = p.lastState(v, prior, cs.ContainerID, budget)
	case cur.State == runtimeiface.ContainerExited:
		ended := corev1.ContainerState{Terminated: p.terminated(cur, budget)}
		if v.waiting != nil {
			cs.State.Waiting, cs.LastTerminationState = v.waiting, ended
		} else {
			cs.State, cs.LastTerminationState = ended, p.lastState(v, prior, cs.ContainerID, budget)
		}
	default: // created
		cs.State.Waiting = p.waitingFor(v, initialized)
		cs.LastTerminationState = p.lastState(v, prior, "", budget)
	}
	started := p.started(v) && cur == v.cur
	cs.Started = &started
	cs.Ready = started && p.ready(v)
	switch v.kind {
	case ephemeralKind:
		cs.Started, cs.Ready = nil, false // nobody waits for it
	case initKind:
		cs.Ready = cs.State.Terminated != nil && cs.State.Terminated.ExitCode == 0
	}
	return cs
}

func (p *planner) fill(cs *corev1.ContainerStatus, v *view, cur *runtimeiface.Container) {
	// The newest may have been pruned by somebody: the count stays.
	cs.RestartCount = max(cs.RestartCount, int32(cur.Attempt))
	cs.ContainerID = p.containerID(cur.ID)
	cs.ImageID = cur.ImageID
	if image := cur.Annotations[AnnotationImage]; image != "" {
		cs.Image = image
	}
	cs.Resources, cs.AllocatedResources = p.shownResources(v, cur), v.c.Resources.DeepCopy().Requests
	for _, m := range v.c.VolumeMounts {
		cs.VolumeMounts = append(cs.VolumeMounts, corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath,
			ReadOnly: m.ReadOnly, RecursiveReadOnly: m.RecursiveReadOnly})
	}
}

// absent is a container without an instance in the runtime.
func (p *planner) absent(cs *corev1.ContainerStatus, v *view, prior *corev1.ContainerStatus, initialized bool, phase corev1.PodPhase) {
	switch {
	case prior != nil && p.ending != nil && prior.State.Terminated != nil:
		*cs = *prior.DeepCopy()
	case terminal(phase) && v.kind != initKind && initialized && p.hasRun(v):
		cs.State.Terminated = lost(prior)
		if prior != nil {
			cs.LastTerminationState = prior.LastTerminationState
		}
	default:
		budget := messageBudget
		cs.State.Waiting = p.waitingFor(v, initialized)
		cs.LastTerminationState = p.lastState(v, prior, "", &budget)
	}
}

// lost is the end of a container that nobody saw.
func lost(prior *corev1.ContainerStatus) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{ExitCode: runtimeiface.ExitCodeUnknown, Reason: runtimeiface.ReasonUnknown,
		Message: "The container could not be located when the pod was terminated"}
	if prior != nil {
		t.ContainerID = prior.ContainerID
		if prior.State.Running != nil {
			t.StartedAt = prior.State.Running.StartedAt
		}
	}
	return t
}

func (p *planner) waitingFor(v *view, initialized bool) *corev1.ContainerStateWaiting {
	if v.waiting != nil {
		return v.waiting
	}
	w := &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
	switch f, failed := p.o.Faults[""]; {
	case v.kind == mainKind && !initialized, (v.kind == initKind || v.kind == sidecarKind) && !initialized && p.behindInit(v):
		w.Reason = "PodInitializing"
	case failed:
		w.Message = f.Message
		if f.Reason != "" {
			w.Reason = f.Reason
		}
	}
	return w
}

// behindInit tells whether an unfinished init container stands before v.
func (p *planner) behindInit(v *view) bool {
	for _, other := range p.views {
		if other == v {
			return false
		}
		if other.kind == initKind && (other.cur == nil || other.cur.State != runtimeiface.ContainerExited || other.cur.ExitCode != 0) ||
			other.kind == sidecarKind && !p.started(other) {
			return true
		}
	}
	return false
}

// lastState is how the instance before the current one ended: as the runtime
// tells, or as an earlier status told, or unknown if it ran and is lost.
func (p *planner) lastState(v *view, prior *corev1.ContainerStatus, currentID string, budget *int) corev1.ContainerState {
	if v.past != nil {
		return corev1.ContainerState{Terminated: p.terminated(v.past, budget)}
	}
	switch {
	case prior == nil:
		return corev1.ContainerState{}
	case currentID != "" && prior.ContainerID == currentID:
		return *prior.LastTerminationState.DeepCopy()
	case prior.State.Terminated != nil:
		return corev1.ContainerState{Terminated: prior.State.Terminated.DeepCopy()}
	case prior.State.Running != nil:
		t := lost(prior)
		t.Message = "The container could not be located when the pod was deleted.  The container used to be Running"
		return corev1.ContainerState{Terminated: t}
	}
	return *prior.LastTerminationState.DeepCopy()
}

func (p *planner) terminated(c *runtimeiface.Container, budget *int) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{
		ExitCode: c.ExitCode, Reason: c.Reason, Message: p.o.Messages[c.ID],
		StartedAt: metav1.Time{Time: c.StartedAt}, FinishedAt: metav1.Time{Time: c.FinishedAt},
		ContainerID: p.containerID(c.ID),
	}
	if t.Reason == "" {
		t.Reason = runtimeiface.ReasonCompleted
		if c.ExitCode != 0 {
			t.Reason = runtimeiface.ReasonError
		}
	}
	if p.o.Kills[c.ID].Rule == RuleRestartAll {
		t.Reason = reasonRestartingAll
	}
	if t.Message == "" {
		t.Message = c.Message
	}
	if len(t.Message) > *budget {
		t.Message = t.Message[:*budget]
	}
	*budget -= len(t.Message)
	return t
}

func (p *planner) containerID(id string) string {
	scheme := p.o.Node.Scheme
	if scheme == "" {
		scheme = "unknown"
	}
	return scheme + "://" + id
}

// started: it runs, its postStart hook is done, its startup probe has passed.
func (p *planner) started(v *view) bool {
	if v.cur == nil || v.cur.State != runtimeiface.ContainerRunning {
		return false
	}
	if hasPostStart(v.c) && p.o.Hooks[v.cur.ID].State != HookDone {
		return false
	}
	return v.c.StartupProbe == nil || p.o.Verdicts[v.cur.ID].Startup == probe.Success
}

// ready counts for a started container.
func (p *planner) ready(v *view) bool {
	return v.c.ReadinessProbe == nil || p.o.Verdicts[v.cur.ID].Readiness == probe.Success
}

// prior is the container's status reported last, or nil.
func (p *planner) prior(v *view) *corev1.ContainerStatus {
	list := p.o.Prior.InitContainerStatuses
	switch v.kind {
	case mainKind:
		list = p.o.Prior.ContainerStatuses
	case ephemeralKind:
		list = p.o.Prior.EphemeralContainerStatuses
	}
	for i := range list {
		if list[i].Name == v.c.Name {
			return &list[i]
		}
	}
	return nil
}
