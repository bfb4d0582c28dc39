package podlifecycle

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

// lastWindow is the least that a container gets to end in order after others
// have used up the grace, Kubernetes v1.37.0 pkg/kubelet/kuberuntime
// minimumGracePeriodInSeconds. It never exceeds the whole grace.
const lastWindow = 2 * time.Second

// end brings the pod one step nearer to its end.
func (p *planner) end() {
	e := p.ending
	p.cancelAll(func(f Flight) bool { return f.Type != ActionKill }) // at once: nothing is to begin any more
	if !p.containersEnded() || p.cancelAll(func(Flight) bool { return true }) {
		return
	}
	if f, busy := p.o.Flights[""]; busy {
		// A sandbox in the making is waited for: a runtime that is told no more of it
		// may go on, and then nobody would know what it made.
		if f.Type == ActionPrepare || f.Type == ActionStartAll {
			p.cancel("", RuleEnding, e.Reason)
		}
		return
	}
	if p.hold("", RuleEnding) {
		return
	}
	why := e.Reason + ": " + e.Message
	for _, s := range p.sandboxes {
		if s.State == runtimeiface.SandboxReady {
			p.act(Action{Type: ActionStopSandbox, ID: s.ID, Attempt: s.Attempt, Rule: RuleEnding, Reason: why})
			return
		}
	}
	if !p.o.Ended.Persisted {
		p.act(Action{Type: ActionPersist, Rule: RuleEnding, Reason: "the final status is stored before anything is removed"})
		return
	}
	if e.Forget && len(p.sandboxes) > 0 {
		s := p.sandboxes[len(p.sandboxes)-1]
		p.act(Action{Type: ActionRemoveSandbox, ID: s.ID, Attempt: s.Attempt, Rule: RuleEnding, Reason: why})
		return
	}
	if !p.o.Ended.Torn {
		p.act(Action{Type: ActionTeardown, Rule: RuleEnding, Reason: "volumes, directories and cgroup are not needed any more"})
		return
	}
	p.d.Done = true
}

// cancelAll ends the flights of containers that are no use any more, and tells
// whether there is any.
func (p *planner) cancelAll(useless func(Flight) bool) (found bool) {
	for _, lane := range slices.Sorted(maps.Keys(p.o.Flights)) {
		if lane != "" && useless(p.o.Flights[lane]) {
			p.cancel(lane, RuleEnding, p.ending.Reason)
			found = true
		}
	}
	return found
}

// containersEnded kills regular and init containers in parallel, then sidecars,
// the last of the list first, each once those behind it have exited.
func (p *planner) containersEnded() bool {
	e := p.ending
	ended := true
	order := map[string]int{}
	for i, v := range p.views {
		if v.kind == sidecarKind {
			order[v.c.Name] = i + 1
		}
	}
	last := 0 // the sidecar whose turn it is
	for i := range p.o.Containers {
		c := &p.o.Containers[i]
		if !p.mustEnd(c) {
			continue
		}
		ended = false
		if n := order[c.Name]; n > 0 {
			last = max(last, n)
			continue
		}
		last = len(p.views) + 1
		p.kill(c, e.deadline(), RuleEnding, e.Reason+": "+e.Message)
	}
	for i := range p.o.Containers {
		c := &p.o.Containers[i]
		n := order[c.Name]
		if n == 0 || !p.mustEnd(c) {
			continue
		}
		if _, killed := p.o.Flights[c.Name]; n < last && !(killed && p.o.Flights[c.Name].Type == ActionKill) {
			p.note(c.Name, RuleEndingOrder, string(c.State), "wait", "sidecars end after the containers behind them")
			continue
		}
		deadline := e.deadline()
		if least := p.now.Add(min(lastWindow, e.Grace)); deadline.Before(least) {
			deadline = least
		}
		p.kill(c, deadline, RuleEndingOrder, fmt.Sprintf("%s: %s", e.Reason, e.Message))
	}
	return ended
}

func (p *planner) mustEnd(c *runtimeiface.Container) bool {
	if c.State == runtimeiface.ContainerUnknown {
		_, tried := p.o.Kills[c.ID]
		_, flying := p.o.Flights[c.Name]
		return !tried || flying
	}
	return c.State == runtimeiface.ContainerRunning
}
