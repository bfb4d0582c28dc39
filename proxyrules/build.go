package proxyrules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// LabelServiceProxyName marks Services that another proxy serves.
const LabelServiceProxyName = "service.kubernetes.io/service-proxy-name"

const maxProblemsPerService = 16

// serviceRules is what one Service came to, and from which objects.
type serviceRules struct {
	service  *corev1.Service
	slices   []*discoveryv1.EndpointSlice
	fronts   []*Front // before clashes with other Services
	problems []Problem
}

// Build computes the table of a node. It follows kube-proxy (Kubernetes v1.37.0
// pkg/proxy): headless and ExternalName Services and those labelled
// service-proxy-name are skipped; endpoints are the ready ones, or, if there is
// none, those that still serve while they terminate.
//
// Endpoints that were in previous keep their index; previous may be nil. If two
// Services claim one front, the first by namespace and name has it. The objects
// must not be changed afterwards: what has the same address as in the build of
// previous is taken to be the same.
func Build(services []*corev1.Service, endpointSlices []*discoveryv1.EndpointSlice, node Node, previous *Table) (*Table, []Problem) {
	b := builder{node: node.clone(), previous: previous}
	b.reuse = previous != nil && previous.Node.Equal(b.node)
	groups := group(endpointSlices)

	ordered := slices.DeleteFunc(slices.Clone(services), func(s *corev1.Service) bool { return s == nil })
	slices.SortStableFunc(ordered, func(a, b *corev1.Service) int {
		if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	t := &Table{Node: b.node, services: make(map[types.NamespacedName]*serviceRules, len(services))}
	var problems []Problem
	for _, service := range ordered {
		id := types.NamespacedName{Namespace: service.Namespace, Name: service.Name}
		if _, twice := t.services[id]; twice {
			problems = append(problems, Problem{id.String(), "metadata.name", "given twice, the first one counts"})
			continue
		}
		rules := b.service(id, service, groups[id])
		t.services[id] = rules
		problems = append(problems, rules.problems...)
		t.Fronts = append(t.Fronts, rules.fronts...)
	}
	problems = append(problems, t.resolve()...)
	t.index()
	return t, problems
}

// resolve sorts the fronts and leaves out those that clash or are too many.
func (t *Table) resolve() []Problem {
	var problems []Problem
	slices.SortStableFunc(t.Fronts, func(a, b *Front) int { return a.Compare(b.FrontKey) })
	kept := t.Fronts[:0]
	for _, f := range t.Fronts {
		switch {
		case len(kept) > 0 && kept[len(kept)-1].FrontKey == f.FrontKey:
			problems = append(problems, Problem{f.Service, "spec",
				fmt.Sprintf("%s is taken by service %s", f.FrontKey, kept[len(kept)-1].Service)})
		case len(kept) == MaxFronts:
			problems = append(problems, Problem{f.Service, "spec",
				fmt.Sprintf("%s is left out: more than %d fronts", f.FrontKey, MaxFronts)})
		default:
			kept = append(kept, f)
		}
	}
	clear(t.Fronts[len(kept):])
	t.Fronts = kept
	return problems
}

func group(endpointSlices []*discoveryv1.EndpointSlice) map[types.NamespacedName][]*discoveryv1.EndpointSlice {
	groups := make(map[types.NamespacedName][]*discoveryv1.EndpointSlice, len(endpointSlices))
	for _, slice := range endpointSlices {
		if slice == nil {
			continue
		}
		name := slice.Labels[discoveryv1.LabelServiceName]
		_, headless := slice.Labels[corev1.IsHeadlessService]
		_, foreign := slice.Labels[LabelServiceProxyName]
		if name == "" || headless || foreign {
			continue
		}
		id := types.NamespacedName{Namespace: slice.Namespace, Name: name}
		groups[id] = append(groups[id], slice)
	}
	return groups
}

type builder struct {
	node     Node
	previous *Table
	reuse    bool
}

func (b *builder) service(id types.NamespacedName, service *corev1.Service, own []*discoveryv1.EndpointSlice) *serviceRules {
	if b.reuse {
		old := b.previous.services[id]
		if old != nil && old.service == service && slices.Equal(old.slices, own) {
			return old
		}
	}
	s := &serviceBuilder{builder: b, id: id.String(), spec: &service.Spec,
		rules: &serviceRules{service: service, slices: own}}
	if _, foreign := service.Labels[LabelServiceProxyName]; !foreign {
		s.build(service, own)
	}
	return s.rules
}

// serviceBuilder makes the fronts of one Service.
type serviceBuilder struct {
	*builder
	id    string
	spec  *corev1.ServiceSpec
	rules *serviceRules
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
	addresses := s.addresses(service)
	families := s.families(addresses)
	s.unsupported()
	pool := s.pool(own)
	for i := range s.spec.Ports {
		s.port(i, addresses, families, pool)
	}
}

func (s *serviceBuilder) unsupported() {
	if s.spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		s.problem("spec.sessionAffinity", "ClientIP is not supported: every connection is balanced by itself")
	}
	if s.spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		s.problem("spec.externalTrafficPolicy", "Local is not supported: treated as Cluster, so clients' addresses are hidden")
	}
}

type frontAddress struct {
	addr netip.Addr
	kind Kind
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
		out = append(out, frontAddress{addr, kind})
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
	if len(s.spec.LoadBalancerSourceRanges) > 0 {
		s.problem("spec.loadBalancerSourceRanges", "not supported: the load balancer addresses are left out, rather than open to all")
		return out
	}
	for i, ingress := range service.Status.LoadBalancer.Ingress {
		if ingress.IP == "" || ingress.IPMode != nil && *ingress.IPMode == corev1.LoadBalancerIPModeProxy {
			continue
		}
		add(LoadBalancer, fmt.Sprintf("status.loadBalancer.ingress[%d].ip", i), ingress.IP)
	}
	return out
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
	mine := ofPort(pool, port.Name, protocol)
	for _, a := range addresses {
		f := &Front{
			FrontKey: FrontKey{Addr: a.addr, Protocol: protocol, Port: uint16(port.Port)},
			Kind:     a.kind, PortName: port.Name, Masquerade: MasqueradeAlways,
		}
		local := false
		if a.kind == ClusterIP {
			f.Masquerade = MasqueradeOffCluster
			local = s.spec.InternalTrafficPolicy != nil && *s.spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
		}
		s.front(f, field, mine, local)
	}
	if s.spec.Type != corev1.ServiceTypeNodePort && s.spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	if port.NodePort < 0 || port.NodePort > 65535 {
		s.problem(field+".nodePort", "%d is not in 1 to 65535", port.NodePort)
		return
	}
	if port.NodePort == 0 {
		if s.spec.Type == corev1.ServiceTypeNodePort {
			s.problem(field+".nodePort", "0: no port was allocated")
		}
		return
	}
	for _, family := range families {
		s.front(&Front{
			FrontKey: FrontKey{Addr: family, Protocol: protocol, Port: uint16(port.NodePort)},
			Kind:     NodePort, PortName: port.Name, Masquerade: MasqueradeAlways,
		}, field, mine, false)
	}
}

// front chooses the endpoints of f and adds it.
func (s *serviceBuilder) front(f *Front, field string, mine []candidate, local bool) {
	f.Service = s.id
	family := slices.DeleteFunc(slices.Clone(mine), func(c candidate) bool { return c.Addr.Addr().Is4() != f.Addr.Is4() })
	chosen := choose(family)
	f.Action = Balance
	if len(chosen) == 0 {
		f.Action = Reject
	} else if local {
		chosen = choose(slices.DeleteFunc(family, func(c candidate) bool { return !c.local }))
		if len(chosen) == 0 {
			f.Action = Drop
		}
	}
	if len(chosen) > MaxEndpoints {
		s.problem(field, "%d endpoints, only the first %d by address are used", len(chosen), MaxEndpoints)
		chosen = chosen[:MaxEndpoints]
	}
	old := s.previous.Front(f.FrontKey)
	if old != nil {
		f.Endpoints = keepSlots(old.Endpoints, chosen)
	} else {
		f.Endpoints = chosen
	}
	if old != nil && old.equal(f) {
		f = old
	}
	s.rules.fronts = append(s.rules.fronts, f)
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
