package proxyrules

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// A Packet is the first of a connection, before any rule saw it.
type Packet struct {
	// From is the sender: a pod, the node itself (one of Node.Addresses) or
	// anything else.
	From     netip.Addr      `json:"from"`
	To       netip.AddrPort  `json:"to"`
	Protocol corev1.Protocol `json:"protocol"`
	// Interface is the link it comes in by; empty: the node itself sends it.
	// It counts only where Node.LocalInterface is set.
	Interface string `json:"interface,omitempty"`
}

// String reads "10.244.0.5 -> 10.96.0.10:80/TCP".
func (p Packet) String() string { return fmt.Sprintf("%s -> %s/%s", p.From, p.To, p.Protocol) }

// ParsePacket reads a packet as people write it: from is an IP address, to is
// "address:port" ("[address]:port" for IPv6), proto is tcp, udp or sctp in
// letters of any case, and tcp if empty. Errors are *PacketError.
func ParsePacket(from, to, proto string) (Packet, error) {
	var p Packet
	addr, err := netip.ParseAddr(from)
	if err != nil || addr.Zone() != "" {
		return p, &PacketError{"from", clip(from), "not an IP address"}
	}
	p.From = addr.Unmap()
	host, port, found := cutLast(to, ':')
	number, err := strconv.ParseUint(port, 10, 16)
	if !found || err != nil || number == 0 {
		return p, &PacketError{"to", clip(to), "not address:port"}
	}
	bare := host
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		bare = host[1 : len(host)-1]
	}
	addr, err = netip.ParseAddr(bare)
	if err != nil || addr.Zone() != "" || addr.Is6() && bare == host {
		return p, &PacketError{"to", clip(to), "not address:port"}
	}
	p.To = netip.AddrPortFrom(addr.Unmap(), uint16(number))
	if p.From.Is4() != p.To.Addr().Is4() {
		return p, &PacketError{"to", clip(to), "another address family than from"}
	}
	p.Protocol = corev1.Protocol(strings.ToUpper(proto))
	switch p.Protocol {
	case "":
		p.Protocol = corev1.ProtocolTCP
	case corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
	default:
		return p, &PacketError{"proto", clip(proto), "not tcp, udp or sctp"}
	}
	return p, nil
}

func cutLast(s string, sep byte) (before, after string, found bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func clip(s string) string { return s[:min(len(s), 100)] }

// Verdict is what becomes of a packet.
type Verdict string

// The verdicts. Pass means that no Service stands at that address: the packet
// goes where routing takes it.
const (
	VerdictBalance Verdict = "balance"
	VerdictReject  Verdict = "reject"
	VerdictDrop    Verdict = "drop"
	VerdictPass    Verdict = "pass"
)

// Step is one rule that a packet meets, in order.
type Step struct {
	// Rule is the rule's name, stable between versions: cluster-ip,
	// masquerade-off-cluster, service, node-port, masquerade-always,
	// no-endpoints, unknown-port, balance, hairpin, pod-egress, none.
	Rule string `json:"rule"`
	Text string `json:"text"` // what it did, in words
}

// Backend is one endpoint that a packet may go to.
type Backend struct {
	Endpoint
	Odds float64 `json:"odds"` // of 0 to 1
	// Masquerade says that it sees the node's address as the sender, and not
	// the packet's.
	Masquerade bool `json:"masquerade"`
}

// Explanation says which rules a packet meets and where it may go.
type Explanation struct {
	Packet   Packet    `json:"packet"`
	Verdict  Verdict   `json:"verdict"`
	Service  string    `json:"service,omitempty"` // namespace/name
	PortName string    `json:"portName,omitempty"`
	Steps    []Step    `json:"steps"`
	Backends []Backend `json:"backends,omitempty"` // in slot order; nil unless the verdict is balance
	// Masquerade says the same for a packet that passes.
	Masquerade bool `json:"masquerade,omitempty"`
}

// String tells it in lines for people.
func (e Explanation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", e.Packet, e.Verdict)
	if e.Service != "" {
		fmt.Fprintf(&b, " (service %s", e.Service)
		if e.PortName != "" {
			fmt.Fprintf(&b, ", port %s", e.PortName)
		}
		b.WriteString(")")
	}
	b.WriteString("\n")
	for i, step := range e.Steps {
		fmt.Fprintf(&b, "  %d. %s: %s\n", i+1, step.Rule, step.Text)
	}
	for _, backend := range e.Backends {
		fmt.Fprintf(&b, "  -> %s", backend.Addr)
		if backend.Target != "" {
			fmt.Fprintf(&b, " (%s)", backend.Target)
		}
		fmt.Fprintf(&b, " %.4g%%", backend.Odds*100)
		if backend.Masquerade {
			b.WriteString(", sees the node's address")
		}
		if backend.Terminating {
			b.WriteString(", terminating")
		}
		b.WriteString("\n")
	}
	return b.String()
}

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
	clusterIP := t.table.HasClusterIP(to.Addr())
	if clusterIP {
		t.offCluster()
	}
	if front := t.table.Front(FrontKey{to.Addr(), t.Packet.Protocol, to.Port()}); front != nil && !to.Addr().IsUnspecified() {
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
	if clusterIP {
		t.Verdict = VerdictReject
		t.step("unknown-port", "%s is a cluster IP without port %d/%s: refused", to.Addr(), to.Port(), t.Packet.Protocol)
		return
	}
	t.pass()
}

func (t *tracer) offCluster() {
	node, from := t.table.Node, t.Packet.From
	same := false // are there pod CIDRs of this family?
	for _, p := range node.PodCIDRs {
		same = same || p.Addr().Is4() == from.Is4()
	}
	switch {
	case node.MasqueradeAll:
		t.marked = true
		t.step("masquerade-off-cluster", "all traffic to cluster IPs gets the node's address")
	case !same:
		t.step("cluster-ip", "%s is a cluster IP; no pod CIDR is known, so %s keeps its address", t.Packet.To.Addr(), from)
	case node.HasPod(from):
		t.step("cluster-ip", "%s is a cluster IP; %s is a pod's and keeps its address", t.Packet.To.Addr(), from)
	default:
		t.marked = true
		t.step("masquerade-off-cluster", "%s is in no pod CIDR: gets the node's address on the way to a cluster IP", from)
	}
}

func (t *tracer) front(front *Front) {
	t.Service, t.PortName, t.Verdict = front.Service, front.PortName, Verdict(front.Action)
	if front.Action != Balance {
		how := "refused"
		if front.Action == Drop {
			how = "dropped, as the policy is Local and no endpoint is on this node"
		}
		t.step("no-endpoints", "service %s has no endpoint for it: %s", front.Service, how)
		return
	}
	if front.Masquerade == MasqueradeAlways {
		t.marked = true
		t.step("masquerade-always", "traffic to a %s gets the node's address", front.Kind)
	}
	t.step("balance", "one of %d endpoints at random", len(front.Endpoints))
	odds := 1 / float64(len(front.Endpoints))
	for _, e := range front.Endpoints {
		backend := Backend{Endpoint: e, Odds: odds, Masquerade: t.marked}
		hairpin := e.Addr.Addr() == t.Packet.From
		if hairpin {
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
		!contains(node.NoMasquerade, to) && !to.IsMulticast() && !node.HasAddress(to)
}

func (t *tracer) pass() {
	if t.egress(t.Packet.To.Addr()) {
		t.Masquerade = true
		t.step("pod-egress", "%s is a pod's and %s is outside the pod CIDRs: gets the node's address", t.Packet.From, t.Packet.To.Addr())
		return
	}
	t.step("none", "no service stands at %s/%s: routed as it is", t.Packet.To, t.Packet.Protocol)
}
