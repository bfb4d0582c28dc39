package iptables_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"

	"github.com/nodekit/nodekit/internal/nettest"
	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/iptables"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
)

const tcp, udp = corev1.ProtocolTCP, corev1.ProtocolUDP

// refused and dropped say what becomes of a connection that must not be.
func refused(m *nettest.Machine, to string) {
	GinkgoHelper()
	_, err := m.Ask(soon, "tcp", to)
	Expect(errors.Is(err, syscall.ECONNREFUSED)).To(BeTrue(), "%s from %s: %v", to, m.Name, err)
}

func dropped(m *nettest.Machine, to string) {
	GinkgoHelper()
	_, err := m.Ask(little, "tcp", to)
	var timeout net.Error
	Expect(errors.As(err, &timeout) && timeout.Timeout()).To(BeTrue(), "%s from %s: %v", to, m.Name, err)
}

var _ = Describe("traffic", func() {
	for _, variant := range []iptables.Variant{iptables.Legacy, iptables.NFT} {
		Context("with iptables-"+string(variant), func() {
			var w *world
			var d *iptables.Dialect

			BeforeEach(func() { w, d = openWorld(variant) })

			It("to cluster IPs is balanced; who is no pod gets the node's address", func() {
				w.sync(d, service("web", 10, tcp), endpoints("web", tcp, 1, 2), service("dns", 53, udp), endpoints("dns", udp, 1, 2))
				answers(w.pod1, "tcp", "10.96.0.10:80", "pod1 10.244.1.1", "pod2 10.244.1.5") // itself by hairpin
				answers(w.pod1, "tcp", "[fd00:96::10]:80", "pod1 fd00:244:1::1", "pod2 fd00:244:1::5")
				answers(w.pod1, "udp", "10.96.0.53:80", "pod1 10.244.1.1", "pod2 10.244.1.5")
				answers(w.client, "tcp", "10.96.0.10:80", "pod1 10.244.1.1", "pod2 10.244.2.1")
				answers(w.client, "udp", "[fd00:96::53]:80", "pod1 fd00:244:1::1", "pod2 fd00:244:2::1")
				answers(w.node, "tcp", "10.96.0.10:80", "pod1 10.244.1.1", "pod2 10.244.2.1")

				w.facts.LocalInterface = "pod*"
				w.sync(d, service("web", 10, tcp), endpoints("web", tcp, 2))
				answers(w.pod1, "tcp", "10.96.0.10:80", "pod2 10.244.1.5")
				answers(w.client, "tcp", "10.96.0.10:80", "pod2 10.244.2.1")
				w.facts.LocalInterface, w.facts.MasqueradeAll = "", true
				w.sync(d, service("web", 10, tcp), endpoints("web", tcp, 2))
				answers(w.pod1, "tcp", "10.96.0.10:80", "pod2 10.244.2.1")
			})

			It("from outside gets the node's address, at node ports, external IPs and load balancers", func() {
				w.sync(d, service("web", 10, tcp, outside(30080, 10)), endpoints("web", tcp, 2))
				for _, to := range []string{"198.51.100.1:30080", "203.0.113.10:80", "203.0.113.110:80"} {
					answers(w.client, "tcp", to, "pod2 10.244.2.1")
					answers(w.pod1, "tcp", to, "pod2 10.244.2.1")
				}
				for _, to := range []string{"[2001:db8:1::1]:30080", "[2001:db8:e::10]:80", "[2001:db8:1b::10]:80"} {
					answers(w.client, "tcp", to, "pod2 fd00:244:2::1")
				}
			})

			It("under policy Local keeps its address and stays here; pods and the node are not bound", func() {
				w.sync(d, service("web", 10, tcp, outside(30080, 10), local), endpoints("web", tcp, 1, 3),
					service("far", 20, tcp, outside(30081, 20), local), endpoints("far", tcp, 3))
				for _, to := range []string{"198.51.100.1:30080", "203.0.113.10:80", "203.0.113.110:80"} {
					answers(w.client, "tcp", to, "pod1 198.51.100.9")
					answers(w.pod2, "tcp", to, "pod1 10.244.2.5", "pod3 10.244.2.5")
				}
				answers(w.client, "tcp", "[2001:db8:1::1]:30080", "pod1 2001:db8:1::9")
				answers(w.node, "tcp", "198.51.100.1:30080", "pod1 10.244.1.1", "pod3 192.0.2.1")
				answers(w.pod2, "tcp", "198.51.100.1:30081", "pod3 10.244.2.5")
				dropped(w.client, "198.51.100.1:30081")
				dropped(w.client, "203.0.113.20:80")
				internal := func(s *corev1.Service) {
					s.Spec.InternalTrafficPolicy = pointer(corev1.ServiceInternalTrafficPolicyLocal)
				}
				w.sync(d, service("web", 10, tcp, internal), endpoints("web", tcp, 1, 3), service("far", 20, tcp, internal), endpoints("far", tcp, 3))
				answers(w.pod2, "tcp", "10.96.0.10:80", "pod1 10.244.2.5")
				dropped(w.pod2, "10.96.0.20:80")
			})

			It("is refused without endpoints and at wrong ports, and dropped at addresses that no Service has", func() {
				w.sync(d, service("none", 10, tcp, outside(30080, 10)), service("web", 11, tcp), endpoints("web", tcp, 1))
				for _, m := range []*nettest.Machine{w.client, w.pod1, w.node} {
					refused(m, "10.96.0.10:80")
					refused(m, "10.96.0.11:81")
					refused(m, "[fd00:96::11]:81")
				}
				refused(w.client, "198.51.100.1:30080")
				refused(w.client, "203.0.113.110:80")
				dropped(w.client, "10.96.0.99:80")
			})

			It("to a load balancer comes from its source ranges only", func() {
				ranged := func(s *corev1.Service) {
					s.Spec.LoadBalancerSourceRanges = []string{"10.244.1.0/24", "2001:db8:1::/64"}
				}
				w.sync(d, service("web", 10, tcp, outside(30080, 10), ranged), endpoints("web", tcp, 2))
				answers(w.pod1, "tcp", "203.0.113.110:80", "pod2 10.244.2.1")
				answers(w.client, "tcp", "[2001:db8:1b::10]:80", "pod2 fd00:244:2::1")
				dropped(w.client, "203.0.113.110:80")
				answers(w.client, "tcp", "203.0.113.10:80", "pod2 10.244.2.1")
			})

			It("of one client keeps its endpoint under affinity, until that leaves", func() {
				sticky := func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }
				web := service("web", 10, tcp, sticky, outside(30080, 10))
				w.sync(d, web, endpoints("web", tcp, 1, 2, 3))
				first, err := w.client.Ask(soon, "tcp", "10.96.0.10:80")
				must(err)
				for range 10 {
					Expect(w.client.Ask(soon, "tcp", "10.96.0.10:80")).To(Equal(first))
					Expect(w.client.Ask(soon, "tcp", "198.51.100.1:30080")).To(HavePrefix(first[:4]))
				}
				w.sync(d, web, endpoints("web", tcp, 1, 2, 3), service("other", 11, tcp)) // another Service's change forgets nothing
				Expect(w.client.Ask(soon, "tcp", "10.96.0.10:80")).To(Equal(first))
				left := map[string][]int{"pod1": {2, 3}, "pod2": {1, 3}, "pod3": {1, 2}}[first[:4]]
				w.sync(d, web, endpoints("web", tcp, left...))
				Expect(w.client.Ask(soon, "tcp", "10.96.0.10:80")).NotTo(HavePrefix(first[:4]))
			})

			It("of UDP goes to another endpoint at once when its own leaves", func() {
				dns := service("dns", 53, udp)
				w.sync(d, dns, endpoints("dns", udp, 1))
				conn, err := w.client.Dial(soon, "udp", "10.96.0.53:80")
				must(err)
				DeferCleanup(conn.Close)
				Expect(nettest.Answer(conn, soon)).To(Equal("pod1 10.244.1.1"))
				stats := w.sync(d, dns, endpoints("dns", udp, 2))
				Expect(stats.Flows).To(Equal(1))
				Expect(nettest.Answer(conn, soon)).To(Equal("pod2 10.244.2.1"))
			})

			It("of pods to the world gets the node's address, but for exceptions", func() {
				w.facts.MasqueradeEgress = true
				w.sync(d)
				answers(w.pod1, "tcp", "198.51.100.9:8080", "client 198.51.100.1")
				answers(w.pod1, "tcp", "[2001:db8:1::9]:8080", "client 2001:db8:1::1")
				answers(w.pod1, "tcp", "10.244.3.5:8080", "pod3 10.244.1.5")
				w.facts.NoMasquerade = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
				w.sync(d)
				answers(w.pod1, "tcp", "198.51.100.9:8080", "client 10.244.1.5")
			})

			It("is left as it was by other programs' rules, repairs and Cleanup", func() {
				ctx := context.Background()
				tool := "iptables-" + string(variant)
				w.node.Run("", tool, "-w", "-t", "nat", "-N", "THEIRS")
				w.node.Run("", tool, "-w", "-A", "INPUT", "-p", "tcp", "--dport", "9", "-j", "ACCEPT")
				saved := func() string {
					return w.node.Run("", "sh", "-c", tool+"-save | grep -v '^#' | sed 's/ *\\[[0-9:]*\\]//'")
				}
				before := saved()
				web, many := []any{service("web", 10, tcp), endpoints("web", tcp, 1)}, []any{service("a", 1, tcp), endpoints("a", tcp, 1), service("b", 2, udp), endpoints("b", udp, 2)}
				Expect(w.sync(d, web...).Full).To(BeTrue())
				good := saved()
				Expect(w.sync(d, web...)).To(Equal(proxyrules.SyncStats{}), "nothing to do")
				w.sync(d, many...)
				w.sync(d, web...)
				Expect(saved()).To(Equal(good), "no chain is left of what went")
				w.sync(w.open(variant), web...)
				Expect(saved()).To(Equal(good), "another process")
				for _, edit := range [][]string{
					{"-t", "nat", "-F", prefix + "-SERVICES"},
					{"-D", "FORWARD", "-m", "conntrack", "--ctstate", "NEW", "-j", prefix + "-ELSEWHERE"},
					{"-t", "nat", "-F"},
					{"-F"},
				} {
					w.node.Run("", append([]string{tool, "-w"}, edit...)...)
					stats := w.sync(d, web...)
					Expect(stats.Full).To(BeTrue(), "%v", edit)
					Expect(stats.Elements).To(BeNumerically(">", 0), "%v", edit)
					answers(w.pod2, "tcp", "10.96.0.10:80", "pod1 10.244.2.5")
				}
				w.node.Run("", tool, "-w", "-A", "INPUT", "-p", "tcp", "--dport", "9", "-j", "ACCEPT") // -F took it
				must(d.Cleanup(ctx))
				must(d.Cleanup(ctx))
				Expect(saved()).To(Equal(before))
				Expect(w.node.Run("", "ip6tables-"+string(variant)+"-save")).NotTo(ContainSubstring(prefix))
			})
		})
	}
})
