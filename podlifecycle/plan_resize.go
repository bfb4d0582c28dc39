package podlifecycle

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// usageRetry is how soon a limit below what is used is tried again.
const usageRetry = 10 * time.Second

// change is one running container that is not of the size granted.
type change struct {
	v         *view
	have      corev1.ResourceRequirements
	want      corev1.ResourceRequirements
	restart   bool
	resources []corev1.ResourceName // that differ
}

// resizes gives the running containers whose size is another than granted.
func (p *planner) resizes() []change {
	var list []change
	for _, v := range p.views {
		if v.kind == ephemeralKind || v.cur == nil || v.cur.State != runtimeiface.ContainerRunning || changed(*v.cur, v.c) {
			continue
		}
		have, known := p.actuated(v.cur)
		if !known {
			continue // made by who wrote no size down: as granted, most likely
		}
		c := change{v: v, have: have, want: containerSize(p.pod, v.c)}
		for _, name := range resizable {
			if compareLimits(c.want, have, name) == 0 && compareRequests(c.want, have, name) == 0 {
				continue
			}
			c.resources = append(c.resources, name)
			c.restart = c.restart || restartsOn(v.c, name)
		}
		if len(c.resources) > 0 {
			list = append(list, c)
		}
	}
	return list
}

func restartsOn(c *corev1.Container, name corev1.ResourceName) bool {
	return slices.Contains(c.ResizePolicy, corev1.ContainerResizePolicy{ResourceName: name, RestartPolicy: corev1.RestartContainer})
}

// actuated is what the container's cgroup was last set to.
func (p *planner) actuated(c *runtimeiface.Container) (corev1.ResourceRequirements, bool) {
	if size, ok := p.o.Actuated[c.ID]; ok {
		return size, true
	}
	var size corev1.ResourceRequirements
	text, ok := c.Annotations[AnnotationSize]
	return size, ok && json.Unmarshal([]byte(text), &size) == nil
}

// shrinks tells which memory limits are to become less: of containers by ID,
// and "" for the pod.
func (p *planner) shrinks() []string {
	var list []string
	restarts := false
	for _, c := range p.resizes() {
		if c.restart {
			restarts = true
		} else if compareLimits(c.want, c.have, corev1.ResourceMemory) < 0 {
			list = append(list, c.v.cur.ID)
		}
	}
	// What restarts gives its memory back first.
	if p.o.Cgroup != nil && !restarts && compareLimits(podSize(p.pod), *p.o.Cgroup, corev1.ResourceMemory) < 0 {
		list = append(list, "")
	}
	return list
}

// resize brings running containers and the pod's cgroup nearer to the size that
// was granted: memory, then CPU; of each the pod's cgroup first if it grows,
// containers that shrink before those that grow, and the pod's cgroup last if
// it shrinks. It tells whether starts must wait for the pod's cgroup to grow.
//
// Source: Kubernetes v1.37.0 pkg/kubelet/kuberuntime/kuberuntime_manager.go
// computePodResizeAction, doPodResizeAction, validateMemoryResizeAction.
func (p *planner) resize() (growing bool) {
	if pending := p.o.ResizePending; pending != nil {
		p.note("", RuleResize, "", "wait", pending.Reason+": "+pending.Message)
	}
	p.changes = p.resizes()
	for _, c := range p.changes {
		if c.restart {
			p.kill(c.v.cur, p.now.Add(p.podGrace()), RuleResize, fmt.Sprintf("Container %s resize requires restart", c.v.c.Name))
		}
	}
	if p.resizeError = p.memoryInUse(); p.resizeError != "" {
		p.note("", RuleResize, "", "wait", p.resizeError)
		p.wake(p.now.Add(usageRetry), "resize", "memory may have become free")
		return false
	}
	for _, name := range resizable {
		if done, growing := p.resizeOne(name); !done {
			return growing
		}
	}
	return false
}

// memoryInUse tells that a limit would be below what is used, or "".
func (p *planner) memoryInUse() string {
	var faults []string
	for _, id := range p.shrinks() {
		used, known := p.o.MemoryUsage[id]
		if !known {
			continue // the kernel or the runtime will say
		}
		what, limit := "pod", quantity(podSize(p.pod).Limits, corev1.ResourceMemory)
		for _, c := range p.changes {
			if c.v.cur.ID == id {
				what, limit = fmt.Sprintf("container %q", c.v.c.Name), quantity(c.want.Limits, corev1.ResourceMemory)
			}
		}
		if used >= limit.Value() {
			faults = append(faults, fmt.Sprintf("attempting to set %s memory limit (%d) below current usage (%d)", what, limit.Value(), used))
		}
	}
	if len(faults) == 0 {
		return ""
	}
	return "cannot decrease memory limits: " + strings.Join(faults, "; ")
}

// resizeOne does the next step for one resource, or tells that it is done.
func (p *planner) resizeOne(name corev1.ResourceName) (done, growing bool) {
	target := podSize(p.pod)
	if at := p.o.Cgroup; at != nil && (compareLimits(target, *at, name) > 0 || compareRequests(target, *at, name) > 0) {
		return false, p.resizeCgroup(name, larger(*at, target, name), "the pod's cgroup grows before its containers")
	}
	var shrink, grow []change
	waiting := false
	for _, c := range p.changes {
		if !slices.Contains(c.resources, name) {
			continue
		}
		waiting = true
		switch by := cmp.Or(compareLimits(c.want, c.have, name), compareRequests(c.want, c.have, name)); {
		case c.restart:
		case by < 0:
			shrink = append(shrink, c)
		default:
			grow = append(grow, c)
		}
	}
	next := shrink
	if len(shrink) == 0 {
		next = grow
	}
	for _, c := range next {
		p.resizeContainer(c, name)
	}
	if waiting {
		return false, false
	}
	if at := p.o.Cgroup; at != nil && (compareLimits(target, *at, name) < 0 || compareRequests(target, *at, name) < 0) {
		p.resizeCgroup(name, withOne(*at, target, name), "the pod's cgroup shrinks after its containers")
		return false, false
	}
	return true, false
}

func (p *planner) resizeContainer(c change, name corev1.ResourceName) {
	if p.hold(c.v.c.Name, RuleResize) {
		return
	}
	p.act(Action{Type: ActionResize, Container: c.v.c.Name, ID: c.v.cur.ID, Attempt: c.v.cur.Attempt, Resource: name,
		Size: withOne(c.have, c.want, name), Rule: RuleResize, Reason: "it was granted and needs no restart",
		Input: difference(c.have, c.want, name)})
}

// resizeCgroup tells whether the change is under way.
func (p *planner) resizeCgroup(name corev1.ResourceName, size corev1.ResourceRequirements, why string) bool {
	if p.o.Flights[""].Type == ActionResize {
		return true
	}
	if p.hold("", RuleResize) {
		return false
	}
	p.act(Action{Type: ActionResize, Resource: name, Size: size, Rule: RuleResize, Reason: why, Input: difference(*p.o.Cgroup, size, name)})
	return true
}

func difference(have, want corev1.ResourceRequirements, name corev1.ResourceName) string {
	var words []string
	for _, part := range []struct {
		what      string
		from, to  corev1.ResourceList
		differing bool
	}{
		{"request", have.Requests, want.Requests, compareRequests(want, have, name) != 0},
		{"limit", have.Limits, want.Limits, compareLimits(want, have, name) != 0},
	} {
		if part.differing {
			words = append(words, fmt.Sprintf("%s %s from %s to %s", name, part.what, show(part.from, name), show(part.to, name)))
		}
	}
	return strings.Join(words, ", ")
}

// resizeConditions tell of what was asked and not granted, and of what was
// granted and does not hold yet.
func (p *planner) resizeConditions() []corev1.PodCondition {
	if p.ending != nil || terminal(p.o.Prior.Phase) {
		return nil
	}
	var list []corev1.PodCondition
	if pending := p.o.ResizePending; pending != nil {
		list = append(list, corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue,
			Reason: pending.Reason, Message: pending.Message, ObservedGeneration: p.pod.Generation})
	}
	if !p.resizing() {
		return list
	}
	c := corev1.PodCondition{Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue, Message: p.resizeError}
	if p.o.Allocated != nil {
		c.ObservedGeneration = p.o.Allocated.Generation
	}
	for _, lane := range slices.Sorted(maps.Keys(p.o.Faults)) {
		if f := p.o.Faults[lane]; f.Reason == reasonResize && c.Message == "" {
			c.Message = f.Message
		}
	}
	if c.Message != "" {
		c.Reason = corev1.PodReasonError
	}
	return append(list, c)
}

func (p *planner) resizing() bool {
	if len(p.changes) > 0 {
		return true
	}
	if p.o.Cgroup == nil {
		return false
	}
	target := podSize(p.pod)
	return slices.ContainsFunc(resizable, func(name corev1.ResourceName) bool {
		return compareLimits(target, *p.o.Cgroup, name) != 0 || compareRequests(target, *p.o.Cgroup, name) != 0
	})
}

// shownResources are those that a container's status tells: what holds for one
// that runs, else what it was granted.
func (p *planner) shownResources(v *view, cur *runtimeiface.Container) *corev1.ResourceRequirements {
	shown := v.c.Resources.DeepCopy()
	shown.Claims = nil
	if cur.State != runtimeiface.ContainerRunning {
		return shown
	}
	have, known := p.actuated(cur)
	if !known {
		return shown
	}
	for _, name := range resizable {
		if _, ok := shown.Limits[name]; ok {
			put(&shown.Limits, have.Limits, name)
		}
		if _, ok := shown.Requests[name]; ok {
			put(&shown.Requests, have.Requests, name)
		}
	}
	return shown
}

// podResources are those of the pod as a whole that its status tells.
func (p *planner) podResources() *corev1.ResourceRequirements {
	if p.o.Cgroup != nil && p.ending == nil {
		return p.o.Cgroup.DeepCopy()
	}
	size := podSize(p.pod)
	return &size
}
