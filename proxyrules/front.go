package proxyrules

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

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
	Balance Action = "balance" // to one of Endpoints, each with the same odds
	Reject  Action = "reject"  // refused with an ICMP error: the Service has no endpoint
	Drop    Action = "drop"    // dropped: a Local policy and no endpoint on this node
)

// Masquerade is which connections leave with the node's address as their
// source. A back-end that reaches itself through a front always does.
type Masquerade string

// The masquerade rules of a front.
const (
	MasqueradeOffCluster Masquerade = "off-cluster" // unless from a pod
	MasqueradeAlways     Masquerade = "always"
	MasqueradeNode       Masquerade = "node" // if the node itself is the sender
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
	// Remote says that it is on another node: both nodes have names, and they
	// differ. What is on another node never sends to itself through this one.
	Remote bool `json:"remote,omitempty"`
}

// Front is what one address, protocol and port must do. It is never changed
// once it stands in a Table; tables share it.
type Front struct {
	FrontKey
	Kind     Kind   `json:"kind"`
	Service  string `json:"service"`            // namespace/name
	PortName string `json:"portName,omitempty"` // of the Service's port
	// Action is what becomes of a connection, unless Inside takes it.
	Action     Action     `json:"action"`
	Masquerade Masquerade `json:"masquerade"`
	// Local says that the traffic policy is Local: Endpoints are on this node.
	Local bool `json:"local,omitempty"`
	// Affinity is for how many seconds after its last connection a client
	// address gets the same endpoint again, 1 to 86400; 0: each connection is
	// balanced by itself. A client's endpoint is one of a port of a Service:
	// fronts of the same Service, PortName, Protocol, address family and list
	// (see Group) share it.
	Affinity int32 `json:"affinitySeconds,omitempty"`
	// Endpoints in slot order: one that stays between two tables keeps its
	// index unless the list gets shorter than that. Empty unless Action is
	// Balance. Fronts share it; it is never changed.
	Endpoints []Endpoint `json:"endpoints,omitempty"`
	// Inside are the endpoints for connections from pods (Node.Local) and from
	// the node itself to a front other than a ClusterIP whose policy is Local:
	// they go as policy Cluster says, whatever Action is. In slot order of its
	// own. Empty for every other front, and if the Service has no endpoint.
	Inside []Endpoint `json:"inside,omitempty"`
	// Sources, if not empty, are the networks from which a LoadBalancer front
	// may be reached; what comes from elsewhere is dropped. Sorted. All are of
	// the front's address family.
	Sources []netip.Prefix `json:"sources,omitempty"`
	// Draining are endpoints that serve and get no new connection: UDP flows
	// to them go on. Sorted; empty unless Protocol is UDP.
	Draining []netip.AddrPort `json:"draining,omitempty"`
}

// Group names a list of endpoints among whom client addresses are remembered.
type Group struct {
	Service, PortName string
	Protocol          corev1.Protocol
	V4                bool
	Local             bool // the endpoints on this node, not those of policy Cluster
}

// Group names the list Endpoints, or the list Inside.
func (f *Front) Group(inside bool) Group {
	return Group{Service: f.Service, PortName: f.PortName, Protocol: f.Protocol, V4: f.Addr.Is4(), Local: f.Local && !inside}
}

// sameRules says whether both give the same rules, whatever their names.
func (f *Front) sameRules(o *Front) bool {
	same := func(a, b Endpoint) bool { return a.Addr == b.Addr && a.Remote == b.Remote }
	return f.Kind == o.Kind && f.Action == o.Action && f.Masquerade == o.Masquerade &&
		f.Local == o.Local && f.Affinity == o.Affinity && (f.Affinity == 0 || f.Group(false) == o.Group(false)) &&
		slices.Equal(f.Sources, o.Sources) && slices.Equal(f.Draining, o.Draining) &&
		slices.EqualFunc(f.Endpoints, o.Endpoints, same) && slices.EqualFunc(f.Inside, o.Inside, same)
}

func (f *Front) equal(o *Front) bool {
	return f.Kind == o.Kind && f.Service == o.Service && f.PortName == o.PortName && f.Action == o.Action &&
		f.Masquerade == o.Masquerade && f.Local == o.Local && f.Affinity == o.Affinity &&
		slices.Equal(f.Sources, o.Sources) && slices.Equal(f.Draining, o.Draining) &&
		sameList(f.Endpoints, o.Endpoints) && sameList(f.Inside, o.Inside)
}

// sameList compares lists that are often one and the same.
func sameList(a, b []Endpoint) bool {
	if len(a) == len(b) && len(a) > 0 && &a[0] == &b[0] {
		return true
	}
	return slices.Equal(a, b)
}
