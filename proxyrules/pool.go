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
}

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

// choose picks the endpoints that get traffic, sorted by address, each once:
// the ready ones, or else those that serve while they terminate.
func choose(candidates []candidate) []Endpoint {
	for _, fit := range []func(c candidate) bool{
		func(c candidate) bool { return c.ready },
		func(c candidate) bool { return c.serving && c.Terminating },
	} {
		var out []Endpoint
		for _, c := range candidates {
			if fit(c) {
				out = append(out, c.Endpoint)
			}
		}
		if len(out) > 0 {
			slices.SortStableFunc(out, func(a, b Endpoint) int { return a.Addr.Compare(b.Addr) })
			return slices.CompactFunc(out, func(a, b Endpoint) bool { return a.Addr == b.Addr })
		}
	}
	return nil
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
