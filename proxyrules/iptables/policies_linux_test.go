package iptables_test

import (
	"net/netip"
	"strings"
	"time"

	"github.com/nodekit/nodekit/internal/nettest"
	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/iptables"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

const sctp = corev1.ProtocolSCTP

// told changes the endpoints of slices, by the number of the pod.
func told(slices []*discoveryv1.EndpointSlice, change func(pod int, e *discoveryv1.Endpoint)) []*discoveryv1.EndpointSlice {
	for _, s := range slices {
		for i := range s.Endpoints {
			addr := netip.MustParseAddr(s.Endpoints[i].Addresses[0]).AsSlice()
			change(int(addr[map[int]int{4: 2, 16: 5}[len(addr)]]), &s.Endpoints[i]) // 10.244.1.5, fd00:244:1::5
		}
	}
	return slices
}

var _ = Describe("policies", func() {
	for _, variant := range []iptables.Variant{iptables.Legacy, iptables.NFT} {
		Context("with iptables-"+string(variant), func() {
			var w *world
			var d *iptables.Dialect

			BeforeEach(func() { w, d = openWorld(variant) })

			It("SCTP goes where TCP goes, from everywhere", func() {
				for i, pod := range []*nettest.Machine{w.pod1, w.pod2} {
					pod.ServeSCTP(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(i + 1), 5}), 8080))
					pod.ServeSCTP(netip.MustParseAddrPort([]string{"[fd00:244:1::5]:8080", "[fd00:244:2::5]:8080"}[i]))
				}
				w.sync(d, service("web", 10, sctp, outside(30080, 10)), endpoints("web", sctp, 1, 2))
				answers(w.pod2, "sctp", "10.96.0.10:80", "pod1 10.244.2.5", "pod2 10.244.2.1")
				answers(w.client, "sctp", "[fd00:96::10]:80", "pod1 fd00:244:1::1", "pod2 fd00:244:2::1")
				answers(w.client, "sctp", "198.51.100.1:30080", "pod1 10.244.1.1", "pod2 10.244.2.1")
				answers(w.client, "sctp", "203.0.113.110:80", "pod1 10.244.1.1", "pod2 10.244.2.1")
			})

			It("endpoints: the ready ones, or else those that serve while they terminate", func() {
				web := service("web", 10, tcp)
				conditions := func(ready, serving, terminating bool) discoveryv1.EndpointConditions {
					return discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating}
				}
				ending, gone := conditions(false, true, true), conditions(false, false, true)
				for _, c := range []struct {
					of   map[int]discoveryv1.EndpointConditions
					want []string
				}{
					{map[int]discoveryv1.EndpointConditions{1: ending}, []string{"pod3 10.244.2.5"}},
					{map[int]discoveryv1.EndpointConditions{1: ending, 3: gone}, []string{"pod1 10.244.2.5"}},
					{map[int]discoveryv1.EndpointConditions{1: ending, 3: ending}, []string{"pod1 10.244.2.5", "pod3 10.244.2.5"}},
				} {
					w.sync(d, web, told(endpoints("web", tcp, 1, 3), func(pod int, e *discoveryv1.Endpoint) { e.Conditions = c.of[pod] }))
					answers(w.pod2, "tcp", "10.96.0.10:80", c.want...)
				}
				w.sync(d, web, told(endpoints("web", tcp, 1, 3), func(_ int, e *discoveryv1.Endpoint) { e.Conditions = gone }))
				refused(w.pod2, "10.96.0.10:80")
			})

			It("hints: our node's before our zone's before all", func() {
				w.facts.Zone = "zone1"
				web := service("web", 10, tcp)
				for _, c := range []struct {
					nodes, zones [2]string // hints for pods 1 and 3
					want         []string
				}{
					{[2]string{"node", "other"}, [2]string{"zone1", "zone1"}, []string{"pod1"}},
					{[2]string{"other", "other"}, [2]string{"zone2", "zone1"}, []string{"pod3"}},
					{[2]string{"other", "other"}, [2]string{"zone2", "zone2"}, []string{"pod1", "pod3"}},
					{[2]string{"node", ""}, [2]string{"zone1", ""}, []string{"pod1", "pod3"}},
				} {
					w.sync(d, web, told(endpoints("web", tcp, 1, 3), func(pod int, e *discoveryv1.Endpoint) {
						i := pod / 2
						e.Hints = &discoveryv1.EndpointHints{}
						if c.nodes[i] != "" {
							e.Hints.ForNodes = []discoveryv1.ForNode{{Name: c.nodes[i]}}
						}
						if c.zones[i] != "" {
							e.Hints.ForZones = []discoveryv1.ForZone{{Name: c.zones[i]}}
						}
					}))
					var want []string
					for _, pod := range c.want {
						want = append(want, pod+" 10.244.2.5")
					}
					answers(w.pod2, "tcp", "10.96.0.10:80", want...)
				}
			})

			It("what is for others is left to them: a mode Proxy, a label, an ExternalName", func() {
				must(w.client.Do(func() error { return nettest.Configure("lo", "203.0.113.110/32", "10.96.0.11/32") }))
				w.client.Serve(80)
				w.facts.ServiceCIDRs = nil
				proxied := func(s *corev1.Service) {
					s.Status.LoadBalancer.Ingress[0].IPMode = pointer(corev1.LoadBalancerIPModeProxy)
				}
				w.sync(d, service("web", 10, tcp, outside(30080, 10), proxied), endpoints("web", tcp, 2))
				answers(w.pod1, "tcp", "203.0.113.110:80", "client 10.244.1.5")
				answers(w.pod1, "tcp", "10.96.0.10:80", "pod2 10.244.1.5")
				labelled := func(s *corev1.Service) { s.Labels = map[string]string{proxyrules.LabelServiceProxyName: "x"} }
				alias := func(s *corev1.Service) {
					s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
				}
				for _, change := range []func(s *corev1.Service){labelled, alias} {
					w.sync(d, service("other", 11, tcp, change), endpoints("other", tcp, 2))
					answers(w.pod1, "tcp", "10.96.0.11:80", "client 10.244.1.5")
					w.sync(d, service("other", 11, tcp), endpoints("other", tcp, 2))
					answers(w.pod1, "tcp", "10.96.0.11:80", "pod2 10.244.1.5")
				}
			})

			It("affinity lasts as long as it says", func() {
				brief := func(s *corev1.Service) {
					s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
					s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: pointer(int32(1))}}
				}
				w.sync(d, service("web", 10, tcp, brief), endpoints("web", tcp, 1, 2, 3))
				for _, to := range []string{"10.96.0.10:80", "[fd00:96::10]:80"} {
					first, err := w.client.Ask(soon, "tcp", to)
					must(err)
					Eventually(func() (string, error) { return w.client.Ask(soon, "tcp", to) }).WithTimeout(time.Minute).WithPolling(2500 * time.Millisecond).ShouldNot(Equal(first))
				}
			})

			It("UDP flows of a Service that goes are forgotten", func() {
				w.sync(d, service("dns", 53, udp), endpoints("dns", udp, 2))
				flow, err := w.client.Dial(soon, "udp", "10.96.0.53:80")
				must(err)
				DeferCleanup(flow.Close)
				Expect(nettest.Answer(flow, soon)).To(Equal("pod2 10.244.2.1"))
				Expect(w.sync(d).Flows).To(Equal(1))
				_, err = nettest.Answer(flow, little)
				Expect(err).To(HaveOccurred())
			})

			It("node ports answer at the chosen addresses alone", func() {
				w.facts.Addresses = w.facts.Addresses[1:]
				web := service("web", 10, tcp, outside(30080, 10))
				w.sync(d, web, endpoints("web", tcp, 2))
				answers(w.client, "tcp", "[2001:db8:1::1]:30080", "pod2 fd00:244:2::1")
				refused(w.client, "198.51.100.1:30080")
				w.facts.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")}
				w.sync(d, web, endpoints("web", tcp, 2))
				answers(w.client, "tcp", "198.51.100.1:30080", "pod2 10.244.2.1")
				answers(w.client, "tcp", "192.0.2.1:30080", "pod2 10.244.2.1")
				refused(w.client, "[2001:db8:1::1]:30080")
			})

			It("pods are known by their networks on this node, or by their link", func() {
				web := []any{service("web", 10, tcp), endpoints("web", tcp, 3)}
				for _, c := range []struct {
					network, link string
					pod1, pod2    string // whom pod3 sees
				}{
					{"10.244.1.0/24", "", "10.244.1.5", "192.0.2.1"},
					{"", "pod2", "192.0.2.1", "10.244.2.5"},
					{"", "pod*", "10.244.1.5", "10.244.2.5"},
					{"", "none*", "192.0.2.1", "192.0.2.1"},
				} {
					w.facts.LocalCIDRs, w.facts.LocalInterface = nil, c.link
					if c.network != "" {
						w.facts.LocalCIDRs = []netip.Prefix{netip.MustParsePrefix(c.network)}
					}
					w.sync(d, web...)
					answers(w.pod1, "tcp", "10.96.0.10:80", "pod3 "+c.pod1)
					answers(w.pod2, "tcp", "10.96.0.10:80", "pod3 "+c.pod2)
				}
			})

			It("source ranges: all let all in, and those that hold the node let it in as the load balancer", func() {
				must(w.node.Do(func() error { return nettest.Configure("lo", "203.0.113.110/32") }))
				for ranges, node := range map[string]bool{"0.0.0.0/0 ::/0": true, "198.51.100.1/32": true, "192.0.2.77/32": false} {
					w.sync(d, service("web", 10, tcp, outside(30080, 10), func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = strings.Fields(ranges) },
						func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = s.Status.LoadBalancer.Ingress[:1] }), endpoints("web", tcp, 2))
					if ranges[0] == '0' {
						answers(w.client, "tcp", "203.0.113.110:80", "pod2 10.244.2.1")
					} else {
						dropped(w.client, "203.0.113.110:80")
					}
					if node {
						answers(w.node, "tcp", "203.0.113.110:80", "pod2 10.244.2.1")
					} else {
						dropped(w.node, "203.0.113.110:80")
					}
				}
			})

			It("another mark hides as well", func() {
				other, err := iptables.Open(iptables.Config{Prefix: "NKOTHER", Variant: variant, NetNS: w.node.FD(), MasqueradeMark: 1 << 20})
				must(err)
				DeferCleanup(other.Close)
				w.sync(other, service("web", 10, tcp, outside(30080, 10)), endpoints("web", tcp, 2))
				answers(w.client, "tcp", "198.51.100.1:30080", "pod2 10.244.2.1")
				answers(w.pod1, "tcp", "10.96.0.10:80", "pod2 10.244.1.5")
				must(other.Cleanup(GinkgoT().Context()))
			})
		})
	}
})
