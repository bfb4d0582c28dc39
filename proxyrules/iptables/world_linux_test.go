package iptables_test

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/internal/nettest"
	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/iptables"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

const (
	prefix = "NKTEST"
	little = 2 * time.Second // for what must not come
	soon   = 30 * time.Second
)

func pointer[T any](v T) *T { return &v }

func must(err error) {
	GinkgoHelper()
	Expect(err).NotTo(HaveOccurred())
}

// world is a node with two pods, another node with a third, and a client.
type world struct {
	node, pod1, pod2, pod3, client *nettest.Machine
	facts                          proxyrules.Node
}

func newWorld() *world {
	GinkgoHelper()
	machine := func(name string) *nettest.Machine { return nettest.New(GinkgoT(), name) }
	w := &world{node: machine("node"), pod1: machine("pod1"), pod2: machine("pod2"), pod3: machine("pod3"), client: machine("client")}
	for i, pod := range []*nettest.Machine{w.pod1, w.pod2} {
		gateway4, gateway6 := fmt.Sprintf("10.244.%d.1", i+1), fmt.Sprintf("fd00:244:%d::1", i+1)
		nettest.Join(w.node, pod, []string{gateway4 + "/24", gateway6 + "/64"}, []string{fmt.Sprintf("10.244.%d.5/24", i+1), fmt.Sprintf("fd00:244:%d::5/64", i+1)})
		pod.Route("", gateway4, gateway6)
	}
	nettest.Join(w.node, w.pod3, []string{"192.0.2.1/24", "2001:db8::1/64"}, []string{"192.0.2.2/24", "2001:db8::2/64", "10.244.3.5/32", "fd00:244:3::5/128"})
	w.node.Route("10.244.3.0/24", "192.0.2.2")
	w.node.Route("fd00:244:3::/64", "2001:db8::2")
	w.pod3.Route("", "192.0.2.1", "2001:db8::1")
	nettest.Join(w.node, w.client, []string{"198.51.100.1/24", "2001:db8:1::1/64"}, []string{"198.51.100.9/24", "2001:db8:1::9/64"})
	w.node.Route("", "198.51.100.9", "2001:db8:1::9")
	w.client.Route("", "198.51.100.1", "2001:db8:1::1")
	for _, m := range []*nettest.Machine{w.pod1, w.pod2, w.pod3, w.client} {
		m.Serve(8080)
	}
	w.facts = proxyrules.Node{
		Name:         "node",
		Addresses:    []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:1::1")},
		PodCIDRs:     []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:244::/32")},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/64")},
	}
	return w
}

func (w *world) open(variant iptables.Variant) *iptables.Dialect {
	GinkgoHelper()
	d, err := iptables.Open(iptables.Config{Prefix: prefix, Variant: variant, NetNS: w.node.FD()})
	must(err)
	DeferCleanup(d.Close)
	return d
}

// sync makes the kernel hold Services with their slices.
func (w *world) sync(d *iptables.Dialect, objects ...any) proxyrules.SyncStats {
	GinkgoHelper()
	stats, err := d.Sync(context.Background(), w.table(objects...))
	must(err)
	return stats
}

func (w *world) table(objects ...any) *proxyrules.Table {
	GinkgoHelper()
	var services []*corev1.Service
	var slices []*discoveryv1.EndpointSlice
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.Service:
			services = append(services, o)
		case []*discoveryv1.EndpointSlice:
			slices = append(slices, o...)
		}
	}
	table, problems := proxyrules.Build(services, slices, w.facts, nil)
	Expect(problems).To(BeEmpty())
	return table
}

// service makes default/name of both families at 10.96.0.n and fd00:96::n with
// port 80.
func service(name string, n int, protocol corev1.Protocol, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{}
	s.Namespace, s.Name = "default", name
	s.Spec.ClusterIPs = []string{fmt.Sprintf("10.96.0.%d", n), fmt.Sprintf("fd00:96::%d", n)}
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	s.Spec.Ports = []corev1.ServicePort{{Name: "p", Port: 80, Protocol: protocol}}
	for _, f := range change {
		f(s)
	}
	return s
}

// outside gives it a node port, an external IP and a load balancer's address.
func outside(nodePort int32, n int) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.Ports[0].NodePort = nodePort
		s.Spec.ExternalIPs = []string{fmt.Sprintf("203.0.113.%d", n), fmt.Sprintf("2001:db8:e::%d", n)}
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: fmt.Sprintf("203.0.113.%d", 100+n)}, {IP: fmt.Sprintf("2001:db8:1b::%d", n)}}
	}
}

func local(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	s.Spec.HealthCheckNodePort = s.Spec.Ports[0].NodePort + 1000
}

// endpoints are those of a Service on pods 1 to 3, of both families.
func endpoints(service string, protocol corev1.Protocol, pods ...int) []*discoveryv1.EndpointSlice {
	var out []*discoveryv1.EndpointSlice
	for _, family := range []struct {
		kind   discoveryv1.AddressType
		format string
	}{{discoveryv1.AddressTypeIPv4, "10.244.%d.5"}, {discoveryv1.AddressTypeIPv6, "fd00:244:%d::5"}} {
		slice := &discoveryv1.EndpointSlice{AddressType: family.kind, Ports: []discoveryv1.EndpointPort{{Name: pointer("p"), Protocol: &protocol, Port: pointer(int32(8080))}}}
		slice.Namespace, slice.Name = "default", service+"-"+string(family.kind)
		slice.Labels = map[string]string{discoveryv1.LabelServiceName: service}
		for _, pod := range pods {
			node := "node"
			if pod == 3 {
				node = "other"
			}
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf(family.format, pod)}, NodeName: &node})
		}
		out = append(out, slice)
	}
	return out
}

// answers asks until all that are wanted have come, and nothing else.
func answers(m *nettest.Machine, proto, to string, want ...string) {
	GinkgoHelper()
	seen := map[string]bool{}
	Eventually(func(g Gomega) {
		answer, err := m.Ask(soon, proto, to)
		g.Expect(err).NotTo(HaveOccurred(), "%s %s from %s", proto, to, m.Name)
		Expect(want).To(ContainElement(answer), "%s %s from %s", proto, to, m.Name)
		seen[answer] = true
		g.Expect(seen).To(HaveLen(len(want)), "%v", seen)
	}).WithTimeout(2 * soon).WithPolling(time.Millisecond).Should(Succeed())
}

// openWorld makes a world with a variant's dialect, if the machine has it.
func openWorld(variant iptables.Variant) (*world, *iptables.Dialect) {
	GinkgoHelper()
	kerneltest.Require(GinkgoT(), kerneltest.Root, kerneltest.Iptables)
	if variant == iptables.Legacy {
		kerneltest.Require(GinkgoT(), kerneltest.IptablesLegacy)
	}
	w := newWorld()
	return w, w.open(variant)
}
