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
	port    *discoveryv1.EndpointPort
	ready   bool
	serving bool
	local   bool
	forNode hint
	forZone hint
}

// hint says whether an endpoint is meant for certain nodes or zones, and
// whether ours is among them.
type hint struct{ given, ours bool }

// pool flattens the EndpointSlices of a Service: one candidate for each
// endpoint and port. They are there until the next call.
func (s *serviceBuilder) pool(own []*discoveryv1.EndpointSlice) []candidate {
	room := 0
	for _, slice := range own {
		room += len(slice.Endpoints) * len(slice.Ports)
	}
	out := slices.Grow(s.candidates[:0], min(room, MaxEndpoints))
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
			out = s.flatten(out, slice, endpoint, addr)
		}
	}
	s.candidates = out
	return out
}

func (s *serviceBuilder) flatten(out []candidate, slice *discoveryv1.EndpointSlice, endpoint *discoveryv1.Endpoint, addr netip.Addr) []candidate {
	c := candidate{
		ready:   endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready,
		serving: endpoint.Conditions.Serving == nil || *endpoint.Conditions.Serving,
		local:   s.node.Name != "" && endpoint.NodeName != nil && *endpoint.NodeName == s.node.Name,
	}
	c.Remote = s.node.Name != "" && endpoint.NodeName != nil && *endpoint.NodeName != s.node.Name
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
	for i := range slice.Ports {
		port := &slice.Ports[i]
		if port.Port == nil {
			continue
		}
		if *port.Port < 1 || *port.Port > 65535 {
			s.problem(fmt.Sprintf("EndpointSlice %s ports[%d].port", slice.Name, i), "%d is not in 1 to 65535", *port.Port)
			continue
		}
		c.Addr, c.port = netip.AddrPortFrom(addr, uint16(*port.Port)), port
		out = append(out, c)
	}
	return out
}

// ofPort picks the candidates of one port and address family. They are there
// until the next call.
func (s *serviceBuilder) ofPort(pool []candidate, name string, protocol corev1.Protocol, v4 bool) []*candidate {
	out := s.chosen[:0]
	for i := range pool {
		c := &pool[i]
		named := c.port.Name == nil && name == "" || c.port.Name != nil && *c.port.Name == name
		spoken := c.port.Protocol == nil && protocol == corev1.ProtocolTCP || c.port.Protocol != nil && *c.port.Protocol == protocol
		if named && spoken && c.Addr.Addr().Is4() == v4 {
			out = append(out, c)
		}
	}
	s.chosen = out
	return out
}

// fitness is which endpoints of one port and family get traffic, each list
// sorted by address, each endpoint once.
type fitness struct {
	cluster, local []Endpoint // by policy
	any            bool       // is there one that could get traffic, here or elsewhere?
}

func ready(c *candidate) bool { return c.ready }

func ending(c *candidate) bool { return c.serving && c.Terminating }

// judge follows Kubernetes v1.37.0 pkg/proxy/topology.go: the ready ones, as
// hints want it; or else those that serve while they terminate. The local ones
// are judged by themselves and know no hints.
func judge(candidates []*candidate, cluster, local bool) fitness {
	var f fitness
	f.any = slices.ContainsFunc(candidates, func(c *candidate) bool { return ready(c) || ending(c) })
	if cluster {
		if f.cluster = choose(candidates, hinted(candidates)); len(f.cluster) == 0 {
			f.cluster = choose(candidates, ending)
		}
	}
	if local {
		here := func(fit func(c *candidate) bool) []Endpoint {
			return choose(candidates, func(c *candidate) bool { return c.local && fit(c) })
		}
		if f.local = here(ready); len(f.local) == 0 {
			f.local = here(ending)
		}
	}
	return f
}

// hinted says which of the ready endpoints hints leave: those for this node, if
// each is for some node and one of them for this; or else the same by zone.
func hinted(candidates []*candidate) func(c *candidate) bool {
	node, zone := hint{given: true}, hint{given: true} // by all, ours in any
	for _, c := range candidates {
		if c.ready {
			node = hint{node.given && c.forNode.given, node.ours || c.forNode.ours}
			zone = hint{zone.given && c.forZone.given, zone.ours || c.forZone.ours}
		}
	}
	switch {
	case node.given && node.ours:
		return func(c *candidate) bool { return c.ready && c.forNode.ours }
	case zone.given && zone.ours:
		return func(c *candidate) bool { return c.ready && c.forZone.ours }
	}
	return ready
}

// choose picks endpoints, sorted by address, each once. None is nil.
func choose(candidates []*candidate, fit func(c *candidate) bool) []Endpoint {
	n, sorted := 0, true
	var last netip.AddrPort
	for _, c := range candidates {
		if fit(c) {
			n++
			sorted = sorted && last.Compare(c.Addr) < 0
			last = c.Addr
		}
	}
	if n == 0 {
		return nil
	}
	out := make([]Endpoint, 0, n)
	for _, c := range candidates {
		if fit(c) {
			out = append(out, c.Endpoint)
		}
	}
	if sorted {
		return out
	}
	slices.SortStableFunc(out, func(a, b Endpoint) int { return a.Addr.Compare(b.Addr) })
	return slices.CompactFunc(out, func(a, b Endpoint) bool { return a.Addr == b.Addr })
}

// draining are the endpoints that serve and are in neither list, sorted.
func draining(candidates []*candidate, lists ...[]Endpoint) (out []netip.AddrPort) {
	for _, e := range choose(candidates, func(c *candidate) bool { return c.serving }) {
		same := func(o Endpoint) bool { return o.Addr == e.Addr }
		if !slices.ContainsFunc(lists, func(list []Endpoint) bool { return slices.ContainsFunc(list, same) }) {
			out = append(out, e.Addr)
		}
	}
	return out
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
