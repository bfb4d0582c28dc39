package proxyrules

import (
	"cmp"
	"net/netip"
	"slices"
	"sort"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// What Build accepts at most. Anything beyond is left out with a Problem.
const (
	// MaxFronts is the number of fronts in a Table.
	MaxFronts = 500_000
	// MaxEndpoints is the number of endpoints of one front.
	MaxEndpoints = 32_768
)

// Node is what the rules must know of the machine they stand on.
type Node struct {
	// Name tells local endpoints apart, for internalTrafficPolicy Local.
	// Empty: no endpoint is local.
	Name string `json:"name,omitempty"`
	// Addresses are those at which node ports answer. Empty: node ports
	// answer nowhere.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// PodCIDRs hold the pods, of this node and of all others. Traffic to
	// cluster IPs from elsewhere leaves with the node's address. Empty: it
	// keeps its own.
	PodCIDRs []netip.Prefix `json:"podCIDRs,omitempty"`
	// MasqueradeAll makes all traffic to cluster IPs leave with the node's
	// address. The zero value: only what does not come from PodCIDRs.
	MasqueradeAll bool `json:"masqueradeAll,omitempty"`
	// MasqueradeEgress makes pod traffic to anything outside PodCIDRs leave
	// with the node's address. The zero value: it keeps the pod's.
	MasqueradeEgress bool `json:"masqueradeEgress,omitempty"`
	// NoMasquerade are destinations that see the pods' own addresses in spite
	// of MasqueradeEgress. Empty: none but PodCIDRs and multicast.
	NoMasquerade []netip.Prefix `json:"noMasquerade,omitempty"`
}

func (n Node) clone() Node {
	n.Addresses = uniq(n.Addresses, netip.Addr.Compare)
	n.PodCIDRs = uniq(n.PodCIDRs, comparePrefix)
	n.NoMasquerade = uniq(n.NoMasquerade, comparePrefix)
	return n
}

// Equal says whether both give the same rules.
func (n Node) Equal(o Node) bool {
	return n.Name == o.Name && n.MasqueradeAll == o.MasqueradeAll && n.MasqueradeEgress == o.MasqueradeEgress &&
		slices.Equal(n.Addresses, o.Addresses) && slices.Equal(n.PodCIDRs, o.PodCIDRs) &&
		slices.Equal(n.NoMasquerade, o.NoMasquerade)
}

// HasAddress says whether node ports answer at addr.
func (n Node) HasAddress(addr netip.Addr) bool { return slices.Contains(n.Addresses, addr) }

// HasPod says whether addr lies in one of the pod CIDRs.
func (n Node) HasPod(addr netip.Addr) bool { return contains(n.PodCIDRs, addr) }

// Kind is what sort of address a front stands at.
type Kind string

// The kinds of fronts.
const (
	ClusterIP    Kind = "ClusterIP"
	NodePort     Kind = "NodePort"
	ExternalIP   Kind = "ExternalIP"
	LoadBalancer Kind = "LoadBalancer"
)

// Action is what happens to a new connection to a front.
type Action string

// The actions.
const (
	Balance Action = "balance" // to one of the endpoints, each with the same odds
	Reject  Action = "reject"  // refused with an ICMP error: the Service has no endpoint
	Drop    Action = "drop"    // dropped: a Local policy and no endpoint on this node
)

// Masquerade is which connections leave with the node's address as their
// source. A back-end that reaches itself through a front always does.
type Masquerade string

// The masquerade rules of a front.
const (
	MasqueradeOffCluster Masquerade = "off-cluster" // unless from Node.PodCIDRs
	MasqueradeAlways     Masquerade = "always"
)

// FrontKey names a front. Addr is the unspecified address of its family
// (0.0.0.0 or ::) for a node port.
type FrontKey struct {
	Addr     netip.Addr      `json:"addr"`
	Protocol corev1.Protocol `json:"protocol"`
	Port     uint16          `json:"port"`
}

// Compare orders keys by address, protocol and port.
func (k FrontKey) Compare(o FrontKey) int {
	if c := k.Addr.Compare(o.Addr); c != 0 {
		return c
	}
	if c := cmp.Compare(k.Protocol, o.Protocol); c != 0 {
		return c
	}
	return cmp.Compare(k.Port, o.Port)
}

// String reads "10.96.0.10:80/TCP", and "node:30080/TCP" or "node6:30080/TCP"
// for node ports.
func (k FrontKey) String() string {
	host := netip.AddrPortFrom(k.Addr, k.Port).String()
	if k.Addr.IsUnspecified() {
		host = "node" + host[len("0.0.0.0"):]
		if k.Addr.Is6() {
			host = "node6" + netip.AddrPortFrom(k.Addr, k.Port).String()[len("[::]"):]
		}
	}
	return host + "/" + string(k.Protocol)
}

// Endpoint is one back-end of a front.
type Endpoint struct {
	Addr        netip.AddrPort `json:"addr"`
	Target      string         `json:"target,omitempty"` // namespace/name of the pod, if known
	Terminating bool           `json:"terminating,omitempty"`
}

// Front is what one address, protocol and port must do. It is never changed
// once it stands in a Table; tables share it.
type Front struct {
	FrontKey
	Kind       Kind       `json:"kind"`
	Service    string     `json:"service"`            // namespace/name
	PortName   string     `json:"portName,omitempty"` // of the Service's port
	Action     Action     `json:"action"`
	Masquerade Masquerade `json:"masquerade"`
	// Endpoints in slot order: one that stays between two tables keeps its
	// index unless the list gets shorter than that. Empty unless Action is
	// Balance.
	Endpoints []Endpoint `json:"endpoints,omitempty"`
}

// sameRules says whether both give the same rules, whatever their names.
func (f *Front) sameRules(o *Front) bool {
	return f.Kind == o.Kind && f.Action == o.Action && f.Masquerade == o.Masquerade &&
		slices.EqualFunc(f.Endpoints, o.Endpoints, func(a, b Endpoint) bool { return a.Addr == b.Addr })
}

func (f *Front) equal(o *Front) bool {
	return f.Kind == o.Kind && f.Service == o.Service && f.PortName == o.PortName && f.Action == o.Action &&
		f.Masquerade == o.Masquerade && slices.Equal(f.Endpoints, o.Endpoints)
}

// Table is all fronts of a node, sorted by key, without duplicates. It is
// immutable once made, and safe for concurrent use.
type Table struct {
	Node   Node     `json:"node"`
	Fronts []*Front `json:"fronts"`

	clusterIPs map[netip.Addr]struct{}
	services   map[types.NamespacedName]*serviceRules // spares work in the next Build
}

// NewTable makes a Table of fronts as a dialect finds them in the kernel. It
// sorts its copy of fronts; of equal keys the first one stays.
func NewTable(node Node, fronts []*Front) *Table {
	t := &Table{Node: node.clone(), Fronts: slices.Clone(fronts)}
	slices.SortStableFunc(t.Fronts, func(a, b *Front) int { return a.Compare(b.FrontKey) })
	t.Fronts = slices.CompactFunc(t.Fronts, func(a, b *Front) bool { return a.FrontKey == b.FrontKey })
	t.index()
	return t
}

func (t *Table) index() {
	t.clusterIPs = make(map[netip.Addr]struct{})
	for _, f := range t.Fronts {
		if f.Kind == ClusterIP {
			t.clusterIPs[f.Addr] = struct{}{}
		}
	}
}

// Front returns the front with that key, or nil. A nil Table has none.
func (t *Table) Front(key FrontKey) *Front {
	if t == nil {
		return nil
	}
	i := sort.Search(len(t.Fronts), func(i int) bool { return t.Fronts[i].Compare(key) >= 0 })
	if i == len(t.Fronts) || t.Fronts[i].FrontKey != key {
		return nil
	}
	return t.Fronts[i]
}

// HasClusterIP says whether addr is the cluster IP of a Service.
func (t *Table) HasClusterIP(addr netip.Addr) bool {
	_, ok := t.clusterIPs[addr]
	return ok
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return cmp.Compare(a.Bits(), b.Bits())
}

// uniq returns a sorted copy without duplicates.
func uniq[T comparable](in []T, compare func(a, b T) int) []T {
	out := slices.Clone(in)
	slices.SortFunc(out, compare)
	return slices.Compact(out)
}
