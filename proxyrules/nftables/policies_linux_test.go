package nftables_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/nodekit/nodekit/internal/nettest"
	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/nftables"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

var external = []proxyrules.Kind{proxyrules.ExternalIP, proxyrules.LoadBalancer, proxyrules.NodePort}

var _ = Describe("policies", func() { policies("0") })

var _ = Describe("policies on a bridge with netfilter", func() { policies("1") })

func policies(bridgeNetfilter string) {
	var w *world
	BeforeEach(func() { w = newWorld(bridgeNetfilter) })

	It("Cluster: every kind of address, family and protocol reaches every endpoint, and outside ones are hidden", func() {
		s := dual("web", 20, nil)
		w.services, w.slices = []*corev1.Service{s}, w.backs(s, "pod1", "pod2")
		w.sync()
		for _, proto := range protos {
			for _, to := range w.at(s, proxyrules.ClusterIP) {
				Expect(w.answers(w.pods[2], proto, to, 2)).To(Equal([]string{"pod1 sees client", "pod2 sees client"}))
				Expect(w.answers(w.outside, proto, to, 2)).To(Equal([]string{"pod1 sees node", "pod2 sees node"}))
				Expect(w.answers(w.pods[0], proto, to, 2)).To(Equal([]string{"pod1 sees node", "pod2 sees client"}), "hairpin")
			}
			for _, kind := range external {
				for _, to := range w.at(s, kind) {
					for _, from := range []*host{w.pods[2], w.outside, w.node} {
						Expect(w.answers(from, proto, to, 2)).To(Equal([]string{"pod1 sees node", "pod2 sees node"}), "%s %s", kind, from.name)
					}
				}
			}
		}
	})

	It("external Local: clients are seen and stay on the node, pods and the node go everywhere", func() {
		s := dual("web", 21, func(s *corev1.Service) {
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			s.Spec.HealthCheckNodePort = 32000
		})
		w.services, w.slices = []*corev1.Service{s}, w.backs(s, "pod1 l", "pod2")
		w.sync()
		for _, proto := range protos {
			for _, kind := range external {
				for _, to := range w.at(s, kind) {
					Expect(w.answers(w.outside, proto, to, 1)).To(Equal([]string{"pod1 sees client"}), "%s %s", kind, to)
					Expect(w.answers(w.pods[2], proto, to, 2)).To(Equal([]string{"pod1 sees client", "pod2 sees client"}), "%s %s", kind, to)
					Expect(w.answers(w.node, proto, to, 2)).To(Equal([]string{"pod1 sees node", "pod2 sees node"}), "%s %s", kind, to)
				}
			}
		}
		w.slices = w.backs(s, "pod1 lrt", "pod2")
		w.sync()
		Expect(w.answers(w.outside, "tcp", w.at(s, proxyrules.LoadBalancer)[0], 1)).To(Equal([]string{"pod1 sees client"}), "rather than none here")
		Expect(w.answers(w.pods[2], "tcp", w.at(s, proxyrules.LoadBalancer)[0], 1)).To(Equal([]string{"pod2 sees client"}), "which is ready")
		w.slices = w.backs(s, "pod2")
		w.sync()
		for _, kind := range external {
			for _, to := range w.at(s, kind) {
				w.lost(w.outside, to)
				Expect(w.answers(w.pods[2], "tcp", to, 1)).To(Equal([]string{"pod2 sees client"}))
				Expect(w.answers(w.node, "udp", to, 1)).To(Equal([]string{"pod2 sees node"}))
			}
		}
		w.slices = nil
		w.sync()
		for _, kind := range external {
			for _, to := range w.at(s, kind) {
				for _, from := range []*host{w.outside, w.pods[2], w.node} {
					_, err := from.ask("tcp", to.String())
					Expect(err).To(MatchError(unix.ECONNREFUSED), "%s from %s", to, from.name)
				}
			}
		}
	})

	It("internal Local: the cluster IP stays on the node, or drops; the others do not care", func() {
		s := dual("web", 22, func(s *corev1.Service) {
			s.Spec.InternalTrafficPolicy = pointer(corev1.ServiceInternalTrafficPolicyLocal)
		})
		w.services, w.slices = []*corev1.Service{s}, w.backs(s, "pod1 l", "pod2")
		w.sync()
		for _, proto := range protos {
			for _, to := range w.at(s, proxyrules.ClusterIP) {
				Expect(w.answers(w.pods[2], proto, to, 1)).To(Equal([]string{"pod1 sees client"}))
			}
			for _, to := range w.at(s, proxyrules.NodePort) {
				Expect(w.answers(w.pods[2], proto, to, 2)).To(Equal([]string{"pod1 sees node", "pod2 sees node"}))
			}
		}
		w.slices = w.backs(s, "pod2")
		w.sync()
		for _, to := range w.at(s, proxyrules.ClusterIP) {
			w.lost(w.pods[2], to)
			w.lost(w.node, to)
		}
		Expect(w.answers(w.pods[2], "tcp", w.at(s, proxyrules.LoadBalancer)[1], 1)).To(Equal([]string{"pod2 sees node"}))
	})

	It("affinity: a client stays with its endpoint at every address of a port until that leaves, or time passes", func() {
		s := dual("web", 23, func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP })
		w.services, w.slices = []*corev1.Service{s}, w.backs(s, "pod1", "pod2")
		w.sync()
		client := w.pods[2]
		whom := func(proto string, to netip.AddrPort) string {
			answer, err := client.askProto(proto, to)
			ExpectWithOffset(1, err).NotTo(HaveOccurred(), "%s %s", proto, to)
			name, _, _ := strings.Cut(answer, " ")
			return name
		}
		var all []netip.AddrPort
		for _, kind := range append(external, proxyrules.ClusterIP) {
			all = append(all, w.at(s, kind)...)
		}
		for _, proto := range protos {
			for _, v4 := range []bool{true, false} {
				fronts := slices.DeleteFunc(slices.Clone(all), func(to netip.AddrPort) bool { return to.Addr().Is4() != v4 })
				w.slices = w.backs(s, "pod1", "pod2")
				w.sync()
				chosen := whom(proto, fronts[0])
				for range 3 {
					for _, to := range fronts {
						Expect(whom(proto, to)).To(Equal(chosen), "%s %s", proto, to)
					}
				}
				// More endpoints do not matter to it, and fewer only if they are its own.
				w.slices = w.backs(s, "pod1", "pod2", "pod3")
				w.sync()
				Expect(whom(proto, fronts[1])).To(Equal(chosen))
				w.slices = w.backs(s, chosen, "pod3")
				w.sync()
				Expect(whom(proto, fronts[2])).To(Equal(chosen))
				other := map[string]string{"pod1": "pod2", "pod2": "pod1"}[chosen]
				w.slices = w.backs(s, other)
				w.sync()
				Expect(whom(proto, fronts[0])).To(Equal(other), "its endpoint has left")
				w.slices = w.backs(s, chosen, other)
				w.sync()
				for range 5 {
					Expect(whom(proto, fronts[3])).To(Equal(other), "and is back too late")
				}
			}
		}
		// A second process keeps what clients have.
		chosen := whom("tcp", all[0])
		next := openIn(w.node.NetNS, "nodekit")
		loaded, err := next.Load(context.Background())
		Expect(err).NotTo(HaveOccurred())
		w.dialect, w.table = next, loaded
		w.slices = w.backs(s, "pod3", "pod1", "pod2")
		w.sync()
		for range 5 {
			Expect(whom("tcp", all[0])).To(Equal(chosen))
		}
		// For a second only.
		s = s.DeepCopy()
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: pointer(int32(1))}}
		w.services = []*corev1.Service{s}
		w.slices = w.backs(s, "pod1", "pod2")
		w.sync()
		client = w.outside // which was never here
		first := whom("tcp", all[0])
		Eventually(func() string { return whom("tcp", all[0]) }).WithTimeout(60 * time.Second).WithPolling(1500 * time.Millisecond).ShouldNot(Equal(first))
	})

	It("affinity: every endpoint gets clients, each client one", func() {
		s := dual("web", 24, func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP })
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.Spec.HealthCheckNodePort = 32000
		w.services, w.slices = []*corev1.Service{s}, w.backs(s, "pod1 l", "pod2 l", "pod3")
		w.sync()
		to := w.at(s, proxyrules.LoadBalancer)[0]
		seen := make(map[string]int)
		for i := range 40 {
			addr := fmt.Sprintf("192.0.2.%d", 100+i)
			must(w.outside.Do(func() error { return nettest.Configure("eth0", addr+"/24") }))
			from := &host{NetNS: w.outside.NetNS, name: addr, v4: netip.MustParseAddr(addr)}
			must(from.Do(func() error {
				l, err := netlink.LinkByName("eth0")
				if err != nil {
					return err
				}
				return netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: w.node.v4.AsSlice(), Src: from.v4.AsSlice(),
					Dst: netlink.NewIPNet(to.Addr().AsSlice())})
			}))
			first, err := from.ask("tcp", to.String())
			Expect(err).NotTo(HaveOccurred())
			seen[strings.Fields(first)[0]]++
			Expect(first).To(HaveSuffix(" " + addr))
			for range 2 {
				Expect(from.ask("tcp", to.String())).To(Equal(first))
			}
		}
		Expect(keys(seen)).To(Equal([]string{"pod1", "pod2"}), "%v", seen)
	})

	It("source ranges: others are dropped at the load balancer's addresses, and nowhere else", func() {
		s := dual("web", 25, func(s *corev1.Service) {
			s.Spec.LoadBalancerSourceRanges = []string{"10.244.0.4/32", "192.0.2.0/31", "fd00:244::4/128", "2001:db8::/127"}
		})
		w.services, w.slices = []*corev1.Service{s}, w.backs(s, "pod1")
		w.sync()
		for _, to := range w.at(s, proxyrules.LoadBalancer) {
			for _, proto := range protos {
				Expect(w.answers(w.pods[2], proto, to, 1)).To(Equal([]string{"pod1 sees node"}))
				Expect(w.answers(w.node, proto, to, 1)).To(Equal([]string{"pod1 sees node"}))
			}
			w.lost(w.outside, to)
			w.lost(w.pods[1], to)
		}
		for _, kind := range []proxyrules.Kind{proxyrules.ExternalIP, proxyrules.NodePort, proxyrules.ClusterIP} {
			for _, to := range w.at(s, kind) {
				Expect(w.answers(w.outside, "tcp", to, 1)).To(Equal([]string{"pod1 sees node"}))
			}
		}
		s = s.DeepCopy()
		s.Spec.LoadBalancerSourceRanges = []string{"0.0.0.0/0", "::/0"}
		w.services = []*corev1.Service{s}
		w.sync()
		for _, to := range w.at(s, proxyrules.LoadBalancer) {
			Expect(w.answers(w.outside, "tcp", to, 1)).To(Equal([]string{"pod1 sees node"}))
		}
	})

	It("ipMode Proxy is for somebody else, and hints keep to the zone", func() {
		w.facts.Zone = "zone1"
		s := dual("web", 26, func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress[0].IPMode = pointer(corev1.LoadBalancerIPModeProxy)
		})
		w.services, w.slices = []*corev1.Service{s}, w.backs(s, "pod1 z", "pod2 Z")
		w.sync()
		must(w.outside.Do(func() error { return nettest.Configure("eth0", "203.0.113.26/32") }))
		balancer := &host{NetNS: w.outside.NetNS, name: "balancer", v4: netip.MustParseAddr("203.0.113.26"), v6: w.outside.v6}
		balancer.serve(80)
		Expect(w.pods[2].ask("tcp", "203.0.113.26:80")).To(Equal("balancer 10.244.0.4"))
		for _, to := range w.at(s, proxyrules.ClusterIP) {
			Expect(w.answers(w.pods[2], "tcp", to, 1)).To(Equal([]string{"pod1 sees client"}))
		}
		w.slices = w.backs(s, "pod1 Z", "pod2 Z")
		w.sync()
		Expect(w.answers(w.pods[2], "udp", w.at(s, proxyrules.ClusterIP)[0], 2)).To(Equal([]string{"pod1 sees client", "pod2 sees client"}))
	})

	It("knows pods by their addresses on this node, or by the link they come in by", func() {
		s := dual("web", 27, func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal })
		s.Spec.HealthCheckNodePort = 32000
		w.services, w.slices = []*corev1.Service{s}, w.backs(s, "pod1 l", "pod2")
		for _, c := range []struct {
			cidrs []string
			link  string
			pods  []*host // those that count as pods
		}{
			{[]string{"10.244.0.4/32", "fd00:244::4/128"}, "", []*host{w.pods[2]}},
			{nil, "br0", []*host{w.pods[1], w.pods[2]}},
			{nil, "br*", []*host{w.pods[1], w.pods[2]}},
			{nil, "outside", []*host{w.outside}},
			{nil, "none*", nil},
		} {
			w.facts.LocalCIDRs, w.facts.LocalInterface = nil, c.link
			for _, cidr := range c.cidrs {
				w.facts.LocalCIDRs = append(w.facts.LocalCIDRs, netip.MustParsePrefix(cidr))
			}
			w.sync()
			for _, from := range []*host{w.outside, w.pods[1], w.pods[2]} {
				is := slices.Contains(c.pods, from)
				for _, to := range w.at(s, proxyrules.ClusterIP) {
					want := map[bool]string{true: "pod1 sees client", false: "pod1 sees node"}[is]
					Expect(w.answers(from, "tcp", to, 2)).To(ContainElement(want), "%v %s %s", c, from.name, to)
				}
				for _, to := range w.at(s, proxyrules.LoadBalancer) {
					want := map[bool]int{true: 2, false: 1}[is]
					Expect(w.answers(from, "tcp", to, want)).To(HaveLen(want), "%v %s %s", c, from.name, to)
				}
			}
		}
	})

	It("drops what goes to a cluster IP that no service has, and refuses the wrong port of one", func() {
		w.facts.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/112")}
		s := dual("web", 28, nil)
		w.services, w.slices = []*corev1.Service{s}, w.backs(s, "pod1")
		w.sync()
		for _, from := range []*host{w.pods[2], w.outside, w.node} {
			w.lost(from, netip.MustParseAddrPort("10.96.7.7:80"))
			w.lost(from, netip.MustParseAddrPort("[fd00:96::77]:80"))
			for _, to := range w.at(s, proxyrules.ClusterIP) {
				_, err := from.ask("tcp", netip.AddrPortFrom(to.Addr(), 81).String())
				Expect(err).To(MatchError(unix.ECONNREFUSED))
			}
		}
	})

	It("answers node ports at the chosen addresses alone", func() {
		must(w.node.Do(func() error { return nettest.Configure("outside", "192.0.2.77/32", "2001:db8::77/128") }))
		addresses, err := nftables.LocalAddresses(w.node.FD(), nil)
		Expect(err).NotTo(HaveOccurred())
		Expect(addresses).To(ContainElements(w.node.v4, w.node.v6, gateway4, gateway6, netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("2001:db8::77")))
		Expect(addresses).NotTo(ContainElement(HaveField("IsLoopback()", true)))
		some, err := nftables.LocalAddresses(w.node.FD(), []netip.Prefix{netip.MustParsePrefix("192.0.2.64/26"), netip.MustParsePrefix("2001:db8::70/124")})
		Expect(err).NotTo(HaveOccurred())
		Expect(some).To(ConsistOf(netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("2001:db8::77")))
		s := dual("web", 29, nil)
		w.services, w.slices = []*corev1.Service{s}, w.backs(s, "pod1")
		for _, chosen := range [][]netip.Addr{some, addresses} {
			w.facts.Addresses = chosen
			w.sync()
			for _, addr := range addresses {
				_, err := w.outside.ask("tcp", netip.AddrPortFrom(addr, 30029).String())
				if slices.Contains(chosen, addr) {
					Expect(err).NotTo(HaveOccurred(), addr.String())
				} else {
					Expect(err).To(MatchError(unix.ECONNREFUSED), addr.String())
				}
			}
		}
	})

	It("hides with another mark, and hides all from everybody if told to", func() {
		must(w.dialect.Cleanup(context.Background()))
		d, err := nftables.Open(nftables.Config{Table: "nodekit", NetNS: w.node.FD(), MasqueradeMark: 1 << 20})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(d.Close)
		w.dialect = d
		s := dual("web", 30, nil)
		w.services, w.slices = []*corev1.Service{s}, w.backs(s, "pod1")
		for _, all := range []bool{false, true} {
			w.facts.MasqueradeAll = all
			w.sync()
			for _, to := range w.at(s, proxyrules.ClusterIP) {
				Expect(w.answers(w.pods[2], "tcp", to, 1)).To(Equal([]string{"pod1 sees " + map[bool]string{true: "node", false: "client"}[all]}))
				Expect(w.answers(w.outside, "udp", to, 1)).To(Equal([]string{"pod1 sees node"}))
			}
		}
	})

	It("lets UDP flows go on while their endpoint drains, and forgets them when it serves no more, or the service goes", func() {
		s := dual("web", 31, nil)
		w.services, w.slices = []*corev1.Service{s}, w.backs(s, "pod1")
		w.sync()
		for _, kind := range append(external, proxyrules.ClusterIP) {
			for _, to := range w.at(s, kind) {
				w.services, w.slices = []*corev1.Service{s}, w.backs(s, "pod1")
				w.sync()
				c, err := w.pods[2].dial("udp", to.String(), nil)
				Expect(err).NotTo(HaveOccurred())
				DeferCleanup(c.Close)
				Expect(c.ask()).To(HavePrefix("pod1 "))
				w.slices = w.backs(s, "pod1 rt", "pod2")
				Expect(w.sync().Flows).To(BeZero())
				Expect(c.ask()).To(HavePrefix("pod1 "), "%s", to)
				w.slices = w.backs(s, "pod1 rst", "pod2")
				Expect(w.sync().Flows).To(BeNumerically(">", 0))
				Expect(c.ask()).To(HavePrefix("pod2 "), "%s", to)
				w.services = nil
				Expect(w.sync().Flows).To(BeNumerically(">", 0))
				_, err = c.ask()
				Expect(err).To(HaveOccurred(), "%s", to)
			}
		}
	})
}
