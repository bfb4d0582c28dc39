package podlifecycle

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// usableSandbox gives the newest sandbox if it is the only ready one and has
// an address.
func (p *planner) usableSandbox() *runtimeiface.Sandbox {
	if why := p.sandboxFault(); why != "" {
		return nil
	}
	return &p.sandboxes[0]
}

// sandboxFault tells why a new sandbox is needed, or "".
func (p *planner) sandboxFault() string {
	ready := 0
	for _, s := range p.sandboxes {
		if s.State == runtimeiface.SandboxReady {
			ready++
		}
	}
	switch {
	case len(p.sandboxes) == 0:
		return "there is no sandbox"
	case ready > 1:
		return fmt.Sprintf("%d sandboxes are ready", ready)
	case p.sandboxes[0].State != runtimeiface.SandboxReady:
		return "the newest sandbox is not ready"
	case len(p.sandboxes[0].IPs) == 0 && !p.pod.Spec.HostNetwork:
		return "the sandbox has no IP"
	}
	return ""
}

// sandboxReady sees to a sandbox. What runs in others ends before the next is made:
// two instances of a container must never be.
func (p *planner) sandboxReady() bool {
	if p.sandbox != nil {
		return true
	}
	why := p.sandboxFault()
	if !p.vacate(RuleSandbox, why) {
		return false
	}
	attempt := uint32(0)
	if len(p.sandboxes) > 0 {
		attempt = p.sandboxes[0].Attempt + 1
	}
	if p.replaces() && p.replaceLater() {
		return false
	}
	p.act(Action{Type: ActionRunSandbox, Attempt: attempt, Rule: RuleSandbox, Reason: why})
	return false
}

// vacate ends what runs, then stops the sandbox that is ready, and tells when
// nothing is left that could stand in the way of a new one.
func (p *planner) vacate(rule, why string) bool {
	clear := true
	for i := range p.o.Containers {
		c := &p.o.Containers[i]
		if !alive(c) {
			continue
		}
		clear = false
		if _, tried := p.o.Kills[c.ID]; tried && c.State == runtimeiface.ContainerUnknown {
			clear = true // StopSandbox will see to it
			continue
		}
		p.kill(c, p.now.Add(p.podGrace()), rule, why)
	}
	if !clear || p.hold("", rule) {
		return false
	}
	for _, s := range p.sandboxes {
		if s.State == runtimeiface.SandboxReady {
			p.act(Action{Type: ActionStopSandbox, ID: s.ID, Attempt: s.Attempt, Rule: rule, Reason: why})
			return false
		}
	}
	return true
}

// killDuplicates ends every instance beside the one that counts.
func (p *planner) killDuplicates() {
	for i := range p.o.Containers {
		c := &p.o.Containers[i]
		if c.State != runtimeiface.ContainerRunning || p.counts(c) {
			continue
		}
		p.kill(c, p.now.Add(p.podGrace()), RuleDuplicate, "another instance counts, or the spec has no such container")
	}
}

func (p *planner) counts(c *runtimeiface.Container) bool {
	for _, v := range p.views {
		if v.cur != nil && v.cur.ID == c.ID {
			return true
		}
	}
	return false
}

// garbage keeps the newest dead instance of each container, for its last state,
// or as many as the node keeps, and no sandbox that holds none of those.
func (p *planner) garbage() {
	keep, limit := map[string]bool{}, max(1, p.o.Node.KeptDead)
	for _, v := range p.views {
		kept := 0
		for i := range p.instances[v.c.Name] {
			c := &p.instances[v.c.Name][i]
			if v.cur != nil && c.ID == v.cur.ID {
				keep[c.SandboxID] = true
				if c.State == runtimeiface.ContainerExited {
					kept++
				}
				continue
			}
			if alive(c) {
				keep[c.SandboxID] = true
				continue
			}
			if kept < limit && c.State == runtimeiface.ContainerExited && v.past != nil && c.Attempt <= v.past.Attempt {
				kept, keep[c.SandboxID] = kept+1, true
				continue
			}
			if _, flying := p.o.Flights[v.c.Name]; !flying && !p.busy[v.c.Name] && p.settled(v) {
				p.act(Action{Type: ActionRemove, Container: v.c.Name, ID: c.ID, Attempt: c.Attempt,
					Rule: RuleGarbage, Reason: "newer instances are kept"})
			}
			keep[c.SandboxID] = true // until it is gone
		}
	}
	for _, s := range p.sandboxes {
		if p.sandbox != nil && s.ID == p.sandbox.ID || keep[s.ID] {
			continue
		}
		if !p.hold("", RuleGarbage) {
			p.act(Action{Type: ActionRemoveSandbox, ID: s.ID, Attempt: s.Attempt,
				Rule: RuleGarbage, Reason: "nothing in it is needed any more"})
		}
	}
}

// settled tells that removing an instance would not delay a start.
func (p *planner) settled(v *view) bool {
	return v.cur != nil && v.cur.State != runtimeiface.ContainerCreated
}

// podIPs in the order of the sandbox; those of the node on its network.
func (p *planner) podIPs() []corev1.PodIP {
	var ips []corev1.PodIP
	if p.sandbox == nil {
		return nil
	}
	addrs := p.sandbox.IPs
	if p.pod.Spec.HostNetwork {
		addrs = p.o.Node.HostIPs
	}
	for _, ip := range addrs {
		ips = append(ips, corev1.PodIP{IP: ip.String()})
	}
	return ips
}
