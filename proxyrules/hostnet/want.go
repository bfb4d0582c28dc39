package hostnet

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/proxyrules/internal/kernel"
)

// DefaultRouteProtocol marks routes as ours.
const DefaultRouteProtocol = 143

// What a Want may hold at most.
const (
	maxNetworks  = 1000
	maxRoutes    = 20_000
	maxHostPorts = 10_000
)

// Config says where a Host works and how it knows what is its own.
type Config struct {
	// Table is the name of the nftables table, of family inet: required, at most
	// 64 letters, digits, '-' and '_', the first a letter. Nobody else may use it.
	Table string
	// RouteProtocol is the protocol number of our routes (ip route, "proto"), 5
	// to 255: nobody else may use it in the main table. 0: DefaultRouteProtocol.
	RouteProtocol int
	// NetNS is a descriptor of the network namespace; it may be closed after
	// Open. 0: the namespace of the calling thread.
	NetNS int
	// Logger's zero value discards.
	Logger logr.Logger
}

func (c *Config) check() error {
	var errs []error
	if !kernel.ValidTable(c.Table) {
		errs = append(errs, fmt.Errorf("field Table: %.70q is not a name of 1 to 64 letters, digits, '-' and '_' that starts with a letter", c.Table))
	}
	if c.RouteProtocol == 0 {
		c.RouteProtocol = DefaultRouteProtocol
	}
	if c.RouteProtocol < 5 || c.RouteProtocol > 255 { // 0 to 4 are the kernel's and those of boot
		errs = append(errs, fmt.Errorf("field RouteProtocol: %d is not in 5 to 255", c.RouteProtocol))
	}
	if c.NetNS < 0 {
		errs = append(errs, fmt.Errorf("field NetNS: %d is not a descriptor", c.NetNS))
	}
	if len(errs) > 0 {
		return fmt.Errorf("hostnet config: %w", errors.Join(errs...))
	}
	return nil
}

// Want is all that a node shall have. Its order means nothing.
type Want struct {
	// Pods are the networks of this node's pods: what they send elsewhere leaves
	// with the node's address. Empty: it keeps the pod's.
	Pods []netip.Prefix `json:"pods,omitempty"`
	// Except are destinations that see the pods' own addresses. Empty: none but
	// Pods and multicast.
	Except []netip.Prefix `json:"except,omitempty"`
	// Routes lead to other nodes' pods.
	Routes []Route `json:"routes,omitempty"`
	// HostPorts lead from ports of the node to pods.
	HostPorts []HostPort `json:"hostPorts,omitempty"`
}

// Route leads to a network by way of another node, which must be a neighbour.
type Route struct {
	To  netip.Prefix `json:"to"`
	Via netip.Addr   `json:"via"`
}

// HostPort leads from a port of the node to a pod's.
type HostPort struct {
	// Address of the node; the zero value: every one but loopback, of the family
	// of To.
	Address  netip.Addr      `json:"address,omitzero"`
	Port     uint16          `json:"port"`
	Protocol corev1.Protocol `json:"protocol"` // TCP, UDP or SCTP
	To       netip.AddrPort  `json:"to"`
}

func (p HostPort) key() string {
	return fmt.Sprintf("%s %s %d %t", p.Address, p.Protocol, p.Port, p.To.Addr().Is4())
}

// normal gives a sorted copy, or all that is wrong with it.
func (w Want) normal() (Want, error) {
	var errs []error
	bad := func(field string, i int, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s[%d]: %s", field, i, fmt.Sprintf(format, args...)))
	}
	for _, list := range []struct {
		field    string
		prefixes []netip.Prefix
	}{{"Pods", w.Pods}, {"Except", w.Except}} {
		for i, p := range list.prefixes {
			if !isNetwork(p) {
				bad(list.field, i, "%s is not a network", p)
			}
		}
	}
	routes := make(map[netip.Prefix]bool, len(w.Routes))
	for i, r := range w.Routes {
		switch {
		case !isNetwork(r.To) || r.To.Bits() == 0:
			bad("Routes", i, "%s is not a network that a route may lead to", r.To)
		case !isHost(r.Via) || r.Via.Is4() != r.To.Addr().Is4():
			bad("Routes", i, "%s is not the address of a node of the family of %s", r.Via, r.To)
		case routes[r.To]:
			bad("Routes", i, "%s is there twice", r.To)
		}
		routes[r.To] = true
	}
	ports := make(map[string]bool, len(w.HostPorts))
	for i, p := range w.HostPorts {
		switch {
		case p.Protocol != corev1.ProtocolTCP && p.Protocol != corev1.ProtocolUDP && p.Protocol != corev1.ProtocolSCTP:
			bad("HostPorts", i, "%.20q is not TCP, UDP or SCTP", p.Protocol)
		case p.Port == 0 || p.To.Port() == 0:
			bad("HostPorts", i, "a port is 0")
		case !isHost(p.To.Addr()):
			bad("HostPorts", i, "%s is not the address of a pod", p.To.Addr())
		case p.Address.IsValid() && (!isHost(p.Address) || p.Address.Is4() != p.To.Addr().Is4()):
			bad("HostPorts", i, "%s is not an address of the node of the family of %s", p.Address, p.To.Addr())
		case ports[p.key()]:
			bad("HostPorts", i, "port %d/%s is there twice", p.Port, p.Protocol)
		}
		ports[p.key()] = true
	}
	if len(w.Pods) > maxNetworks || len(w.Except) > maxNetworks || len(w.Routes) > maxRoutes || len(w.HostPorts) > maxHostPorts {
		errs = append(errs, fmt.Errorf("more than %d networks, %d routes or %d host ports", maxNetworks, maxRoutes, maxHostPorts))
	}
	if len(errs) > 0 {
		return Want{}, fmt.Errorf("host network: %w", errors.Join(errs...))
	}
	byPrefix := func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	}
	out := Want{Pods: slices.Clone(w.Pods), Except: slices.Clone(w.Except), Routes: slices.Clone(w.Routes), HostPorts: slices.Clone(w.HostPorts)}
	slices.SortFunc(out.Pods, byPrefix)
	slices.SortFunc(out.Except, byPrefix)
	out.Pods, out.Except = slices.Compact(out.Pods), slices.Compact(out.Except)
	slices.SortFunc(out.Routes, func(a, b Route) int { return byPrefix(a.To, b.To) })
	// Who names an address comes before who takes all.
	slices.SortFunc(out.HostPorts, func(a, b HostPort) int {
		return cmp.Or(-a.Address.Compare(b.Address), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), a.To.Compare(b.To))
	})
	return out, nil
}

func isNetwork(p netip.Prefix) bool {
	return p.IsValid() && p == p.Masked() && !p.Addr().Is4In6()
}

func isHost(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.Is4In6() && a.Zone() == ""
}

// Stats is what one Sync did.
type Stats struct {
	Routes int  // added, changed and removed
	Rules  bool // the table was written
}
