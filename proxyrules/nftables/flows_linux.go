package nftables

import (
	"net/netip"
	"slices"
	"time"

	"github.com/nodekit/nodekit/proxyrules"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// staleFlows matches the UDP flows to fronts that changed whose answers come
// from anything but an endpoint that serves today: from one that left, or from
// nowhere, as no endpoint was there when the flow began.
type staleFlows struct {
	fronts map[proxyrules.FrontKey]map[netip.AddrPort]bool
	node   proxyrules.Node
}

var _ netlink.CustomConntrackFilter = (*staleFlows)(nil)

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s *staleFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to, ok := netip.AddrFromSlice(flow.Forward.DstIP)
	answers, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if !ok || !ok2 {
		return false
	}
	to = to.Unmap()
	key := proxyrules.FrontKey{Addr: to, Protocol: corev1.ProtocolUDP, Port: flow.Forward.DstPort}
	endpoints, ours := s.fronts[key]
	if !ours && s.node.HasAddress(to) {
		key.Addr = netip.IPv4Unspecified()
		if to.Is6() {
			key.Addr = netip.IPv6Unspecified()
		}
		endpoints, ours = s.fronts[key]
	}
	return ours && !endpoints[netip.AddrPortFrom(answers.Unmap(), flow.Reverse.SrcPort)]
}

// forgetFlows removes UDP flows that would go on to endpoints that left.
// Failing is no reason to fail a sync: the rules are right.
func (d *Dialect) forgetFlows(changes *proxyrules.Changes, stats *proxyrules.SyncStats) {
	if d.flows == nil {
		return
	}
	stale := &staleFlows{fronts: make(map[proxyrules.FrontKey]map[netip.AddrPort]bool), node: d.applied.Node}
	var present [len(families)]bool
	for i := range changes.Fronts {
		c := &changes.Fronts[i]
		if c.Key().Protocol != corev1.ProtocolUDP {
			continue
		}
		present[familyIndex(c)] = true
		endpoints := make(map[netip.AddrPort]bool)
		if c.New != nil {
			for _, e := range slices.Concat(c.New.Endpoints, c.New.Inside) {
				endpoints[e.Addr] = true
			}
			for _, addr := range c.New.Draining {
				endpoints[addr] = true
			}
		}
		stale.fronts[c.Key()] = endpoints
	}
	for i, f := range families {
		if !present[i] {
			continue
		}
		began := time.Now()
		n, err := d.flows.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(f.number), stale)
		stats.Flows += int(n)
		stats.FlowsDuration += time.Since(began)
		if err != nil {
			d.config.Logger.Error(err, "udp flows not forgotten", "table", d.config.Table)
		}
	}
}
