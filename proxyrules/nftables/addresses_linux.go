package nftables

import (
	"fmt"
	"net"
	"net/netip"
	"sort"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// PrimaryAddresses finds the addresses of a node in the network namespace of
// descriptor netNS (0: the current one), at most one for each family, IPv4
// first: the source of its default route, or else the first global address of
// a link that is up, by the number of the link. None is no error.
func PrimaryAddresses(netNS int) ([]netip.Addr, error) {
	handle := &netlink.Handle{}
	if netNS > 0 {
		var err error
		if handle, err = netlink.NewHandleAt(netns.NsHandle(netNS), unix.NETLINK_ROUTE); err != nil {
			return nil, fmt.Errorf("open network namespace: %w", err)
		}
		defer handle.Close()
	}
	links, err := handle.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	sort.Slice(links, func(i, j int) bool { return links[i].Attrs().Index < links[j].Attrs().Index })
	var out []netip.Addr
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := handle.RouteList(nil, family)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		byLink := make(map[int]netip.Addr)
		addresses, err := handle.AddrList(nil, family)
		if err != nil {
			return nil, fmt.Errorf("list addresses: %w", err)
		}
		for _, a := range addresses {
			addr, ok := netip.AddrFromSlice(a.IP)
			addr = addr.Unmap()
			temporary := a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DEPRECATED) != 0 || a.Flags&unix.IFA_F_TEMPORARY != 0 && family == netlink.FAMILY_V6
			if _, have := byLink[a.LinkIndex]; ok && !have && addr.IsGlobalUnicast() && !temporary {
				byLink[a.LinkIndex] = addr
			}
		}
		if addr := primary(routes, links, byLink); addr.IsValid() {
			out = append(out, addr)
		}
	}
	return out, nil
}

func primary(routes []netlink.Route, links []netlink.Link, byLink map[int]netip.Addr) netip.Addr {
	var best netip.Addr
	metric := -1
	for _, r := range routes {
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones > 0 {
				continue
			}
		}
		addr, ok := netip.AddrFromSlice(r.Src)
		if !ok {
			addr = byLink[r.LinkIndex]
		}
		if addr = addr.Unmap(); addr.IsValid() && (metric < 0 || r.Priority < metric) {
			best, metric = addr, r.Priority
		}
	}
	if best.IsValid() {
		return best
	}
	for _, link := range links {
		if addr, ok := byLink[link.Attrs().Index]; ok && link.Attrs().Flags&net.FlagUp != 0 {
			return addr
		}
	}
	return best
}
