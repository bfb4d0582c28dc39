package nftables

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
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
	handle, err := routeHandle(netNS)
	if err != nil {
		return nil, err
	}
	defer handle.Close()
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

// LocalAddresses finds all addresses of a node in the network namespace of
// descriptor netNS (0: the current one) that lie in one of the networks; no
// networks mean all. Loopback and link-local addresses are left out. Sorted.
// It is what kube-proxy's --nodeport-addresses is to it: PrimaryAddresses is
// its "primary".
func LocalAddresses(netNS int, within []netip.Prefix) ([]netip.Addr, error) {
	handle, err := routeHandle(netNS)
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	all, err := handle.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []netip.Addr
	for _, a := range all {
		addr, ok := netip.AddrFromSlice(a.IP)
		addr = addr.Unmap()
		wanted := len(within) == 0 || slices.ContainsFunc(within, func(p netip.Prefix) bool { return p.Contains(addr) })
		if ok && wanted && addr.IsGlobalUnicast() {
			out = append(out, addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}

// routeHandle must be closed.
func routeHandle(netNS int) (*netlink.Handle, error) {
	if netNS <= 0 {
		return &netlink.Handle{}, nil
	}
	handle, err := netlink.NewHandleAt(netns.NsHandle(netNS), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return handle, nil
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
