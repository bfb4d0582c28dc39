package proxyrules_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/nodekit/nodekit/proxyrules"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

func pointer[T any](v T) *T { return &v }

var testNode = proxyrules.Node{
	Name:      "node1",
	Zone:      "zone1",
	Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
	PodCIDRs:  []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
}

// service makes default/name with ports such as "http:80/TCP" or
// "http:80/TCP:30080".
func service(name, vip string, ports ...string) *corev1.Service {
	s := &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: vip, Selector: map[string]string{"app": name}}}
	s.Namespace, s.Name = "default", name
	for _, text := range ports {
		var p corev1.ServicePort
		fields := strings.Split(text, ":")
		p.Name = fields[0]
		number, protocol, _ := strings.Cut(fields[1], "/")
		_, _ = fmt.Sscan(number, &p.Port)
		p.Protocol = corev1.Protocol(protocol)
		if len(fields) > 2 {
			_, _ = fmt.Sscan(fields[2], &p.NodePort)
			s.Spec.Type = corev1.ServiceTypeNodePort
		}
		s.Spec.Ports = append(s.Spec.Ports, p)
	}
	return s
}

// endpoints makes a slice for one port; an address may be followed by letters:
// r not ready, s not serving, t terminating, l local, n and N hinted for this
// and another node, z and Z for this and another zone.
func endpoints(service, portName string, protocol corev1.Protocol, target int32, addresses ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: &portName, Protocol: &protocol, Port: &target}}}
	s.Namespace, s.Name = "default", service+"-"+portName
	s.Labels = map[string]string{discoveryv1.LabelServiceName: service}
	for _, text := range addresses {
		addr, flags, _ := strings.Cut(text, " ")
		if strings.Contains(addr, ":") {
			s.AddressType = discoveryv1.AddressTypeIPv6
		}
		e := discoveryv1.Endpoint{Addresses: []string{addr}}
		for _, flag := range flags {
			switch flag {
			case 'r':
				e.Conditions.Ready = pointer(false)
			case 's':
				e.Conditions.Serving = pointer(false)
			case 't':
				e.Conditions.Terminating = pointer(true)
			case 'l':
				e.NodeName = pointer("node1")
			case 'n', 'N', 'z', 'Z':
				hint(&e, flag)
			}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func hint(e *discoveryv1.Endpoint, flag rune) {
	if e.Hints == nil {
		e.Hints = &discoveryv1.EndpointHints{}
	}
	name := map[rune]string{'n': "node1", 'N': "node2", 'z': "zone1", 'Z': "zone2"}[flag]
	if strings.HasPrefix(name, "node") {
		e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: name})
	} else {
		e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: name})
	}
}

// render tells a table's fronts in lines.
func render(t *proxyrules.Table) string {
	var b strings.Builder
	for f := range t.Fronts() {
		fmt.Fprintf(&b, "%s %s %s %s %s", f.FrontKey, f.Kind, f.Service, f.Action, f.Masquerade)
		if f.Local {
			b.WriteString(" local")
		}
		if f.Affinity > 0 {
			fmt.Fprintf(&b, " affinity=%d", f.Affinity)
		}
		for _, e := range f.Endpoints {
			fmt.Fprintf(&b, " %s", e.Addr)
		}
		for _, e := range f.Inside {
			fmt.Fprintf(&b, " inside=%s", e.Addr)
		}
		for _, p := range f.Sources {
			fmt.Fprintf(&b, " from=%s", p)
		}
		for _, addr := range f.Draining {
			fmt.Fprintf(&b, " draining=%s", addr)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func random(r *rand.Rand) ([]*corev1.Service, []*discoveryv1.EndpointSlice) {
	var services []*corev1.Service
	var slices []*discoveryv1.EndpointSlice
	for i := range 10 {
		if r.IntN(4) == 0 {
			continue
		}
		protocol := []corev1.Protocol{"TCP", "UDP", "SCTP"}[r.IntN(3)]
		port := fmt.Sprintf("p:%d/%s", 80+r.IntN(2), protocol)
		if r.IntN(2) == 0 {
			port += fmt.Sprintf(":%d", 30000+r.IntN(5))
		}
		s := service(fmt.Sprintf("s%d", i), fmt.Sprintf("10.96.0.%d", r.IntN(8)), port)
		if r.IntN(4) == 0 {
			s.Spec.InternalTrafficPolicy = pointer(corev1.ServiceInternalTrafficPolicyLocal)
		}
		if r.IntN(4) == 0 {
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
		if r.IntN(4) == 0 {
			s.Spec.ExternalIPs = []string{fmt.Sprintf("198.51.100.%d", r.IntN(3))}
		}
		if r.IntN(3) == 0 {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		}
		if r.IntN(4) == 0 {
			s.Spec.Type = corev1.ServiceTypeLoadBalancer
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: fmt.Sprintf("203.0.113.%d", r.IntN(4))}}
			if r.IntN(2) == 0 {
				s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24", "10.0.0.0/8"}
			}
		}
		services = append(services, s)
		var ips []string
		for range r.IntN(7) {
			ips = append(ips, fmt.Sprintf("10.244.0.%d %s", r.IntN(9), []string{"", "", "l", "r", "rt", "lrt"}[r.IntN(6)]))
		}
		slices = append(slices, endpoints(s.Name, "p", protocol, 8080, ips...))
	}
	return services, slices
}
