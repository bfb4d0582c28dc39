package proxyrules

import (
	"fmt"
	"net/netip"
	"slices"
)

// Trace computes what the rules of a table do to a new connection. It looks at
// nothing but the table: other programs' rules and routes are not seen. A nil
// table has no rules.
func Trace(table *Table, packet Packet) Explanation {
	if table == nil {
		table = NewTable(Node{}, nil)
	}
	t := tracer{table: table, Explanation: Explanation{Packet: packet, Verdict: VerdictPass}}
	t.run()
	return t.Explanation
}

type tracer struct {
	table  *Table
	marked bool
	Explanation
}

func (t *tracer) step(rule, format string, args ...any) {
	t.Steps = append(t.Steps, Step{rule, fmt.Sprintf(format, args...)})
}

func (t *tracer) run() {
	to := t.Packet.To
	var front *Front
	if !to.Addr().IsUnspecified() {
		front = t.table.Front(FrontKey{to.Addr(), t.Packet.Protocol, to.Port()})
	}
	if front != nil && !t.admitted(front) {
		return
	}
	clusterIP := t.table.HasClusterIP(to.Addr())
	if clusterIP {
		t.offCluster()
	}
	if front != nil {
		t.step("service", "%s is %s of service %s", front.FrontKey, front.Kind, front.Service)
		t.front(front)
		return
	}
	if t.table.Node.HasAddress(to.Addr()) {
		key := FrontKey{netip.IPv4Unspecified(), t.Packet.Protocol, to.Port()}
		if to.Addr().Is6() {
			key.Addr = netip.IPv6Unspecified()
		}
		if front := t.table.Front(key); front != nil {
			t.step("node-port", "%s is a node address and port %d is %s of service %s", to.Addr(), to.Port(), front.Kind, front.Service)
			t.front(front)
			return
		}
	}
	switch {
	case clusterIP:
		t.Verdict = VerdictReject
		t.step("unknown-port", "%s is a cluster IP without port %d/%s: refused", to.Addr(), to.Port(), t.Packet.Protocol)
	case contains(t.table.Node.ServiceCIDRs, to.Addr()):
		t.Verdict = VerdictDrop
		t.step("unknown-address", "%s is of the cluster IPs, and no service has it: dropped", to.Addr())
	default:
		t.pass()
	}
}

// admitted says whether a front's source ranges let the packet in.
func (t *tracer) admitted(front *Front) bool {
	if len(front.Sources) == 0 {
		return true
	}
	from := t.Packet.From
	for _, p := range front.Sources {
		if p.Contains(from) {
			t.step("source-ranges", "%s may come from %s, and %s does", front.FrontKey, p, from)
			return true
		}
	}
	t.Service, t.PortName, t.Verdict = front.Service, front.PortName, VerdictDrop
	t.step("source-ranges", "%s is %s of service %s, for certain sources, and %s is none of them: dropped",
		front.FrontKey, front.Kind, front.Service, from)
	return false
}

func (t *tracer) offCluster() {
	node, from := t.table.Node, t.Packet.From
	pod, known := node.isPod(t.Packet)
	switch {
	case node.MasqueradeAll:
		t.marked = true
		t.step("masquerade-off-cluster", "all traffic to cluster IPs gets the node's address")
	case !known:
		t.step("cluster-ip", "%s is a cluster IP; no pod CIDR is known, so %s keeps its address", t.Packet.To.Addr(), from)
	case pod:
		t.step("cluster-ip", "%s is a cluster IP; %s is a pod's and keeps its address", t.Packet.To.Addr(), from)
	case node.LocalInterface != "":
		t.marked = true
		t.step("masquerade-off-cluster", "%s does not come in by %s: gets the node's address on the way to a cluster IP", from, node.LocalInterface)
	default:
		t.marked = true
		t.step("masquerade-off-cluster", "%s is in no pod CIDR: gets the node's address on the way to a cluster IP", from)
	}
}

func (t *tracer) front(front *Front) {
	t.Service, t.PortName, t.Verdict = front.Service, front.PortName, Verdict(front.Action)
	endpoints := front.Endpoints
	if len(front.Inside) > 0 {
		pod, _ := t.table.Node.isPod(t.Packet)
		node := t.table.Node.HasAddress(t.Packet.From)
		if pod || node {
			endpoints, t.Verdict = front.Inside, VerdictBalance
		}
		switch {
		case pod:
			t.step("short-circuit-pod", "%s is a pod's: the policy Local is not for it", t.Packet.From)
		case node:
			t.marked = true
			t.step("short-circuit-node", "%s is the node's own: the policy Local is not for it, and it gets the node's address", t.Packet.From)
		}
	}
	switch t.Verdict {
	case VerdictReject:
		t.step("no-endpoints", "service %s has no endpoint for it: refused", front.Service)
		return
	case VerdictDrop:
		t.step("no-endpoints", "service %s has no endpoint for it: dropped, as the policy is Local and no endpoint is on this node", front.Service)
		return
	}
	if front.Masquerade == MasqueradeAlways {
		t.marked = true
		t.step("masquerade-always", "traffic to a %s gets the node's address", front.Kind)
	}
	t.balance(front, endpoints)
}

func (t *tracer) balance(front *Front, endpoints []Endpoint) {
	if t.Affinity = front.Affinity; t.Affinity > 0 {
		t.step("affinity", "the endpoint that %s had less than %d seconds ago, if it is still there", t.Packet.From, t.Affinity)
	}
	t.step("balance", "one of %d endpoints at random", len(endpoints))
	odds := 1 / float64(len(endpoints))
	t.Backends = make([]Backend, 0, len(endpoints))
	for _, e := range endpoints {
		backend := Backend{Endpoint: e, Odds: odds, Masquerade: t.marked}
		if e.Addr.Addr() == t.Packet.From && !e.Remote {
			backend.Masquerade = true
			t.step("hairpin", "%s reaches itself: gets the node's address", e.Addr.Addr())
		} else if !backend.Masquerade && t.egress(e.Addr.Addr()) {
			backend.Masquerade = true
			t.step("pod-egress", "%s is outside the pod CIDRs: gets the node's address", e.Addr.Addr())
		}
		// What stays on the node never reaches the rule that changes the
		// sender, unless the node itself sends.
		if t.table.Node.HasAddress(e.Addr.Addr()) && !t.table.Node.HasAddress(t.Packet.From) {
			backend.Masquerade = false
		}
		t.Backends = append(t.Backends, backend)
	}
}

// egress says whether pod traffic to a destination leaves with the node's
// address.
func (t *tracer) egress(to netip.Addr) bool {
	node := t.table.Node
	return node.MasqueradeEgress && node.HasPod(t.Packet.From) && !node.HasPod(to) &&
		!contains(node.NoMasquerade, to) && !to.IsMulticast() && !slices.Contains(node.Addresses, to)
}

func (t *tracer) pass() {
	if t.egress(t.Packet.To.Addr()) {
		t.Masquerade = true
		t.step("pod-egress", "%s is a pod's and %s is outside the pod CIDRs: gets the node's address", t.Packet.From, t.Packet.To.Addr())
		return
	}
	t.step("none", "no service stands at %s/%s: routed as it is", t.Packet.To, t.Packet.Protocol)
}
