package proxyrules

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// candidate is an endpoint of one port of a Service, fit for traffic or not.
type candidate struct {
	Endpoint
	portName string
	protocol corev1.Protocol
	ready    bool
	serving  bool
	local    bool
	forNode  hint
	forZone  hint
}

// hint says whether an endpoint is meant for certain nodes or zones, and
// whether ours is among them.
type hint struct{ given, ours bool }

// pool flattens the EndpointSlices of a Service: one candidate for each
// endpoint and port.
func (s *serviceBuilder) pool(own []*discoveryv1.EndpointSlice) []candidate {
	var out []candidate
	for _, slice := range own {
		if slice.AddressType != discoveryv1.AddressTypeIPv4 && slice.AddressType != discoveryv1.AddressTypeIPv6 {
			continue
		}
		for i := range slice.Endpoints {
			endpoint := &slice.Endpoints[i]
			if len(endpoint.Addresses) == 0 {
				continue
			}
			addr, err := parseAddr(endpoint.Addresses[0])
			if err == nil && addr.Is4() != (slice.AddressType == discoveryv1.AddressTypeIPv4) {
				err = fmt.Errorf("%s is not of address type %s", addr, slice.AddressType)
			}
			if err != nil {
				s.problem(fmt.Sprintf("EndpointSlice %s endpoints[%d].addresses[0]", slice.Name, i), "%v", err)
				continue
			}
			out = s.candidates(out, slice, endpoint, addr)
		}
	}
	return out
}

func (s *serviceBuilder) candidates(out []candidate, slice *discoveryv1.EndpointSlice, endpoint *discoveryv1.Endpoint, addr netip.Addr) []candidate {
	c := candidate{
		ready:   endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready,
		serving: endpoint.Conditions.Serving == nil || *endpoint.Conditions.Serving,
		local:   s.node.Name != "" && endpoint.NodeName != nil && *endpoint.NodeName == s.node.Name,
	}
	c.Terminating = endpoint.Conditions.Terminating != nil && *endpoint.Conditions.Terminating
	if ref := endpoint.TargetRef; ref != nil {
		c.Target = slice.Namespace + "/" + ref.Name
	}
	if hints := endpoint.Hints; hints != nil {
		for i := range hints.ForNodes {
			c.forNode.given = true
			c.forNode.ours = c.forNode.ours || hints.ForNodes[i].Name == s.node.Name
		}
		for i := range hints.ForZones {
			c.forZone.given = true
			c.forZone.ours = c.forZone.ours || hints.ForZones[i].Name == s.node.Zone
		}
	}
	for i, port := range slice.Ports {
		if port.Port == nil {
			continue
		}
		if *port.Port < 1 || *port.Port > 65535 {
			s.problem(fmt.Sprintf("EndpointSlice %s ports[%d].port", slice.Name, i), "%d is not in 1 to 65535", *port.Port)
			continue
		}
		c.Addr = netip.AddrPortFrom(addr, uint16(*port.Port))
		c.portName, c.protocol = "", corev1.ProtocolTCP
		if port.Name != nil {
			c.portName = *port.Name
		}
		if port.Protocol != nil {
			c.protocol = *port.Protocol
		}
		out = append(out, c)
	}
	return out
}

func ofPort(pool []candidate, name string, protocol corev1.Protocol) []candidate {
	var out []candidate
	for _, c := range pool {
		if c.portName == name && c.protocol == protocol {
			out = append(out, c)
		}
	}
	return out
}

// fitness is which endpoints of one port and family get traffic, each list
// sorted by address, each endpoint once.
type fitness struct {
	cluster, local []Endpoint       // by policy
	serving        []netip.AddrPort // with traffic or not
	any            bool             // is there one that could get traffic, here or elsewhere?
}

func (c candidate) ending() bool { return c.serving && c.Terminating }

// judge follows Kubernetes v1.37.0 pkg/proxy/topology.go: the ready ones, as
// hints want it; or else those that serve while they terminate. The local ones
// are judged by themselves and know no hints.
func judge(candidates []candidate) fitness {
	ready := func(c candidate) bool { return c.ready }
	local := slices.DeleteFunc(slices.Clone(candidates), func(c candidate) bool { return !c.local })
	f := fitness{
		cluster: choose(candidates, hinted(candidates)),
		local:   choose(local, ready),
	}
	if len(f.cluster) == 0 {
		f.cluster = choose(candidates, candidate.ending)
	}
	if len(f.local) == 0 {
		f.local = choose(local, candidate.ending)
	}
	f.any = slices.ContainsFunc(candidates, func(c candidate) bool { return c.ready || c.ending() })
	for _, e := range choose(candidates, func(c candidate) bool { return c.serving }) {
		f.serving = append(f.serving, e.Addr)
	}
	return f
}

// hinted says which of the ready endpoints hints leave: those for this node, if
// each is for some node and one of them for this; or else the same by zone.
func hinted(candidates []candidate) func(c candidate) bool {
	node, zone := hint{given: true}, hint{given: true} // by all, ours in any
	for _, c := range candidates {
		if c.ready {
			node = hint{node.given && c.forNode.given, node.ours || c.forNode.ours}
			zone = hint{zone.given && c.forZone.given, zone.ours || c.forZone.ours}
		}
	}
	switch {
	case node.given && node.ours:
		return func(c candidate) bool { return c.ready && c.forNode.ours }
	case zone.given && zone.ours:
		return func(c candidate) bool { return c.ready && c.forZone.ours }
	}
	return func(c candidate) bool { return c.ready }
}

// choose picks endpoints, sorted by address, each once.
func choose(candidates []candidate, fit func(c candidate) bool) []Endpoint {
	var out []Endpoint
	for _, c := range candidates {
		if fit(c) {
			out = append(out, c.Endpoint)
		}
	}
	slices.SortStableFunc(out, func(a, b Endpoint) int { return a.Addr.Compare(b.Addr) })
	return slices.CompactFunc(out, func(a, b Endpoint) bool { return a.Addr == b.Addr })
}

// keepSlots orders chosen so that each endpoint that is in old keeps its
// index, if that is still within the length; the others fill the gaps in their
// order.
func keepSlots(old, chosen []Endpoint) []Endpoint {
	if len(old) == 0 || len(chosen) == 0 {
		return chosen
	}
	index := make(map[netip.AddrPort]int, len(chosen))
	for i, e := range chosen {
		index[e.Addr] = i
	}
	out := make([]Endpoint, len(chosen))
	taken := make([]bool, len(chosen)) // of chosen
	for i := 0; i < len(old) && i < len(out); i++ {
		if j, stays := index[old[i].Addr]; stays && !taken[j] {
			out[i], taken[j] = chosen[j], true
		}
	}
	next := 0
	for i := range out {
		if out[i].Addr.IsValid() {
			continue
		}
		for taken[next] {
			next++
		}
		out[i], taken[next] = chosen[next], true
	}
	return out
}
