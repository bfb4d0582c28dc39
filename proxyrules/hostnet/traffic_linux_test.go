package hostnet_test

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/internal/nettest"
	"github.com/nodekit/nodekit/proxyrules/hostnet"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
)

const table = "nodekit-test"

func must(err error) {
	GinkgoHelper()
	Expect(err).NotTo(HaveOccurred())
}

// answer waits for the answer that must come: neighbours are found in time.
func answer(m *nettest.Machine, proto, to string, want OmegaMatcher, why ...any) {
	GinkgoHelper()
	Eventually(func() (string, error) { return m.Ask(2*time.Second, proto, to) }).WithTimeout(time.Minute).Should(want, why...)
}

func open(m *nettest.Machine) *hostnet.Host {
	GinkgoHelper()
	h, err := hostnet.Open(hostnet.Config{Table: table, NetNS: m.FD()})
	must(err)
	DeferCleanup(h.Close)
	return h
}

var _ = Describe("a node's duties to its pods", func() {
	ctx := context.Background()
	network := netip.MustParsePrefix
	// A pod on the node, another node with a pod network of its own, and the
	// world, which knows of no pod.
	var node, pod, other, world *nettest.Machine
	var host *hostnet.Host
	sync := func(want hostnet.Want) hostnet.Stats {
		GinkgoHelper()
		stats, err := host.Sync(ctx, want)
		must(err)
		return stats
	}

	BeforeEach(func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root, kerneltest.Nft)
		node, pod, other, world = nettest.New(GinkgoT(), "node"), nettest.New(GinkgoT(), "pod"), nettest.New(GinkgoT(), "other"), nettest.New(GinkgoT(), "world")
		nettest.Join(node, pod, []string{"10.244.0.1/24", "fd00:244::1/64"}, []string{"10.244.0.5/24", "fd00:244::5/64"})
		nettest.Join(node, other, []string{"192.0.2.1/24", "2001:db8::1/64"}, []string{"192.0.2.2/24", "2001:db8::2/64", "10.245.0.7/32", "fd00:245::7/128"})
		nettest.Join(node, world, []string{"198.51.100.1/24", "2001:db8:1::1/64"}, []string{"198.51.100.9/24", "2001:db8:1::9/64"})
		pod.Route("", "10.244.0.1", "fd00:244::1")
		other.Route("10.244.0.0/24", "192.0.2.1")
		other.Route("fd00:244::/64", "2001:db8::1")
		for _, m := range []*nettest.Machine{pod, other, world} {
			m.Serve(8080)
		}
		host = open(node)
	})

	It("hide pods from the world, but not from the exceptions", func() {
		_, err := pod.Ask(2*time.Second, "tcp", "198.51.100.9:8080")
		Expect(err).To(HaveOccurred(), "the world has no way back")
		want := hostnet.Want{Pods: []netip.Prefix{network("10.244.0.0/24"), network("fd00:244::/64")}}
		Expect(sync(want)).To(Equal(hostnet.Stats{Rules: true}))
		for _, proto := range []string{"tcp", "udp"} {
			answer(pod, proto, "198.51.100.9:8080", Equal("world 198.51.100.1"))
			answer(pod, proto, "[2001:db8:1::9]:8080", Equal("world 2001:db8:1::1"))
			answer(pod, proto, "192.0.2.2:8080", Equal("other 192.0.2.1"))
		}
		want.Except = []netip.Prefix{network("192.0.2.0/24"), network("2001:db8::/64")}
		Expect(sync(want)).To(Equal(hostnet.Stats{Rules: true}))
		answer(pod, "tcp", "192.0.2.2:8080", Equal("other 10.244.0.5"))
		answer(pod, "tcp", "[2001:db8::2]:8080", Equal("other fd00:244::5"))
		answer(pod, "tcp", "198.51.100.9:8080", Equal("world 198.51.100.1"))
		Expect(sync(hostnet.Want{})).To(Equal(hostnet.Stats{Rules: true}))
		answer(pod, "tcp", "192.0.2.2:8080", Equal("other 10.244.0.5"))
	})

	It("lead from ports of the node to pods", func() {
		want := hostnet.Want{HostPorts: []hostnet.HostPort{
			{Port: 80, Protocol: "TCP", To: netip.MustParseAddrPort("10.244.0.5:8080")},
			{Port: 53, Protocol: "UDP", To: netip.MustParseAddrPort("10.244.0.5:8080")},
			{Port: 80, Protocol: "TCP", To: netip.MustParseAddrPort("[fd00:244::5]:8080")},
			{Address: netip.MustParseAddr("192.0.2.1"), Port: 81, Protocol: "TCP", To: netip.MustParseAddrPort("10.244.0.5:8080")},
		}}
		Expect(sync(want)).To(Equal(hostnet.Stats{Rules: true}))
		answer(world, "tcp", "198.51.100.1:80", Equal("pod 198.51.100.9"))
		answer(world, "udp", "198.51.100.1:53", Equal("pod 198.51.100.9"))
		answer(world, "tcp", "[2001:db8:1::1]:80", Equal("pod 2001:db8:1::9"))
		answer(other, "tcp", "192.0.2.1:81", Equal("pod 192.0.2.2"))
		_, err := world.Ask(2*time.Second, "tcp", "198.51.100.1:81")
		Expect(err).To(HaveOccurred(), "only one address of the node")
		answer(node, "tcp", "198.51.100.1:80", HavePrefix("pod "))
		answer(pod, "tcp", "198.51.100.1:80", HavePrefix("pod 10.244.0.1"), "itself by the node's port")

		want.HostPorts = want.HostPorts[1:]
		Expect(sync(want)).To(Equal(hostnet.Stats{Rules: true}))
		_, err = world.Ask(2*time.Second, "tcp", "198.51.100.1:80")
		Expect(err).To(HaveOccurred())
		answer(world, "udp", "198.51.100.1:53", Equal("pod 198.51.100.9"))
	})

	It("lead to other nodes' pods", func() {
		want := hostnet.Want{Routes: []hostnet.Route{
			{To: network("10.245.0.0/24"), Via: netip.MustParseAddr("192.0.2.2")},
			{To: network("fd00:245::/64"), Via: netip.MustParseAddr("2001:db8::2")},
		}}
		Expect(sync(want)).To(Equal(hostnet.Stats{Routes: 2}))
		answer(pod, "tcp", "10.245.0.7:8080", Equal("other 10.244.0.5"))
		answer(pod, "tcp", "[fd00:245::7]:8080", Equal("other fd00:244::5"))
		// The way changes without a gap, and back.
		moved := hostnet.Want{Routes: []hostnet.Route{{To: want.Routes[0].To, Via: netip.MustParseAddr("198.51.100.9")}, want.Routes[1]}}
		Expect(sync(moved)).To(Equal(hostnet.Stats{Routes: 1}))
		Expect(sync(want)).To(Equal(hostnet.Stats{Routes: 1}))
		answer(pod, "tcp", "10.245.0.7:8080", Equal("other 10.244.0.5"))
		Expect(sync(hostnet.Want{Routes: want.Routes[:1]})).To(Equal(hostnet.Stats{Routes: 1}))
		_, err := pod.Ask(2*time.Second, "tcp", "[fd00:245::7]:8080")
		Expect(err).To(HaveOccurred())
	})

	It("do what can be done when a route of another's is in the way, or leads nowhere", func() {
		node.Route("10.245.0.0/24", "192.0.2.9")
		foreign := hostnet.Route{To: network("10.245.0.0/24"), Via: netip.MustParseAddr("192.0.2.2")}
		nowhere := hostnet.Route{To: network("10.246.0.0/24"), Via: netip.MustParseAddr("203.0.113.1")}
		good := hostnet.Route{To: network("10.247.0.0/24"), Via: netip.MustParseAddr("192.0.2.2")}
		stats, err := host.Sync(ctx, hostnet.Want{Routes: []hostnet.Route{foreign, nowhere, good}, Pods: []netip.Prefix{network("10.244.0.0/24")}})
		Expect(err).To(And(MatchError(hostnet.ErrForeignRoute), MatchError(unix.ENETUNREACH), MatchError(ContainSubstring("route to 10.246.0.0/24 via 203.0.113.1"))))
		Expect(stats).To(Equal(hostnet.Stats{Routes: 1, Rules: true}))
		must(host.Cleanup(ctx))
		Expect(node.Run("", "ip", "route", "show")).To(And(ContainSubstring("10.245.0.0/24 via 192.0.2.9"), Not(ContainSubstring("10.247.0.0"))))
	})

	It("are written once, whoever did it, repaired, and removed without a trace", func() {
		const others = "table inet theirs {\n\tchain c {\n\t}\n}\n"
		node.Run(others, "nft", "-f", "-")
		want := hostnet.Want{
			Pods: []netip.Prefix{network("10.244.0.0/24")}, Except: []netip.Prefix{network("10.0.0.0/8"), network("0.0.0.0/1")},
			Routes:    []hostnet.Route{{To: network("10.245.0.0/24"), Via: netip.MustParseAddr("192.0.2.2")}},
			HostPorts: []hostnet.HostPort{{Port: 80, Protocol: "SCTP", To: netip.MustParseAddrPort("10.244.0.5:8080")}},
		}
		Expect(sync(want)).To(Equal(hostnet.Stats{Rules: true, Routes: 1}))
		good, handles := node.Run("", "nft", "list", "table", "inet", table), node.Run("", "nft", "-a", "list", "table", "inet", table)
		Expect(sync(want)).To(Equal(hostnet.Stats{}))
		must(host.Close())
		host = open(node)
		Expect(sync(want)).To(Equal(hostnet.Stats{}))
		Expect(node.Run("", "nft", "-a", "list", "table", "inet", table)).To(Equal(handles), "not even the rules' handles changed")
		for _, edit := range []string{
			"flush table inet " + table,
			"delete table inet " + table,
			"add rule inet " + table + " egress drop",
			"add chain inet " + table + " mine { type filter hook forward priority 0; policy drop; }",
			"add set inet " + table + " mine { type mark; }",
			"flush chain inet " + table + " output; delete chain inet " + table + " output",
			"add chain inet " + table + " prerouting { policy drop; }",
		} {
			node.Run(edit, "nft", "-f", "-")
			Expect(sync(want)).To(Equal(hostnet.Stats{Rules: true}), edit)
			Expect(node.Run("", "nft", "list", "table", "inet", table)).To(Equal(good), edit)
		}
		node.Run("", "ip", "route", "del", "10.245.0.0/24")
		Expect(sync(want)).To(Equal(hostnet.Stats{Routes: 1}))

		must(host.Cleanup(ctx))
		must(host.Cleanup(ctx))
		Expect(node.Run("", "nft", "list", "ruleset")).To(Equal(others))
		Expect(node.Run("", "ip", "route", "show")).NotTo(ContainSubstring("10.245.0.0"))
	})

	It("lose no new connection while they change", func() {
		want := hostnet.Want{HostPorts: []hostnet.HostPort{{Port: 80, Protocol: "TCP", To: netip.MustParseAddrPort("10.244.0.5:8080")}}}
		sync(want)
		stop, failed := make(chan struct{}), make(chan error, 1)
		go func() {
			defer close(failed)
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := world.Ask(20*time.Second, "tcp", "198.51.100.1:80"); err != nil {
					failed <- fmt.Errorf("connection %d: %w", n, err)
					return
				}
			}
		}()
		for i := range 50 {
			want.HostPorts = append(want.HostPorts[:1], hostnet.HostPort{Port: uint16(1000 + i), Protocol: "TCP", To: netip.MustParseAddrPort("10.244.0.5:8080")})
			sync(want)
		}
		close(stop)
		Expect(<-failed).NotTo(HaveOccurred())
	})
})
