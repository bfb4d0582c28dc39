package nftables_test

import (
	"net/netip"
	"strings"
	"time"

	"github.com/nodekit/nodekit/internal/nettest"
	"github.com/nodekit/nodekit/proxyrules"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

var _ = Describe("choices of endpoints", func() {
	var w *world
	BeforeEach(func() { w = newWorld("0") })

	It("hints: our node's before our zone's before all, if every ready endpoint has one and one is for us", func() {
		w.facts.Zone = "zone1"
		s := dual("web", 40, nil)
		w.services = []*corev1.Service{s}
		for _, c := range []struct {
			why  string
			pods [2]string
			want []string
		}{
			{"one is for our node", [2]string{"pod1 nz", "pod2 Nz"}, []string{"pod1"}},
			{"none is for our node, one for our zone", [2]string{"pod1 NZ", "pod2 Nz"}, []string{"pod2"}},
			{"none is for us", [2]string{"pod1 NZ", "pod2 NZ"}, []string{"pod1", "pod2"}},
			{"not all say which node", [2]string{"pod1 nZ", "pod2 z"}, []string{"pod2"}},
			{"not all say which zone", [2]string{"pod1 z", "pod2"}, []string{"pod1", "pod2"}},
			{"ours is not ready", [2]string{"pod1 nzr", "pod2 NZ"}, []string{"pod2"}},
			{"one without any is not ready", [2]string{"pod1 r", "pod2 n"}, []string{"pod2"}},
		} {
			w.slices = w.backs(s, c.pods[:]...)
			w.sync()
			for _, proto := range protos {
				for _, kind := range append(external, proxyrules.ClusterIP) {
					to := w.at(s, kind)[len(proto)%2] // one of both families
					saw := map[bool]string{true: " sees client", false: " sees node"}[kind == proxyrules.ClusterIP]
					var want []string
					for _, name := range c.want {
						want = append(want, name+saw)
					}
					Expect(w.answers(w.pods[2], proto, to, len(want))).To(Equal(want), "%s: %s %s", c.why, proto, to)
				}
			}
		}
	})

	It("those that serve while they terminate come last, others never", func() {
		s := dual("web", 41, nil)
		w.services = []*corev1.Service{s}
		for _, c := range []struct {
			pods [2]string
			want []string
		}{
			{[2]string{"pod1 rt", "pod2"}, []string{"pod2 sees client"}},
			{[2]string{"pod1 rt", "pod2 rst"}, []string{"pod1 sees client"}},
			{[2]string{"pod1 rt", "pod2 rt"}, []string{"pod1 sees client", "pod2 sees client"}},
			{[2]string{"pod1 r", "pod2 rst"}, nil},
		} {
			w.slices = w.backs(s, c.pods[:]...)
			w.sync()
			for _, to := range w.at(s, proxyrules.ClusterIP) {
				if c.want == nil {
					_, err := w.pods[2].ask("tcp", to.String())
					Expect(err).To(MatchError(unix.ECONNREFUSED), "%v %s", c.pods, to)
					continue
				}
				for _, proto := range protos {
					Expect(w.answers(w.pods[2], proto, to, len(c.want))).To(Equal(c.want), "%v %s %s", c.pods, proto, to)
				}
			}
		}
	})

	It("Services and slices that are for others are left to them", func() {
		other := &host{NetNS: w.outside.NetNS, name: "other", v4: netip.MustParseAddr("10.96.0.42"), v6: netip.MustParseAddr("fd00:96::2a")}
		must(other.Do(func() error { return nettest.Configure("eth0", other.v4.String()+"/32", other.v6.String()+"/128") }))
		other.serve(80)
		other.serveSCTP(80)
		ours := dual("web", 42, func(s *corev1.Service) { s.Spec.ClusterIPs[1] = other.v6.String() })
		proxied, alias := ours.DeepCopy(), ours.DeepCopy()
		proxied.Labels = map[string]string{proxyrules.LabelServiceProxyName: "other"}
		alias.Spec.Type, alias.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
		w.slices = w.backs(ours, "pod1")
		for _, label := range []string{corev1.IsHeadlessService, proxyrules.LabelServiceProxyName} {
			for _, s := range w.backs(ours, "pod2") {
				s.Name += "-" + strings.ReplaceAll(label, "/", "-")
				s.Labels[label] = ""
				w.slices = append(w.slices, s)
			}
		}
		for _, s := range []*corev1.Service{proxied, ours, alias, ours, proxied} {
			w.services = []*corev1.Service{s}
			w.sync()
			want := "other sees client"
			if s == ours {
				want = "pod1 sees client"
			}
			for _, addr := range []netip.Addr{other.v4, other.v6} {
				for _, proto := range protos {
					Expect(w.answers(w.pods[2], proto, netip.AddrPortFrom(addr, 80), 2)).To(Equal([]string{want}), "%s %s %v %s", proto, addr, s.Labels, s.Spec.Type)
				}
			}
		}
	})

	It("source ranges that hold the node let it in under the load balancer's address, too", func() {
		s := dual("web", 43, func(s *corev1.Service) {
			s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/31", "2001:db8::/127"}
		})
		w.services, w.slices = []*corev1.Service{s}, w.backs(s, "pod1")
		must(w.node.Do(func() error { return nettest.Configure("outside", "203.0.113.43/32", "fd00:203::43/128") }))
		w.sync()
		for _, to := range w.at(s, proxyrules.LoadBalancer) {
			Expect(w.answers(w.node, "tcp", to, 1)).To(Equal([]string{"pod1 sees node"}), "%s", to)
		}
		s = s.DeepCopy()
		s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.2/32", "2001:db8::2/128"}
		w.services = []*corev1.Service{s}
		w.sync()
		for _, to := range w.at(s, proxyrules.LoadBalancer) {
			w.lost(w.node, to)
			Expect(w.answers(w.outside, "tcp", to, 1)).To(Equal([]string{"pod1 sees node"}), "%s", to)
		}
	})

	It("affinity: the time counts from the last connection", func() {
		const timeout, asked = 5 * time.Second, 12 * time.Second
		s := dual("web", 44, func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: pointer(int32(timeout.Seconds()))}}
		})
		w.services, w.slices = []*corev1.Service{s}, w.backs(s, "pod1", "pod2")
		w.sync()
		// Where this program was kept waiting, it proves nothing, and begins again.
		stays := func(to []netip.AddrPort) bool {
			chosen := make(map[netip.AddrPort]string)
			last := time.Now()
			for end := last.Add(asked); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
				began := time.Now()
				for _, at := range to {
					answer, err := w.pods[2].ask("tcp", at.String())
					Expect(err).NotTo(HaveOccurred())
					if time.Since(last) > timeout/2 {
						return false
					}
					if chosen[at] == "" {
						chosen[at] = answer
					}
					Expect(answer).To(Equal(chosen[at]), "%s", at)
				}
				last = began
			}
			return true
		}
		Eventually(func() bool { return stays(w.at(s, proxyrules.ClusterIP)) }).WithTimeout(3 * time.Minute).Should(BeTrue())
	})

	It("affinity: who is one more than are remembered is balanced as without, and takes no other's place", func() {
		w.dialect.RememberClients(1)
		s := dual("web", 45, func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP })
		w.services, w.slices = []*corev1.Service{s}, w.backs(s, "pod1", "pod2")
		w.sync()
		for _, to := range w.at(s, proxyrules.LoadBalancer) {
			for _, proto := range protos {
				first, err := w.pods[2].askProto(proto, to)
				Expect(err).NotTo(HaveOccurred())
				Expect(w.answers(w.outside, proto, to, 2)).To(Equal([]string{"pod1 sees node", "pod2 sees node"}), "%s %s", proto, to)
				for range 5 {
					Expect(w.pods[2].askProto(proto, to)).To(Equal(first), "%s %s", proto, to)
				}
			}
		}
	})
})
