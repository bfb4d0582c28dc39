package oci

import (
	"fmt"
	"net/netip"
	"sync"

	"github.com/nodekit/nodekit/runtimeiface"
)

// ports knows who has which port of the node.
type ports struct {
	mu    sync.Mutex
	pods  map[string]*portsOfPod // by sandbox ID
	taken map[portKey][]claim
}

type portKey struct {
	protocol string
	port     uint16
}

// claim is one mapping of a pod.
type claim struct {
	hostIP    netip.Addr // the zero Addr: every address
	sandboxID string
	pod       string // namespace/name
}

// portsOfPod is what a pod's elements are made of.
type portsOfPod struct {
	mappings []runtimeiface.PortMapping
	ips      []netip.Addr
	// plugged: plug-ins make the ports work, no elements do.
	plugged bool
	// added: the elements are there.
	added bool
}

func newPorts() *ports {
	return &ports{pods: map[string]*portsOfPod{}, taken: map[portKey][]claim{}}
}

// hostMappings leaves out mappings without a port of the node. Of the addresses
// 0.0.0.0 and :: it keeps the meaning: every one of that family.
func hostMappings(spec runtimeiface.SandboxSpec) []runtimeiface.PortMapping {
	if spec.Network == runtimeiface.NamespaceHost {
		return nil // the pod's ports are the node's
	}
	var list []runtimeiface.PortMapping
	for _, m := range spec.PortMappings {
		if m.HostPort != 0 {
			m.HostIP = m.HostIP.Unmap().WithZone("")
			list = append(list, m)
		}
	}
	return list
}

// checkPorts names mappings that cannot be: of addresses with a zone, of a
// family that the pod has none of, and the second of two that meet.
func checkPorts(spec runtimeiface.SandboxSpec, ips []netip.Addr) error {
	for i, m := range spec.PortMappings {
		if m.HostPort == 0 || spec.Network == runtimeiface.NamespaceHost {
			continue
		}
		field := fmt.Sprintf("PortMappings[%d]", i)
		if m.HostIP.Zone() != "" {
			return invalid(field+".HostIP", "has a zone: "+m.HostIP.String())
		}
		if len(ips) > 0 && m.HostIP.IsValid() && podAddr(ips, m.HostIP.Unmap()) == (netip.Addr{}) {
			return notSupported(field+".HostIP", "is of another family than the pod's addresses: "+m.HostIP.String())
		}
		if m.HostIP == netip.IPv6Loopback() {
			return notSupported(field+".HostIP", "is ::1, which no pod can answer for")
		}
		for _, other := range spec.PortMappings[:i] {
			if other.HostPort == m.HostPort && other.Protocol == m.Protocol && meet(other.HostIP.Unmap(), m.HostIP.Unmap()) {
				return invalid(field, fmt.Sprintf("asks for %s port %d twice", m.Protocol, m.HostPort))
			}
		}
	}
	return nil
}

// podAddr gives the pod's address of the family of ip.
func podAddr(ips []netip.Addr, ip netip.Addr) netip.Addr {
	for _, own := range ips {
		if own.Is4() == ip.Is4() {
			return own
		}
	}
	return netip.Addr{}
}

// meet tells whether two addresses of the node, or all of them, have one in
// common.
func meet(a, b netip.Addr) bool {
	if !a.IsValid() || !b.IsValid() {
		return true
	}
	return a.Is4() == b.Is4() && (a == b || a.IsUnspecified() || b.IsUnspecified())
}

// reserve takes the ports of a pod, or none of them. ErrInUse names the port and
// who has it.
func (p *ports) reserve(rec *sandboxRecord) error {
	if err := checkPorts(rec.Spec, rec.IPs); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, m := range rec.Spec.PortMappings {
		if m.HostPort == 0 || rec.Spec.Network == runtimeiface.NamespaceHost {
			continue
		}
		for _, c := range p.taken[portKey{m.Protocol, m.HostPort}] {
			if meet(c.hostIP, m.HostIP.Unmap()) {
				return fmt.Errorf("%w: PortMappings[%d]: %s port %d of the node belongs to pod %s (sandbox %s)",
					runtimeiface.ErrInUse, i, m.Protocol, m.HostPort, c.pod, c.sandboxID)
			}
		}
	}
	p.take(rec)
	return nil
}

// mark is reserve for what was reserved before.
func (p *ports) mark(rec *sandboxRecord) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.take(rec)
}

func (p *ports) take(rec *sandboxRecord) {
	mappings := hostMappings(rec.Spec)
	if len(mappings) == 0 {
		return
	}
	p.pods[rec.ID] = &portsOfPod{mappings: mappings, ips: rec.IPs, plugged: rec.CNI != nil}
	for _, m := range mappings {
		key := portKey{m.Protocol, m.HostPort}
		p.taken[key] = append(p.taken[key], claim{m.HostIP, rec.ID, rec.Spec.Namespace + "/" + rec.Spec.Name})
	}
}

func (p *ports) release(sandboxID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pod := p.pods[sandboxID]
	if pod == nil {
		return
	}
	delete(p.pods, sandboxID)
	for _, m := range pod.mappings {
		key := portKey{m.Protocol, m.HostPort}
		left := p.taken[key][:0]
		for _, c := range p.taken[key] {
			if c.sandboxID != sandboxID {
				left = append(left, c)
			}
		}
		if p.taken[key] = left; len(left) == 0 {
			delete(p.taken, key)
		}
	}
}
