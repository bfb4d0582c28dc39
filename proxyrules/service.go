package proxyrules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

const (
	defaultAffinity = corev1.DefaultClientIPServiceAffinitySeconds
	maxAffinity     = 86400 // Kubernetes v1.37.0 pkg/apis/core/validation
)

// serviceBuilder makes the fronts of one Service.
type serviceBuilder struct {
	*builder
	id       string
	spec     *corev1.ServiceSpec
	rules    *serviceRules
	affinity int32
	// The policies Local.
	internal, external bool
}

func (s *serviceBuilder) problem(field, format string, args ...any) {
	if len(s.rules.problems) < maxProblemsPerService {
		s.rules.problems = append(s.rules.problems, Problem{s.id, field, fmt.Sprintf(format, args...)})
	}
}

func (s *serviceBuilder) build(service *corev1.Service, own []*discoveryv1.EndpointSlice) {
	if s.spec.Type == corev1.ServiceTypeExternalName || s.spec.ClusterIP == corev1.ClusterIPNone {
		return
	}
	balancer := s.spec.Type == corev1.ServiceTypeLoadBalancer
	s.internal = s.spec.InternalTrafficPolicy != nil && *s.spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	s.external = s.spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal &&
		(balancer || s.spec.Type == corev1.ServiceTypeNodePort || len(s.spec.ExternalIPs) > 0)
	s.sessionAffinity()
	addresses := s.addresses(service)
	families := s.families(addresses)
	pool := s.pool(own)
	for i := range s.spec.Ports {
		s.port(i, addresses, families, pool)
	}
	if balancer && s.external {
		s.healthCheck(pool)
	}
}

func (s *serviceBuilder) sessionAffinity() {
	switch s.spec.SessionAffinity {
	case "", corev1.ServiceAffinityNone:
		return
	case corev1.ServiceAffinityClientIP:
	default:
		s.problem("spec.sessionAffinity", "%.40q is not None or ClientIP: every connection is balanced by itself", s.spec.SessionAffinity)
		return
	}
	s.affinity = defaultAffinity
	config := s.spec.SessionAffinityConfig
	if config == nil || config.ClientIP == nil || config.ClientIP.TimeoutSeconds == nil {
		return
	}
	if seconds := *config.ClientIP.TimeoutSeconds; seconds < 1 || seconds > maxAffinity {
		s.problem("spec.sessionAffinityConfig.clientIP.timeoutSeconds", "%d is not in 1 to %d: %d is used", seconds, maxAffinity, s.affinity)
	} else {
		s.affinity = seconds
	}
}

func (s *serviceBuilder) healthCheck(pool []candidate) {
	number := s.spec.HealthCheckNodePort
	if number < 1 || number > 65535 {
		s.problem("spec.healthCheckNodePort", "%d is not in 1 to 65535: no load balancer can ask this node", number)
		return
	}
	local := [2]map[netip.Addr]bool{{}, {}}
	for i := range pool {
		c := &pool[i]
		if c.local && c.ready {
			family := 0
			if c.Addr.Addr().Is6() {
				family = 1
			}
			local[family][c.Addr.Addr()] = true
		}
	}
	s.rules.health = &HealthCheck{Service: s.id, Port: uint16(number), LocalEndpoints: max(len(local[0]), len(local[1]))}
}

type frontAddress struct {
	addr    netip.Addr
	kind    Kind
	sources []netip.Prefix
}

// addresses are all at which the Service stands, node ports apart.
func (s *serviceBuilder) addresses(service *corev1.Service) []frontAddress {
	var out []frontAddress
	add := func(kind Kind, field, text string) {
		addr, err := parseAddr(text)
		if err != nil {
			s.problem(field, "%v", err)
			return
		}
		if slices.ContainsFunc(out, func(a frontAddress) bool { return a.addr == addr }) {
			s.problem(field, "%s is given twice: the first one counts", addr)
			return
		}
		out = append(out, frontAddress{addr: addr, kind: kind})
	}
	switch {
	case len(s.spec.ClusterIPs) > 0:
		for i, ip := range s.spec.ClusterIPs {
			add(ClusterIP, fmt.Sprintf("spec.clusterIPs[%d]", i), ip)
		}
	case s.spec.ClusterIP != "":
		add(ClusterIP, "spec.clusterIP", s.spec.ClusterIP)
	default:
		s.problem("spec.clusterIP", "empty: no address was allocated")
	}
	for i, ip := range s.spec.ExternalIPs {
		add(ExternalIP, fmt.Sprintf("spec.externalIPs[%d]", i), ip)
	}
	if s.spec.Type != corev1.ServiceTypeLoadBalancer {
		return out
	}
	for i, ingress := range service.Status.LoadBalancer.Ingress {
		if ingress.IP == "" || ingress.IPMode != nil && *ingress.IPMode != corev1.LoadBalancerIPModeVIP {
			continue
		}
		add(LoadBalancer, fmt.Sprintf("status.loadBalancer.ingress[%d].ip", i), ingress.IP)
	}
	if len(s.spec.LoadBalancerSourceRanges) > 0 {
		out = s.restrict(out)
	}
	return out
}

// restrict tells the load balancer addresses who may reach them.
func (s *serviceBuilder) restrict(addresses []frontAddress) []frontAddress {
	var ranges []netip.Prefix
	for i, text := range s.spec.LoadBalancerSourceRanges {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil || p.Addr().Is4In6() {
			s.problem(fmt.Sprintf("spec.loadBalancerSourceRanges[%d]", i), "%.60q is not a network: left out", text)
			continue
		}
		ranges = append(ranges, p.Masked())
	}
	if len(ranges) == 0 {
		s.problem("spec.loadBalancerSourceRanges", "none can be read: the load balancer addresses are left out, rather than open to all")
		return slices.DeleteFunc(addresses, func(a frontAddress) bool { return a.kind == LoadBalancer })
	}
	for i := range addresses {
		a := &addresses[i]
		if a.kind != LoadBalancer {
			continue
		}
		var sources []netip.Prefix
		for _, p := range ranges {
			if p.Addr().Is4() == a.addr.Is4() {
				sources = append(sources, p)
			}
		}
		if len(sources) == 0 {
			s.problem("spec.loadBalancerSourceRanges", "none is of the family of %s, which is open to all", a.addr)
			continue
		}
		if slices.ContainsFunc(sources, func(p netip.Prefix) bool { return p.Bits() == 0 }) {
			continue
		}
		// What this node sends to an address of its own has that address as
		// its sender.
		if slices.ContainsFunc(s.node.Addresses, func(addr netip.Addr) bool { return contains(sources, addr) }) {
			sources = append(sources, netip.PrefixFrom(a.addr, a.addr.BitLen()))
		}
		a.sources = uniq(sources, comparePrefix)
	}
	return addresses
}

// families are those in which node ports answer, as unspecified addresses.
func (s *serviceBuilder) families(addresses []frontAddress) []netip.Addr {
	var v4, v6 bool
	for _, family := range s.spec.IPFamilies {
		v4 = v4 || family == corev1.IPv4Protocol
		v6 = v6 || family == corev1.IPv6Protocol
	}
	if len(s.spec.IPFamilies) == 0 {
		for _, a := range addresses {
			if a.kind == ClusterIP {
				v4 = v4 || a.addr.Is4()
				v6 = v6 || a.addr.Is6()
			}
		}
	}
	var out []netip.Addr
	if v4 {
		out = append(out, netip.IPv4Unspecified())
	}
	if v6 {
		out = append(out, netip.IPv6Unspecified())
	}
	return out
}

// port makes the fronts of one port.
func (s *serviceBuilder) port(i int, addresses []frontAddress, families []netip.Addr, pool []candidate) {
	port := &s.spec.Ports[i]
	field := fmt.Sprintf("spec.ports[%d]", i)
	protocol := port.Protocol
	if protocol == "" {
		protocol = corev1.ProtocolTCP
	}
	if protocol != corev1.ProtocolTCP && protocol != corev1.ProtocolUDP && protocol != corev1.ProtocolSCTP {
		s.problem(field+".protocol", "%.20q is not TCP, UDP or SCTP", protocol)
		return
	}
	if port.Port < 1 || port.Port > 65535 {
		s.problem(field+".port", "%d is not in 1 to 65535", port.Port)
		return
	}
	fronts := make([]*Front, 0, len(addresses)+len(families))
	add := func(f Front, number int32) {
		f.Protocol, f.Port, f.Service, f.PortName, f.Affinity = protocol, uint16(number), s.id, port.Name, s.affinity
		fronts = append(fronts, &f)
	}
	for _, a := range addresses {
		add(Front{FrontKey: FrontKey{Addr: a.addr}, Kind: a.kind, Sources: a.sources}, port.Port)
	}
	if number, ok := s.nodePort(port, field); ok {
		for _, family := range families {
			add(Front{FrontKey: FrontKey{Addr: family}, Kind: NodePort}, number)
		}
	}
	for _, v4 := range []bool{true, false} {
		s.fill(fronts, v4, field, pool)
	}
}

func (s *serviceBuilder) nodePort(port *corev1.ServicePort, field string) (int32, bool) {
	if s.spec.Type != corev1.ServiceTypeNodePort && s.spec.Type != corev1.ServiceTypeLoadBalancer {
		return 0, false
	}
	switch {
	case port.NodePort < 0 || port.NodePort > 65535:
		s.problem(field+".nodePort", "%d is not in 1 to 65535", port.NodePort)
		return 0, false
	case port.NodePort == 0 && s.spec.Type == corev1.ServiceTypeNodePort:
		s.problem(field+".nodePort", "0: no port was allocated")
	}
	return port.NodePort, port.NodePort != 0
}

// fill gives the fronts of one family and port their endpoints, and adds them.
func (s *serviceBuilder) fill(all []*Front, v4 bool, field string, pool []candidate) {
	fronts := make([]*Front, 0, len(all))
	wantCluster, wantLocal := false, false
	for _, f := range all {
		if f.Addr.Is4() != v4 {
			continue
		}
		fronts = append(fronts, f)
		outside := f.Kind != ClusterIP
		f.Local = outside && s.external || !outside && s.internal
		wantLocal = wantLocal || f.Local
		wantCluster = wantCluster || outside || !f.Local
	}
	if len(fronts) == 0 {
		return
	}
	mine := s.ofPort(pool, fronts[0].PortName, fronts[0].Protocol, v4)
	fit := judge(mine, wantCluster, wantLocal)
	var cluster, local []Endpoint
	if wantCluster {
		cluster = s.keep(fronts, false, s.limit(field, fit.cluster))
	}
	if wantLocal {
		local = s.keep(fronts, true, s.limit(field, fit.local))
	}
	for _, f := range fronts {
		s.finish(f, fit.any, cluster, local)
		if f.Protocol == corev1.ProtocolUDP {
			f.Draining = draining(mine, f.Endpoints, f.Inside)
		}
		if old := s.previous.Front(f.FrontKey); old != nil && old.equal(f) {
			f = old
		}
		s.rules.fronts = append(s.rules.fronts, f)
	}
}

// finish says what a front does; any is whether the Service has an endpoint.
func (s *serviceBuilder) finish(f *Front, any bool, cluster, local []Endpoint) {
	f.Masquerade = MasqueradeAlways
	f.Endpoints = cluster
	if f.Local {
		f.Endpoints = local
	}
	switch {
	case f.Kind == ClusterIP:
		f.Masquerade = MasqueradeOffCluster
	case f.Local:
		f.Masquerade = MasqueradeNode
		f.Inside = cluster
	}
	switch {
	case !any:
		f.Action = Reject
	case len(f.Endpoints) == 0:
		f.Action = Drop
	default:
		f.Action = Balance
	}
}

func (s *serviceBuilder) limit(field string, chosen []Endpoint) []Endpoint {
	limit := MaxEndpoints
	if s.affinity > 0 {
		limit = MaxAffinityEndpoints
	}
	if len(chosen) > limit {
		s.problem(field, "%d endpoints, only the first %d by address are used", len(chosen), limit)
		chosen = chosen[:limit]
	}
	return chosen
}

// keep gives the endpoints of a list the index that they have in the previous
// table, at any of the fronts that use it.
func (s *serviceBuilder) keep(fronts []*Front, local bool, chosen []Endpoint) []Endpoint {
	for _, f := range fronts {
		old := s.previous.Front(f.FrontKey)
		if old == nil || old.Service != s.id && old.Service != "" || f.Local != local && f.Kind == ClusterIP {
			continue
		}
		list := old.Endpoints
		if !local && f.Local {
			list = old.Inside
		}
		if len(list) == 0 {
			continue
		}
		kept := keepSlots(list, chosen)
		if slices.Equal(kept, list) {
			return list
		}
		return kept
	}
	return chosen
}

func parseAddr(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%.60q is not an IP address", text)
	}
	addr = addr.Unmap()
	if addr.IsUnspecified() || addr.IsLoopback() || addr.IsMulticast() || addr.IsLinkLocalUnicast() {
		return netip.Addr{}, fmt.Errorf("%s cannot be used: unspecified, loopback, link-local or multicast", addr)
	}
	return addr, nil
}
