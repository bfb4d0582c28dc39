package proxyrules

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Node is what the rules must know of the machine they stand on.
type Node struct {
	// Name tells local endpoints apart, for the policies Local and for hints.
	// Empty: no endpoint is local.
	Name string `json:"name,omitempty"`
	// Zone is the node's label topology.kubernetes.io/zone, for hints. Empty:
	// hints by zone are ignored.
	Zone string `json:"zone,omitempty"`
	// Addresses are those at which node ports answer. Empty: node ports
	// answer nowhere.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// PodCIDRs hold the pods, of this node and of all others. Traffic to
	// cluster IPs from elsewhere leaves with the node's address. Empty: it
	// keeps its own, unless LocalCIDRs or LocalInterface is set.
	PodCIDRs []netip.Prefix `json:"podCIDRs,omitempty"`
	// LocalCIDRs, if set, say in the place of PodCIDRs which senders are pods:
	// kube-proxy's NodeCIDR, if they hold the pods of this node alone.
	LocalCIDRs []netip.Prefix `json:"localCIDRs,omitempty"`
	// LocalInterface, if set, says in the place of addresses that what comes
	// in by this link comes from a pod: its name, or with '*' at the end how
	// its name begins. At most 15 bytes beside that. Not with LocalCIDRs.
	LocalInterface string `json:"localInterface,omitempty"`
	// ServiceCIDRs hold the cluster IPs. What goes to an address of them that
	// no Service has is dropped. Empty: it goes where routing takes it.
	ServiceCIDRs []netip.Prefix `json:"serviceCIDRs,omitempty"`
	// MasqueradeAll makes all traffic to cluster IPs leave with the node's
	// address. The zero value: only what does not come from pods.
	MasqueradeAll bool `json:"masqueradeAll,omitempty"`
	// MasqueradeEgress makes pod traffic to anything outside PodCIDRs leave
	// with the node's address. The zero value: it keeps the pod's.
	MasqueradeEgress bool `json:"masqueradeEgress,omitempty"`
	// NoMasquerade are destinations that see the pods' own addresses in spite
	// of MasqueradeEgress. Empty: none but PodCIDRs and multicast.
	NoMasquerade []netip.Prefix `json:"noMasquerade,omitempty"`
}

const maxInterfaceName = 15 // IFNAMSIZ less its zero byte

func (n Node) clone() Node {
	n.Addresses = uniq(n.Addresses, netip.Addr.Compare)
	n.PodCIDRs = uniq(n.PodCIDRs, comparePrefix)
	n.LocalCIDRs = uniq(n.LocalCIDRs, comparePrefix)
	n.ServiceCIDRs = uniq(n.ServiceCIDRs, comparePrefix)
	n.NoMasquerade = uniq(n.NoMasquerade, comparePrefix)
	return n
}

// check names all fields that cannot be used.
func (n Node) check() error {
	var errs []error
	for i, addr := range n.Addresses {
		if !addr.IsValid() || addr.IsUnspecified() || addr.Zone() != "" || addr.Is4In6() {
			errs = append(errs, fmt.Errorf("field Node.Addresses[%d]: %s is not the address of a node", i, addr))
		}
	}
	for _, list := range []struct {
		name     string
		prefixes []netip.Prefix
	}{{"PodCIDRs", n.PodCIDRs}, {"LocalCIDRs", n.LocalCIDRs}, {"ServiceCIDRs", n.ServiceCIDRs}, {"NoMasquerade", n.NoMasquerade}} {
		for i, prefix := range list.prefixes {
			if !prefix.IsValid() || prefix != prefix.Masked() || prefix.Addr().Is4In6() {
				errs = append(errs, fmt.Errorf("field Node.%s[%d]: %s is not a network", list.name, i, prefix))
			}
		}
	}
	if n.LocalInterface != "" {
		name := strings.TrimSuffix(n.LocalInterface, "*")
		if name == "" || len(name) > maxInterfaceName || strings.ContainsFunc(name, notInterface) {
			errs = append(errs, fmt.Errorf("field Node.LocalInterface: %.40q is not the name of a link", n.LocalInterface))
		}
		if len(n.LocalCIDRs) > 0 {
			errs = append(errs, errors.New("fields Node.LocalInterface and Node.LocalCIDRs exclude each other"))
		}
	}
	return errors.Join(errs...)
}

func notInterface(r rune) bool {
	return r <= ' ' || r > '~' || strings.ContainsRune(`/:*"\`, r)
}

// Equal says whether both give the same rules.
func (n Node) Equal(o Node) bool {
	return n.Name == o.Name && n.Zone == o.Zone && n.LocalInterface == o.LocalInterface &&
		n.MasqueradeAll == o.MasqueradeAll && n.MasqueradeEgress == o.MasqueradeEgress &&
		slices.Equal(n.Addresses, o.Addresses) && slices.Equal(n.PodCIDRs, o.PodCIDRs) &&
		slices.Equal(n.LocalCIDRs, o.LocalCIDRs) && slices.Equal(n.ServiceCIDRs, o.ServiceCIDRs) &&
		slices.Equal(n.NoMasquerade, o.NoMasquerade)
}

// HasAddress says whether node ports answer at addr.
func (n Node) HasAddress(addr netip.Addr) bool { return slices.Contains(n.Addresses, addr) }

// HasPod says whether addr lies in one of the pod CIDRs.
func (n Node) HasPod(addr netip.Addr) bool { return contains(n.PodCIDRs, addr) }

// Local gives the networks of one family whose senders are pods: LocalCIDRs,
// or else PodCIDRs; nil with LocalInterface.
func (n Node) Local(v4 bool) []netip.Prefix {
	all := n.PodCIDRs
	switch {
	case n.LocalInterface != "":
		return nil
	case len(n.LocalCIDRs) > 0:
		all = n.LocalCIDRs
	}
	var out []netip.Prefix
	for _, p := range all {
		if p.Addr().Is4() == v4 {
			out = append(out, p)
		}
	}
	return out
}

// isPod says whether a packet comes from a pod, and whether that can be told
// at all: there are networks of its family, or a name of links.
func (n Node) isPod(p Packet) (pod, known bool) {
	if n.LocalInterface != "" {
		name, prefix := strings.CutSuffix(n.LocalInterface, "*")
		if prefix {
			return strings.HasPrefix(p.Interface, name), true
		}
		return p.Interface == name, true
	}
	local := n.Local(p.From.Is4())
	return contains(local, p.From), len(local) > 0
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}
