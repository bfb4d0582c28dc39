package oci

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// forgetFlows makes the kernel look anew at connections to a pod's ports. Of a
// pod that is gone: those that were led to it, or a client that keeps sending
// would reach whoever has the address next. Of a pod that came: datagrams that
// were taken for the node's own, which the rules would never see.
func (n *network) forgetFlows(pod *portsOfPod, gone bool) error {
	filter := flowFilter{pod: pod}
	if !gone {
		local, err := n.udpAddresses(pod)
		if err != nil || local == nil {
			return err
		}
		filter.local = local
	}
	handle, err := netlink.NewHandleAt(netns.NsHandle(n.ns.Fd()), unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("host ports: netlink: %w", err)
	}
	defer handle.Close()
	for _, ip := range pod.ips {
		family := netlink.InetFamily(unix.AF_INET)
		if ip.Is6() {
			family = unix.AF_INET6
		}
		// The table may change while it is read: what was seen is deleted.
		for range 5 {
			if _, err = handle.ConntrackDeleteFilters(netlink.ConntrackTable, family, filter); !errors.Is(err, netlink.ErrDumpInterrupted) {
				break
			}
		}
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("host ports: forget connections: %w", err)
		}
	}
	return nil
}

// udpAddresses gives the node's, or nil if the pod has no port of UDP.
func (n *network) udpAddresses(pod *portsOfPod) (map[netip.Addr]bool, error) {
	udp := false
	for _, m := range pod.mappings {
		udp = udp || m.Protocol == "UDP"
	}
	if !udp {
		return nil, nil
	}
	list, err := n.handle.AddrList(nil, unix.AF_UNSPEC)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("host ports: list addresses: %w", err)
	}
	local := map[netip.Addr]bool{}
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			local[ip.Unmap()] = true
		}
	}
	return local, nil
}

// flowFilter matches connections to a pod's ports.
type flowFilter struct {
	pod *portsOfPod
	// local: match datagrams to these addresses that are led nowhere. nil: match
	// what is led to the pod.
	local map[netip.Addr]bool
}

var _ netlink.CustomConntrackFilter = flowFilter{}

// MatchConntrackFlow is for netlink.
func (f flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	to, ok1 := netip.AddrFromSlice(flow.Forward.DstIP)
	by, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if !ok1 || !ok2 {
		return false
	}
	to, by = to.Unmap(), by.Unmap()
	for _, m := range f.pod.mappings {
		if flow.Forward.Protocol != protocolNumbers[m.Protocol] || flow.Forward.DstPort != m.HostPort ||
			m.HostIP.IsValid() && !m.HostIP.IsUnspecified() && m.HostIP != to {
			continue
		}
		if f.local == nil {
			if flow.Reverse.SrcPort == m.ContainerPort && by == podAddr(f.pod.ips, by) {
				return true
			}
			continue
		}
		if m.Protocol == "UDP" && to == by && (f.local[to] || to.IsLoopback()) {
			return true
		}
	}
	return false
}
