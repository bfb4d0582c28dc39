package nftables_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/proxyrules"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// rounds is how many random sets of Services a test goes through; each sends 40
// packets. NODEKIT_PROXY_ROUNDS says more.
func rounds(few int) int {
	if more, err := strconv.Atoi(os.Getenv("NODEKIT_PROXY_ROUNDS")); err == nil {
		return more
	}
	return few
}

var _ = Describe("packets", func() { packets("0") })

var _ = Describe("packets on a bridge with netfilter", func() { packets("1") })

func packets(bridgeNetfilter string) {
	It("do what Trace says", func() {
		w := newWorld(bridgeNetfilter)
		seed := uint64(GinkgoRandomSeed())
		r := rand.New(rand.NewPCG(seed, 3))
		for _, h := range []*host{w.outside, w.node} {
			h.serve(8080)
			h.serveSCTP(8080)
		}
		hosts := append([]*host{w.outside, w.node}, w.pods...)
		sent := map[proxyrules.Verdict]int{}
		for round := range rounds(12) {
			randomFacts(r, w)
			w.services, w.slices = randomServices(r, w.network)
			w.table = build(w.services, w.slices, w.facts, w.table)
			_, err := w.dialect.Sync(GinkgoT().Context(), w.table)
			Expect(err).NotTo(HaveOccurred())
			for range 40 {
				from := hosts[r.IntN(len(hosts))]
				to := randomTarget(r, w.table, w.network)
				packet := proxyrules.Packet{From: from.addr(to.Addr()), To: to, Protocol: []corev1.Protocol{"TCP", "UDP", "SCTP"}[r.IntN(3)]}
				switch from {
				case w.node:
					if w.facts.HasAddress(to.Addr()) {
						continue // what the node calls itself there depends on its routes
					}
				case w.outside:
					packet.Interface = "outside"
				default:
					packet.Interface = "br0"
				}
				explained := proxyrules.Trace(w.table, packet)
				sent[explained.Verdict]++
				By("seed " + strconv.FormatUint(seed, 10) + " round " + strconv.Itoa(round))
				checkPacket(w.network, from, packet, explained)
			}
		}
		GinkgoWriter.Printf("seed %d, packets sent: %v\n", seed, sent)
		for _, verdict := range []proxyrules.Verdict{proxyrules.VerdictBalance, proxyrules.VerdictReject, proxyrules.VerdictDrop, proxyrules.VerdictPass} {
			Expect(sent[verdict]).To(BeNumerically(">", 0), verdict)
		}
	})
}

var _ = Describe("odds", func() {
	It("are what Trace says", func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root)
		w := &world{network: newNetwork(6, "0")}
		for _, pod := range w.pods[1:] {
			pod.serve(8080)
		}
		w.dialect = openIn(w.node.NetNS, "nodekit")
		s := service("web", "10.96.0.10", port("UDP", 80, 0))
		w.services = []*corev1.Service{s}
		w.slices = []*discoveryv1.EndpointSlice{slice(s, s.Spec.Ports[0], 8080, "10.244.0.3", "10.244.0.4", "10.244.0.5", "10.244.0.6", "10.244.0.7")}
		w.sync()
		const sent = 1500
		seen := make(map[string]int)
		for range sent {
			answer, err := w.pods[0].ask("udp", "10.96.0.10:80")
			Expect(err).NotTo(HaveOccurred())
			seen[strings.Fields(answer)[0]]++
		}
		GinkgoWriter.Printf("of %d: %v\n", sent, seen)
		explained := proxyrules.Trace(w.table, proxyrules.Packet{From: w.pods[0].v4, To: netip.MustParseAddrPort("10.96.0.10:80"), Protocol: "UDP"})
		Expect(explained.Backends).To(HaveLen(5))
		for i, b := range explained.Backends {
			// Seven standard deviations: once in 10^11 by chance.
			want, deviation := sent*b.Odds, math.Sqrt(sent*b.Odds*(1-b.Odds))
			Expect(float64(seen["pod"+strconv.Itoa(i+2)])).To(BeNumerically("~", want, 7*deviation), "%v", seen)
		}
	})
})

func randomFacts(r *rand.Rand, w *world) {
	w.facts = testNode
	w.facts.MasqueradeAll, w.facts.MasqueradeEgress = r.IntN(4) == 0, r.IntN(2) == 0
	if r.IntN(2) == 0 {
		w.facts.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/64")}
	}
	switch r.IntN(5) {
	case 0:
		w.facts.LocalCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/30"), netip.MustParsePrefix("fd00:244::/126")}
	case 1:
		w.facts.LocalInterface = []string{"br0", "br*", "outside", "none"}[r.IntN(4)]
	}
}

// randomServices uses endpoints in the network of a test.
func randomServices(r *rand.Rand, n *network) ([]*corev1.Service, []*discoveryv1.EndpointSlice) {
	services, endpoints := random(r)
	backends := append([]*host{n.outside}, n.pods...)
	for _, s := range endpoints {
		*s.Ports[0].Port = 8080
		for i := range s.Endpoints {
			like := netip.MustParseAddr(s.Endpoints[i].Addresses[0])
			s.Endpoints[i].Addresses[0] = backends[r.IntN(len(backends))].addr(like).String()
		}
	}
	return services, endpoints
}

func randomTarget(r *rand.Rand, table *proxyrules.Table, n *network) netip.AddrPort {
	if table.Len() == 0 {
		return netip.AddrPortFrom(n.pods[0].v4, 8080)
	}
	front := table.At(r.IntN(table.Len()))
	to := netip.AddrPortFrom(front.Addr, front.Port)
	if front.Addr.IsUnspecified() {
		to = netip.AddrPortFrom(n.node.addr(front.Addr), front.Port)
	}
	switch r.IntN(10) {
	case 0:
		to = netip.AddrPortFrom(to.Addr(), 99)
	case 1:
		to = netip.AddrPortFrom(n.pods[r.IntN(len(n.pods))].addr(to.Addr()), 8080)
	case 2:
		to = netip.AddrPortFrom(n.outside.addr(to.Addr()), 8080)
	case 3:
		to = netip.MustParseAddrPort([]string{"10.96.9.9:80", "[fd00:96::9:9]:80"}[r.IntN(2)])
	}
	return to
}

// saw is what a host answers to a packet that may have been masqueraded.
func (n *network) saw(at netip.Addr, from *host, packet proxyrules.Packet, masquerade bool) string {
	gateway := gateway4
	if packet.From.Is6() {
		gateway = gateway6
	}
	var name string
	for _, h := range append([]*host{n.outside}, n.pods...) {
		if h.addr(packet.From) == at {
			name = h.name
		}
	}
	switch {
	case (masquerade || from == n.node) && name == "outside":
		return name + " " + n.node.addr(packet.From).String()
	case masquerade || from == n.node:
		return name + " " + gateway.String()
	}
	return name + " " + packet.From.String()
}

// checkPacket sends a packet often enough to see every back-end.
func checkPacket(n *network, from *host, packet proxyrules.Packet, explained proxyrules.Explanation) {
	GinkgoHelper()
	proto := strings.ToLower(string(packet.Protocol))
	ask := func() (string, error) { return from.askProto(proto, packet.To) }
	switch explained.Verdict {
	case proxyrules.VerdictBalance:
		want := make(map[string]int)
		for _, b := range explained.Backends {
			want[n.saw(b.Addr.Addr(), from, packet, b.Masquerade)]++
		}
		if explained.Affinity > 0 {
			// It may have been here before, so the first answer is any of them.
			first, err := ask()
			Expect(err).NotTo(HaveOccurred(), "%s", explained)
			Expect(want).To(HaveKey(first), "%s", explained)
			for range 3 {
				Expect(ask()).To(Equal(first), "%s", explained)
			}
			return
		}
		seen := make(map[string]int)
		for i := 0; i < 100 && (i < 2*len(want) || len(seen) < len(want)); i++ {
			answer, err := ask()
			Expect(err).NotTo(HaveOccurred(), "%s", explained)
			seen[answer]++
		}
		Expect(keys(seen)).To(Equal(keys(want)), "%s", explained)
	case proxyrules.VerdictReject:
		_, err := ask()
		refusal := unix.ECONNREFUSED
		if from == n.node && proto != "tcp" {
			refusal = unix.EPERM
		}
		Expect(err).To(MatchError(refusal), "%s", explained)
	case proxyrules.VerdictDrop:
		if packet.Protocol != corev1.ProtocolUDP {
			return // would wait long; the same rule drops all
		}
		c, err := from.dial("udp", packet.To.String(), nil)
		Expect(err).NotTo(HaveOccurred())
		defer func() { _ = c.Close() }()
		Expect(c.SetDeadline(time.Now().Add(50 * time.Millisecond))).To(Succeed())
		_, err = c.Write([]byte("hello"))
		if err == nil {
			_, err = c.Read(make([]byte, 10))
		}
		if from == n.node {
			Expect(err).To(MatchError(unix.EPERM), "the kernel tells a local sender: %s", explained)
			return
		}
		var timeout net.Error
		Expect(errors.As(err, &timeout) && timeout.Timeout()).To(BeTrue(), "%v %s", err, explained)
	case proxyrules.VerdictPass:
		for _, h := range append([]*host{n.outside}, n.pods...) {
			if h != from && h.addr(packet.To.Addr()) == packet.To.Addr() && packet.To.Port() == 8080 {
				Expect(ask()).To(Equal(n.saw(packet.To.Addr(), from, packet, explained.Masquerade)), "%s", explained)
			}
		}
	}
}
