package podlifecycle

import (
	"fmt"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Annotations of a pod that ask for what no kubelet does. Without them, or with
// other values, a pod is kept as a kubelet would.
const (
	// AnnotationStartPolicy, StartAllOrNothing: the regular containers are all
	// created before one of them is started, and if one cannot be created none
	// runs. Restarts are each container's own.
	AnnotationStartPolicy = "nodekit.dev/start-policy"
	StartAllOrNothing     = "AllOrNothing"
	// AnnotationFailurePolicy, FailureReplacePod: when a regular container or a
	// sidecar fails and its restart policy restarts it, the whole pod is: its
	// containers end, and after the back-off a new sandbox, with a new address
	// and init containers run anew, takes the place of the old.
	AnnotationFailurePolicy = "nodekit.dev/failure-policy"
	FailureReplacePod       = "ReplacePod"
)

// startTogether sees to the first start of the regular containers as one, and
// tells whether it is still to come.
func (p *planner) startTogether() bool {
	if f := p.o.Flights[""]; f.Type == ActionStartAll {
		return true
	}
	if p.mainStarted() {
		return false
	}
	var group []Action
	whole := true
	for _, v := range p.views {
		if v.kind != mainKind {
			continue
		}
		if a, ok := p.member(v); ok {
			group = append(group, a)
		} else {
			whole = false
		}
	}
	if !whole {
		for _, a := range group {
			p.note(a.Container, RuleAllOrNothing, "", "wait", "the pod's containers start together, and another is not ready to")
		}
		return true
	}
	for _, v := range p.views {
		if v.kind == mainKind {
			p.showFault(v, "")
		}
	}
	if !p.hold("", RuleAllOrNothing) {
		p.act(Action{Type: ActionStartAll, ID: p.sandbox.ID, Group: group, Rule: RuleAllOrNothing,
			Reason: fmt.Sprintf("%d containers start together or not at all", len(group))})
	}
	return true
}

// member gives what makes a container one of the group, once it can be.
func (p *planner) member(v *view) (Action, bool) {
	if f, busy := p.o.Flights[v.c.Name]; busy {
		p.underWay(v, f)
		return Action{}, false
	}
	if p.busy[v.c.Name] || v.cur == nil && p.elsewhere(v) {
		return Action{}, false
	}
	attempt := p.nextAttempt(v)
	level, why := p.firstLevel(v)
	if v.cur != nil {
		if changed(*v.cur, v.c) {
			p.startCreated(v) // removes it
			return Action{}, false
		}
		attempt, level, why = v.cur.Attempt, levelOf(*v.cur), "it was created and not started"
	}
	id := p.image(v, attempt, RuleAllOrNothing)
	return Action{Type: ActionCreate, Container: v.c.Name, ID: p.sandbox.ID, Attempt: attempt, Level: level, Image: id,
		Rule: RuleAllOrNothing, Reason: why}, id != ""
}

// replaces tells whether a failure ends the sandbox.
func (p *planner) replaces() bool {
	return p.pod.Annotations[AnnotationFailurePolicy] == FailureReplacePod
}

// failed tells that an instance ended badly, and by itself.
func (p *planner) failed(got *runtimeiface.Container) bool {
	if got.State != runtimeiface.ContainerExited || got.ExitCode == 0 || got.Reason == runtimeiface.ReasonUnknown {
		return false
	}
	switch p.o.Kills[got.ID].Rule {
	case RuleReplacePod, RuleSandbox, RuleImageChange, RuleResize, RuleRestartAll, RuleDuplicate:
		return false
	}
	return true
}

// replacing ends the sandbox if one of its containers failed.
func (p *planner) replacing() bool {
	if p.sandbox == nil || !p.replaces() || p.restartsAll() {
		return false
	}
	for _, v := range p.views {
		if v.kind == initKind || v.cur == nil || !p.failed(v.cur) {
			continue
		}
		if again, _ := p.restarts(v, v.cur); again {
			why := fmt.Sprintf("container %s exited with %d (%s)", v.c.Name, v.cur.ExitCode, v.cur.Reason)
			p.vacate(RuleReplacePod, why)
			return true
		}
	}
	return false
}

// replaceLater tells whether the back-off of what failed in the newest sandbox
// still lasts.
func (p *planner) replaceLater() bool {
	if len(p.sandboxes) == 0 {
		return false
	}
	var left, delay time.Duration
	for _, v := range p.views {
		for i := range p.instances[v.c.Name] {
			got := &p.instances[v.c.Name][i]
			if v.kind == initKind || v.kind == ephemeralKind || got.SandboxID != p.sandboxes[0].ID || !p.failed(got) {
				continue
			}
			own := RestartDelay(nextLevel(*got))
			if rest := own - p.elapsed(got); rest > left {
				left, delay = rest, own
			}
			break // the newest of this container
		}
	}
	if left <= 0 {
		return false
	}
	at := p.now.Add(left)
	p.note("", RuleBackoff, "", "wait", fmt.Sprintf("back-off of %v until %s", delay, at.UTC().Format(time.RFC3339)))
	p.wake(at, "replace the pod", fmt.Sprintf("the back-off of %v ends", delay))
	return true
}
