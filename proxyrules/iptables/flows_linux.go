package iptables

import (
	"net/netip"
	"slices"
	"time"

	"github.com/nodekit/nodekit/proxyrules"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// liveFlows matches the UDP flows to fronts that changed which nobody answers
// who may: their endpoint left, or there was none when they began.
type liveFlows struct {
	answer map[proxyrules.FrontKey][]netip.AddrPort // who may
	node   proxyrules.Node
}

var _ netlink.CustomConntrackFilter = (*liveFlows)(nil)

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (l *liveFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	to, ok := netip.AddrFromSlice(flow.Forward.DstIP)
	from, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if flow.Forward.Protocol != unix.IPPROTO_UDP || !ok || !ok2 {
		return false
	}
	key := proxyrules.FrontKey{Addr: to.Unmap(), Protocol: corev1.ProtocolUDP, Port: flow.Forward.DstPort}
	answer, ours := l.answer[key]
	if !ours && l.node.HasAddress(key.Addr) {
		unspecified := netip.IPv4Unspecified()
		if key.Addr.Is6() {
			unspecified = netip.IPv6Unspecified()
		}
		key.Addr = unspecified
		answer, ours = l.answer[key]
	}
	return ours && !slices.Contains(answer, netip.AddrPortFrom(from.Unmap(), flow.Reverse.SrcPort))
}

// forgetFlows removes UDP flows that would go on to endpoints that left.
// Failing is no reason to fail a sync: the rules are right.
func (d *Dialect) forgetFlows(changes *proxyrules.Changes, stats *proxyrules.SyncStats) {
	if d.flows == nil {
		return
	}
	live := &liveFlows{answer: map[proxyrules.FrontKey][]netip.AddrPort{}, node: d.applied.Node}
	present := map[netlink.InetFamily]bool{}
	for i := range changes.Fronts {
		c := &changes.Fronts[i]
		key := c.Key()
		if key.Protocol != corev1.ProtocolUDP {
			continue
		}
		family := netlink.InetFamily(unix.AF_INET)
		if key.Addr.Is6() {
			family = unix.AF_INET6
		}
		present[family] = true
		live.answer[key] = nil
		if c.New == nil {
			continue
		}
		live.answer[key] = slices.Clone(c.New.Draining)
		for _, e := range slices.Concat(c.New.Endpoints, c.New.Inside) {
			live.answer[key] = append(live.answer[key], e.Addr)
		}
	}
	for family := range present {
		began := time.Now()
		n, err := d.flows.ConntrackDeleteFilters(netlink.ConntrackTable, family, live)
		stats.Flows += int(n)
		stats.FlowsDuration += time.Since(began)
		if err != nil {
			d.config.Logger.Error(err, "udp flows not forgotten", "table", d.config.Prefix)
		}
	}
}
