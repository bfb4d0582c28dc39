package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// syncRoutes makes our routes those that are wanted, and counts what it changed.
func (h *Host) syncRoutes(wanted []Route) (changed int, err error) {
	there, err := h.ownRoutes()
	if err != nil {
		return 0, fmt.Errorf("list routes: %w", err)
	}
	var errs []error
	do := func(act func(*netlink.Route) error, r Route) {
		switch err := act(h.kernelRoute(r)); {
		case errors.Is(err, unix.EEXIST):
			errs = append(errs, &RouteError{r.To, r.Via, ErrForeignRoute})
		case err != nil:
			errs = append(errs, &RouteError{r.To, r.Via, err})
		default:
			changed++
		}
	}
	keep := make(map[netip.Prefix]netip.Addr, len(wanted))
	for _, r := range wanted {
		keep[r.To] = r.Via
	}
	for _, r := range there {
		if _, wanted := keep[r.To]; !wanted {
			do(h.routes.RouteDel, r)
		}
	}
	have := make(map[netip.Prefix]netip.Addr, len(there))
	for _, r := range there {
		have[r.To] = r.Via
	}
	for _, r := range wanted {
		switch via, known := have[r.To]; {
		case !known:
			do(h.routes.RouteAdd, r)
		case via != r.Via:
			// By replacing it, no packet finds none.
			do(h.routes.RouteReplace, r)
		}
	}
	return changed, errors.Join(errs...)
}

func (h *Host) kernelRoute(r Route) *netlink.Route {
	return &netlink.Route{
		Dst:      &net.IPNet{IP: r.To.Addr().AsSlice(), Mask: net.CIDRMask(r.To.Bits(), r.To.Addr().BitLen())},
		Gw:       r.Via.AsSlice(),
		Protocol: netlink.RouteProtocol(h.config.RouteProtocol),
		Table:    unix.RT_TABLE_MAIN,
	}
}

// ownRoutes lists those of our protocol in the main table.
func (h *Host) ownRoutes() ([]Route, error) {
	var out []Route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		filter := &netlink.Route{Protocol: netlink.RouteProtocol(h.config.RouteProtocol), Table: unix.RT_TABLE_MAIN}
		list, err := h.routes.RouteListFiltered(family, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, err
		}
		for _, r := range list {
			if r.Dst == nil {
				continue
			}
			to, _ := netip.AddrFromSlice(r.Dst.IP)
			via, _ := netip.AddrFromSlice(r.Gw)
			ones, _ := r.Dst.Mask.Size()
			out = append(out, Route{netip.PrefixFrom(to.Unmap(), ones), via.Unmap()})
		}
	}
	return out, nil
}
