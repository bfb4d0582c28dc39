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
	// Rule is the rule's name, stable between versions: source-ranges,
	// cluster-ip, masquerade-off-cluster, service, node-port,
	// short-circuit-pod, short-circuit-node, no-endpoints, unknown-port,
	// unknown-address, masquerade-always, affinity, balance, hairpin,
	// pod-egress, none.
	Rule string `json:"rule"`
	Text string `json:"text"` // what it did, in words
}

// Backend is one endpoint that a packet may go to.
type Backend struct {
	Endpoint
	Odds float64 `json:"odds"` // 0 to 1
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
	// Affinity is for how many seconds a client that was here before gets the
	// endpoint of then, which the table does not know: the odds are those of
	// one that was not. 0: every connection is balanced by itself.
	Affinity int32 `json:"affinitySeconds,omitempty"`
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
