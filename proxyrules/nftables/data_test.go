package nftables_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/nodekit/nodekit/proxyrules"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

func pointer[T any](v T) *T { return &v }

func service(name, vip string, ports ...corev1.ServicePort) *corev1.Service {
	s := &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: vip, Ports: ports}}
	s.Namespace, s.Name = "default", name
	for _, p := range ports {
		if p.NodePort != 0 {
			s.Spec.Type = corev1.ServiceTypeNodePort
		}
	}
	return s
}

func port(protocol corev1.Protocol, number, nodePort int32) corev1.ServicePort {
	return corev1.ServicePort{Name: fmt.Sprintf("%s-%d", protocol, number), Protocol: protocol, Port: number, NodePort: nodePort}
}

// slice makes endpoints ip:port for one port of a service.
func slice(s *corev1.Service, p corev1.ServicePort, target int32, ips ...string) *discoveryv1.EndpointSlice {
	out := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: &p.Name, Protocol: &p.Protocol, Port: &target}}}
	out.Namespace, out.Name = s.Namespace, s.Name+"-"+p.Name
	out.Labels = map[string]string{discoveryv1.LabelServiceName: s.Name}
	for _, ip := range ips {
		if netip.MustParseAddr(ip).Is6() {
			out.AddressType = discoveryv1.AddressTypeIPv6
		}
		out.Endpoints = append(out.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}})
	}
	return out
}

func build(services []*corev1.Service, slices []*discoveryv1.EndpointSlice, node proxyrules.Node, previous *proxyrules.Table) *proxyrules.Table {
	table, _ := proxyrules.Build(services, slices, node, previous)
	return table
}

var testNode = proxyrules.Node{
	Name:      "node1",
	Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
	PodCIDRs:  []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:244::/60")},
}

// example has a front of each sort.
func example() ([]*corev1.Service, []*discoveryv1.EndpointSlice) {
	web := service("web", "10.96.0.10", port("TCP", 80, 30080), port("UDP", 53, 0))
	web.Spec.ExternalIPs = []string{"198.51.100.7"}
	empty := service("empty", "10.96.0.11", port("TCP", 443, 30443))
	local := service("local", "10.96.0.12", port("SCTP", 9, 0))
	local.Spec.InternalTrafficPolicy = pointer(corev1.ServiceInternalTrafficPolicyLocal)
	six := service("six", "fd00:96::10", port("TCP", 80, 30081), port("UDP", 53, 0))
	balanced := service("balanced", "10.96.0.13", port("TCP", 80, 0))
	balanced.Spec.Type = corev1.ServiceTypeLoadBalancer
	balanced.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.9"}}
	sticky := service("sticky", "10.96.0.14", port("TCP", 80, 30082), port("UDP", 53, 0))
	sticky.Spec.ClusterIPs = []string{"10.96.0.14", "fd00:96::14"}
	sticky.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	outside := service("outside", "10.96.0.15", port("TCP", 80, 30083))
	outside.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	outside.Spec.Type = corev1.ServiceTypeLoadBalancer
	outside.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	outside.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.10"}}
	outside.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24", "198.51.100.0/25"}
	away := service("away", "fd00:96::16", port("TCP", 80, 30084))
	away.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	here := slice(outside, outside.Spec.Ports[0], 8080, "10.244.0.5", "10.244.0.6")
	here.Endpoints[1].NodeName = pointer("node1")
	return []*corev1.Service{web, empty, local, six, balanced, sticky, outside, away}, []*discoveryv1.EndpointSlice{
		slice(web, web.Spec.Ports[0], 8080, "10.244.0.5", "10.244.0.6"),
		slice(web, web.Spec.Ports[1], 5353, "10.244.0.5"),
		slice(local, local.Spec.Ports[0], 9, "10.244.0.7"),
		slice(six, six.Spec.Ports[0], 8080, "fd00:244::5", "fd00:244::6", "fd00:244::7"),
		slice(six, six.Spec.Ports[1], 5353, "fd00:244::5"),
		slice(balanced, balanced.Spec.Ports[0], 8080, "10.244.0.5", "10.244.0.6", "10.244.0.8"),
		slice(sticky, sticky.Spec.Ports[0], 8080, "10.244.0.5", "10.244.0.6"),
		slice(sticky, sticky.Spec.Ports[0], 8080, "fd00:244::5", "fd00:244::6"),
		slice(sticky, sticky.Spec.Ports[1], 8080, "10.244.0.5", "10.244.0.6"),
		here,
		slice(away, away.Spec.Ports[0], 8080, "fd00:244::6"),
	}
}

// withoutClashes leaves out services that claim what another one has: what the
// kernel holds does not tell whose it is.
func withoutClashes(services []*corev1.Service) []*corev1.Service {
	var out []*corev1.Service
	for _, s := range services {
		_, problems := proxyrules.Build(append(slices.Clone(out), s), nil, testNode, nil)
		if !slices.ContainsFunc(problems, func(p proxyrules.Problem) bool { return p.Field == "spec" }) {
			out = append(out, s)
		}
	}
	return out
}

// many makes n services of as many endpoints each, every tenth on this node.
func many(n, endpoints int) ([]*corev1.Service, []*discoveryv1.EndpointSlice) {
	var services []*corev1.Service
	var slices []*discoveryv1.EndpointSlice
	for i := range n {
		p := port("TCP", 80, 0)
		s := service(fmt.Sprintf("s%05d", i), "", p)
		s.Spec.ClusterIP = netip.AddrFrom4([4]byte{10, byte(100 + i>>16), byte(i >> 8), byte(i)}).String()
		var ips []string
		for e := range endpoints {
			k := i*endpoints + e
			ips = append(ips, netip.AddrFrom4([4]byte{10, byte(200 + k>>16), byte(k >> 8), byte(k)}).String())
		}
		services = append(services, s)
		slices = append(slices, slice(s, p, 8080, ips...))
		for e := range endpoints {
			name := "node2"
			if (i*endpoints+e)%10 == 0 {
				name = "node1"
			}
			slices[i].Endpoints[e].NodeName = &name
		}
	}
	return services, slices
}

// random makes services that clash, change kinds and lose their endpoints from
// one call to the next.
func random(r *rand.Rand) ([]*corev1.Service, []*discoveryv1.EndpointSlice) {
	var services []*corev1.Service
	var slices []*discoveryv1.EndpointSlice
	for i := range 12 {
		if r.IntN(4) == 0 {
			continue
		}
		vip, ip := fmt.Sprintf("10.96.0.%d", 1+r.IntN(12)), "10.244.0.%d"
		if i%4 == 3 {
			vip, ip = fmt.Sprintf("fd00:96::%d", 1+r.IntN(12)), "fd00:244::%d"
		}
		protocols := []corev1.Protocol{"TCP", "UDP", "SCTP"}
		var ports []corev1.ServicePort
		for range 1 + r.IntN(3) {
			p := port(protocols[r.IntN(3)], int32(80+r.IntN(3)), 0)
			if r.IntN(3) == 0 {
				p.NodePort = int32(30000 + r.IntN(6))
			}
			ports = append(ports, p)
		}
		s := service(fmt.Sprintf("s%d", i), vip, ports...)
		if r.IntN(3) == 0 && i%4 != 3 {
			s.Spec.ExternalIPs = []string{fmt.Sprintf("198.51.100.%d", 1+r.IntN(4))}
		}
		if r.IntN(4) == 0 {
			s.Spec.InternalTrafficPolicy = pointer(corev1.ServiceInternalTrafficPolicyLocal)
		}
		if r.IntN(3) == 0 {
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
		if r.IntN(3) == 0 {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		}
		if r.IntN(4) == 0 {
			s.Spec.Type = corev1.ServiceTypeLoadBalancer
			ip := fmt.Sprintf("203.0.113.%d", 1+r.IntN(4))
			if i%4 == 3 {
				ip = fmt.Sprintf("fd00:203::%d", 1+r.IntN(4))
			}
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ip}}
			if r.IntN(2) == 0 {
				s.Spec.LoadBalancerSourceRanges = [][]string{{"192.0.2.0/25", "2001:db8::/64"}, {"10.244.0.0/30", "fd00:244::/126"},
					{"172.16.0.0/12", "fd01::/16"}}[r.IntN(3)]
			}
		}
		services = append(services, s)
		for _, p := range ports {
			var ips []string
			for range r.IntN(5) {
				ips = append(ips, fmt.Sprintf(ip, 1+r.IntN(9)))
			}
			if len(ips) > 0 {
				slices = append(slices, slice(s, p, int32(8000+r.IntN(2)), ips...))
				if r.IntN(2) == 0 {
					for e := range slices[len(slices)-1].Endpoints {
						slices[len(slices)-1].Endpoints[e].NodeName = pointer("node1")
					}
				}
			}
		}
	}
	return services, slices
}
