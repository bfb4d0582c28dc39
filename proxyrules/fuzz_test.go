package proxyrules_test

import (
	"net/netip"
	"testing"

	"github.com/nodekit/nodekit/proxyrules"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

func FuzzBuild(f *testing.F) {
	f.Add("10.96.0.1", int32(80), int32(30080), "TCP", "10.244.0.1", int32(8080), "10.0.0.0/8", int32(10800), uint8(0))
	f.Add("fd00::1", int32(0), int32(-1), "", "::ffff:10.0.0.1", int32(70000), "fd00::/8", int32(0), uint8(255))
	f.Add("10.96.0.1", int32(53), int32(0), "UDP", "10.244.0.1", int32(53), " 0.0.0.0/0", int32(-1), uint8(21))
	f.Fuzz(func(t *testing.T, vip string, port, nodePort int32, protocol, ip string, target int32, source string, seconds int32, bits uint8) {
		flag := func(n int) bool { return bits>>n&1 == 1 }
		s := service("web", vip)
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.ExternalIPs = []string{ip}
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: vip}, {IP: ip}}
		s.Spec.LoadBalancerSourceRanges = []string{source}
		s.Spec.HealthCheckNodePort = nodePort
		s.Spec.Ports = []corev1.ServicePort{{Port: port, NodePort: nodePort, Protocol: corev1.Protocol(protocol)}}
		if flag(0) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
		}
		if flag(1) {
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
		if flag(2) {
			internal(s)
		}
		e := endpoints("web", "", corev1.Protocol(protocol), target, "10.0.0.1", "10.0.0.2 l")
		e.Endpoints[0].Addresses[0] = ip
		e.Endpoints[0].Conditions = discoveryv1.EndpointConditions{Ready: pointer(flag(3)), Serving: pointer(flag(4)), Terminating: pointer(flag(5))}
		if flag(6) {
			hint(&e.Endpoints[0], 'z')
		}
		table, _ := proxyrules.Build([]*corev1.Service{s}, []*discoveryv1.EndpointSlice{e}, testNode, nil)
		for front := range table.Fronts() {
			if front.Port == 0 || !front.Addr.IsValid() || front.Addr.Is4In6() || front.Addr.Zone() != "" {
				t.Errorf("bad front %v", front)
			}
			if front.Affinity < 0 || front.Affinity > 86400 {
				t.Errorf("affinity of %d s", front.Affinity)
			}
			if front.Action == proxyrules.Balance != (len(front.Endpoints) > 0) {
				t.Errorf("%s with endpoints %v", front.Action, front.Endpoints)
			}
			if len(front.Inside) > 0 && (!front.Local || front.Kind == proxyrules.ClusterIP) {
				t.Errorf("inside of %+v", front)
			}
			for _, p := range front.Sources {
				if p.Addr().Is4() != front.Addr.Is4() || p != p.Masked() {
					t.Errorf("source %s of %s", p, front.FrontKey)
				}
			}
			for _, e := range append(front.Endpoints, front.Inside...) {
				if !e.Addr.IsValid() || e.Addr.Port() == 0 || e.Addr.Addr().Is4() != front.Addr.Is4() {
					t.Errorf("bad endpoint %v of %v", e, front)
				}
			}
			to := netip.AddrPortFrom(front.Addr, front.Port)
			_ = proxyrules.Trace(table, proxyrules.Packet{From: front.Addr, To: to, Protocol: front.Protocol}).String()
		}
		again, _ := proxyrules.Build([]*corev1.Service{s}, []*discoveryv1.EndpointSlice{e}, testNode, table)
		if changes := proxyrules.Diff(table, again); !changes.Empty() {
			t.Errorf("built again it differs: %+v", changes)
		}
	})
}
