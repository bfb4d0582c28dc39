package podlifecycle

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// What the status says of containers that end because another did, and of
// their pod, Kubernetes v1.37.0 pkg/kubelet/kubelet_pods.go and status/generate.go.
const (
	reasonRestartingAll  = "RestartingAllContainers"
	messageRestartingAll = "The container is removed because RestartAllContainers in place"
	reasonRestartStarted = "RestartAllContainersStarted"
)

// restartAllPause is the least between two restarts of all containers. The
// kubelet has no back-off for them either, but its own slowness.
const restartAllPause = time.Second

// ruleFor gives what the first restart rule that knows the exit code asks for,
// or "".
func ruleFor(c *corev1.Container, code int32) corev1.ContainerRestartRuleAction {
	for _, rule := range c.RestartPolicyRules {
		if matches(rule.ExitCodes, code) {
			return rule.Action
		}
	}
	return ""
}

// mayRestartAll tells whether a rule of the pod could restart all of it.
func mayRestartAll(pod *corev1.Pod) bool {
	return slices.ContainsFunc(slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers), func(c corev1.Container) bool {
		return slices.ContainsFunc(c.RestartPolicyRules, func(r corev1.ContainerRestartRule) bool {
			return r.Action == corev1.ContainerRestartRuleActionRestartAllContainers
		})
	})
}

// asksForAll tells whether an instance ended such that all restart.
func (p *planner) asksForAll(v *view, got *runtimeiface.Container) bool {
	return got.State == runtimeiface.ContainerExited && p.o.Kills[got.ID].Rule != RuleRestartAll &&
		ruleFor(v.c, got.ExitCode) == corev1.ContainerRestartRuleActionRestartAllContainers
}

// markedRestarting: the last status said so. That outlives a restart of the agent.
func (p *planner) markedRestarting() bool {
	return mayRestartAll(p.pod) && p.was(corev1.AllContainersRestarting)
}

// restartsAll tells whether all containers are to end for a new start in the
// same sandbox.
func (p *planner) restartsAll() bool {
	if p.markedRestarting() {
		return true
	}
	return slices.ContainsFunc(p.views, func(v *view) bool { return v.cur != nil && p.asksForAll(v, v.cur) })
}

// restartAll kills every container without grace and forgets it, that which
// asked for it last. The start follows one decision after the last is gone,
// with nothing left of the old to tell the new from.
func (p *planner) restartAll() bool {
	if !p.restartsAll() {
		return false
	}
	p.restarting = true
	left, why, pause := false, "a restart rule restarts all containers", time.Duration(0)
	var causes []*runtimeiface.Container
	for _, v := range p.views {
		if v.kind == ephemeralKind {
			continue // it runs once
		}
		switch f := p.o.Flights[v.c.Name]; f.Type {
		case ActionCreate, ActionStart, ActionPostStart, ActionPull:
			p.cancel(v.c.Name, RuleRestartAll, why)
			left = true
		}
		for i := range p.instances[v.c.Name] {
			got := &p.instances[v.c.Name][i]
			if p.asksForAll(v, got) {
				why = fmt.Sprintf("container %s exited with %d, whose rule restarts all containers", v.c.Name, got.ExitCode)
				causes = append(causes, got)
				if ran(*got) < restartAllPause {
					pause = max(pause, restartAllPause-p.elapsed(got))
				}
			}
		}
		if v.cur == nil {
			v.waiting = &corev1.ContainerStateWaiting{Reason: reasonRestartingAll, Message: messageRestartingAll}
		}
	}
	if p.o.Flights[""].Type == ActionStartAll {
		p.cancel("", RuleRestartAll, why)
		left = true
	}
	for _, v := range p.views {
		if v.kind == ephemeralKind {
			continue
		}
		for i := range p.instances[v.c.Name] {
			if got := &p.instances[v.c.Name][i]; !slices.Contains(causes, got) {
				left = true
				p.reset(got, why)
			}
		}
	}
	switch {
	case left:
	case len(causes) == 0:
		p.restarting = false
		p.note("", RuleRestartAll, "", "start", "all containers have ended and are made anew")
		p.wake(p.now, "start all containers", "they have ended")
	case pause > 0:
		p.note("", RuleRestartAll, "", "wait", "all restart no more than once a second")
		p.wake(p.now.Add(pause), "restart all containers", why)
	default:
		for _, got := range causes {
			p.reset(got, why)
		}
	}
	return true
}

// reset ends an instance, and forgets one that has ended.
func (p *planner) reset(got *runtimeiface.Container, why string) {
	_, tried := p.o.Kills[got.ID]
	if got.State == runtimeiface.ContainerRunning || got.State == runtimeiface.ContainerUnknown && !tried {
		p.kill(got, p.now, RuleRestartAll, why)
		return
	}
	if p.hold(got.Name, RuleRestartAll) {
		return
	}
	p.act(Action{Type: ActionRemove, Container: got.Name, ID: got.ID, Attempt: got.Attempt, Rule: RuleRestartAll, Reason: why})
}
