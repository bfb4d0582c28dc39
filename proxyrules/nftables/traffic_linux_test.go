package nftables_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/proxyrules"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// asking makes one connection after another until it is stopped, which tells how
// many there were. None may fail.
func asking(from *host, to string) (stop func() int) {
	end, failed, asked := make(chan struct{}), make(chan error, 1), 0
	go func() {
		defer close(failed)
		for {
			if _, err := from.ask("tcp", to); err != nil {
				failed <- fmt.Errorf("after %d: %w", asked, err)
				return
			}
			asked++
			select {
			case <-end:
				return
			default:
			}
		}
	}()
	ended := sync.OnceFunc(func() { close(end) })
	DeferCleanup(ended)
	return func() int {
		GinkgoHelper()
		ended()
		Expect(<-failed).NotTo(HaveOccurred())
		return asked
	}
}

var _ = Describe("traffic", func() { traffic("0") })

var _ = Describe("traffic on a bridge with netfilter", func() { traffic("1") })

func traffic(bridgeNetfilter string) {
	ctx := context.Background()
	var n *network
	var sync func(services []*corev1.Service, endpoints []*discoveryv1.EndpointSlice) *proxyrules.Table
	web := service("web", "10.96.0.10", port("TCP", 80, 30080), port("UDP", 53, 30053))
	six := service("six", "fd00:96::10", port("TCP", 80, 30080), port("UDP", 53, 30053))
	both := []*corev1.Service{web, six}
	ready := func(services []*corev1.Service, pods ...*host) (out []*discoveryv1.EndpointSlice) {
		for _, s := range services {
			like := netip.MustParseAddr(s.Spec.ClusterIP)
			var ips []string
			for _, pod := range pods {
				ips = append(ips, pod.addr(like).String())
			}
			for _, p := range s.Spec.Ports {
				out = append(out, slice(s, p, 8080, ips...))
			}
		}
		return out
	}

	BeforeEach(func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root, kerneltest.Nft)
		n = newNetwork(3, bridgeNetfilter)
		for _, pod := range n.pods {
			pod.serve(8080)
		}
		d := openIn(n.node.NetNS, "nodekit")
		var last *proxyrules.Table
		sync = func(services []*corev1.Service, endpoints []*discoveryv1.EndpointSlice) *proxyrules.Table {
			GinkgoHelper()
			last = build(services, endpoints, n.facts, last)
			_, err := d.Sync(ctx, last)
			Expect(err).NotTo(HaveOccurred())
			return last
		}
	})

	It("reaches both back-ends by cluster IP and node port, from pods, the node and outside", func() {
		sync(both, ready(both, n.pods[0], n.pods[1]))
		client := n.pods[2]
		for _, s := range both {
			vip := netip.MustParseAddr(s.Spec.ClusterIP)
			gateway, node := gateway4, n.node.addr(vip)
			if vip.Is6() {
				gateway = gateway6
			}
			for _, p := range s.Spec.Ports {
				proto := strings.ToLower(string(p.Protocol))
				at := netip.AddrPortFrom(vip, uint16(p.Port)).String()
				seen := func(by netip.Addr) []string {
					return []string{"pod1 " + by.String(), "pod2 " + by.String()}
				}
				Expect(keys(client.askAll(proto, at, 2))).To(Equal(seen(client.addr(vip))), "pods keep their address")
				Expect(keys(n.outside.askAll(proto, at, 2))).To(Equal(seen(gateway)), "others do not")
				Expect(keys(n.node.askAll(proto, at, 2))).To(Equal(seen(gateway)))
				at = netip.AddrPortFrom(node, uint16(p.NodePort)).String()
				for _, from := range []*host{client, n.outside, n.node} {
					Expect(keys(from.askAll(proto, at, 2))).To(Equal(seen(gateway)), "node port %s %s from %s", proto, at, from.name)
				}
			}
		}
	})

	It("takes a back-end to itself", func() {
		sync(both, ready(both, n.pods[0], n.pods[1]))
		for _, to := range []string{"10.96.0.10:80", "[fd00:96::10]:80"} {
			at := netip.MustParseAddrPort(to)
			gateway := gateway4
			if at.Addr().Is6() {
				gateway = gateway6
			}
			Expect(keys(n.pods[0].askAll("tcp", to, 2))).To(Equal([]string{
				"pod1 " + gateway.String(), "pod2 " + n.pods[0].addr(at.Addr()).String()}))
		}
	})

	It("is refused at once where no endpoint is", func() {
		sync(both, nil)
		for _, from := range []*host{n.pods[2], n.outside, n.node} {
			for _, to := range []string{"10.96.0.10:80", "192.0.2.1:30080", "10.96.0.10:81",
				"[fd00:96::10]:80", "[2001:db8::1]:30080", "[fd00:96::10]:81"} {
				begin := time.Now()
				_, err := from.ask("tcp", to)
				Expect(err).To(MatchError(unix.ECONNREFUSED), "%s from %s", to, from.name)
				GinkgoWriter.Printf("%s from %s refused after %s\n", to, from.name, time.Since(begin))
			}
			_, err := from.ask("udp", "10.96.0.10:53")
			if from == n.node {
				Expect(err).To(MatchError(unix.EPERM), "so says the kernel to a sender of its own")
			} else {
				Expect(err).To(MatchError(unix.ECONNREFUSED), "udp from %s", from.name)
			}
		}
	})

	It("goes on in open connections when their endpoint leaves, while new ones go elsewhere", func() {
		sync(both, ready(both, n.pods[0], n.pods[1]))
		client := n.pods[2]
		open := make(map[string]*conn)
		for len(open) < 2 {
			c, err := client.dial("tcp", "10.96.0.10:80", nil)
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(c.Close)
			answer, err := c.ask()
			Expect(err).NotTo(HaveOccurred())
			open[answer] = c
		}
		sync(both, ready(both, n.pods[1]))
		for range 20 {
			Expect(client.ask("tcp", "10.96.0.10:80")).To(Equal("pod2 10.244.0.4"))
		}
		sync(both, nil)
		Expect(open["pod1 10.244.0.4"].ask()).To(Equal("pod1 10.244.0.4"))
		sync(nil, nil)
		for answer, c := range open {
			Expect(c.ask()).To(Equal(answer))
		}
	})

	It("leaves no UDP flow behind at an endpoint that left", func() {
		flow := func(to string, local string) func() (string, error) {
			addr, err := net.ResolveUDPAddr("udp", local)
			Expect(err).NotTo(HaveOccurred())
			c, err := n.pods[2].dial("udp", to, addr)
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(c.Close)
			return c.ask
		}
		ask, nodePort := flow("10.96.0.10:53", "10.244.0.4:4000"), flow("192.0.2.1:30053", "10.244.0.4:4001")
		sync(both, ready(both, n.pods[0]))
		Expect(ask()).To(Equal("pod1 10.244.0.4"))
		Expect(nodePort()).To(Equal("pod1 10.244.0.1"))
		sync(both, ready(both, n.pods[1]))
		Expect(ask()).To(Equal("pod2 10.244.0.4"))
		Expect(nodePort()).To(Equal("pod2 10.244.0.1"))
		// Flows to endpoints that stay are kept.
		sync(both, ready(both, n.pods[1], n.pods[0]))
		for range 10 {
			Expect(ask()).To(Equal("pod2 10.244.0.4"))
		}
		sync(nil, nil)
		_, err := ask()
		Expect(err).To(HaveOccurred(), "the service is gone")
		sync(both, ready(both, n.pods[0]))
		Expect(ask()).To(Equal("pod1 10.244.0.4"))
		Expect(nodePort()).To(Equal("pod1 10.244.0.1"))
	})

	It("goes on while a new process adopts the rules", func() {
		first := sync(both, ready(both, n.pods[0], n.pods[1]))
		c, err := n.pods[2].dial("tcp", "10.96.0.10:80", nil)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(c.Close)
		answer, err := c.ask()
		Expect(err).NotTo(HaveOccurred())
		before := listing(n.node.NetNS, "nodekit")

		next := openIn(n.node.NetNS, "nodekit")
		stats, err := next.Sync(ctx, first)
		Expect(err).NotTo(HaveOccurred())
		stats.FlowsDuration = 0 // that of a look
		Expect(stats).To(Equal(proxyrules.SyncStats{Full: true}))
		Expect(listing(n.node.NetNS, "nodekit")).To(Equal(before))
		Expect(c.ask()).To(Equal(answer))

		// Even where the table has to be made anew.
		nft(n.node.NetNS, "add chain ip nodekit other { type filter hook forward priority 0; policy drop; }", "-f", "-")
		stats, err = next.Sync(ctx, first)
		Expect(err).NotTo(HaveOccurred())
		Expect(stats.Elements).To(BeNumerically(">", 0))
		Expect(c.ask()).To(Equal(answer))
	})

	It("loses no new connection while rules change and processes come and go", func() {
		// Without UDP, whose flows are looked through each time.
		both := []*corev1.Service{service("web", "10.96.0.10", port("TCP", 80, 30080)), service("six", "fd00:96::10", port("TCP", 80, 30080))}
		next := func(i int) []*discoveryv1.EndpointSlice {
			// Fewer endpoints need other chains; the one that left may have
			// been its own client.
			return ready(both, [][]*host{n.pods[:2], n.pods[2:], n.pods[1:3], n.pods[:1], n.pods}[i%5]...)
		}
		sync(both, next(0))
		stops := []func() int{asking(n.pods[2], "10.96.0.10:80"), asking(n.pods[2], "[fd00:96::10]:80"), asking(n.outside, "10.96.0.10:80")}
		for i := range 10 * rounds(20) {
			if i%3 == 2 {
				// The table is made anew.
				nft(n.node.NetNS, "add chain ip nodekit other", "-f", "-")
			}
			table := sync(both, next(3*i))
			other := openIn(n.node.NetNS, "nodekit")
			_, err := other.Sync(ctx, build(both, next(3*i+1), n.facts, table))
			Expect(err).NotTo(HaveOccurred())
			Expect(other.Close()).To(Succeed())
		}
		for _, stop := range stops {
			GinkgoWriter.Printf("%d connections\n", stop())
		}
	})

	It("loses no connection while new processes write much anew", func() {
		services, endpoints := many(2100, 10)
		table := sync(append(services, both...), append(endpoints, ready(both, n.pods[0], n.pods[1])...))
		c, err := n.pods[2].dial("tcp", "10.96.0.10:80", nil)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(c.Close)
		answer, err := c.ask()
		Expect(err).NotTo(HaveOccurred())
		stop := asking(n.pods[2], "10.96.0.10:80")
		for range 4 {
			next := openIn(n.node.NetNS, "nodekit")
			_, err := next.Load(ctx)
			Expect(err).NotTo(HaveOccurred())
			stats, err := next.Sync(ctx, table)
			Expect(err).NotTo(HaveOccurred())
			Expect(next.Close()).To(Succeed())
			GinkgoWriter.Printf("%d elements written\n", stats.Elements)
			Expect(c.ask()).To(Equal(answer))
		}
		GinkgoWriter.Printf("%d connections meanwhile\n", stop())
	})

	It("leaves the node with its address if the pods' shall be hidden", func() {
		n.outside.serve(9000)
		for _, hide := range []bool{false, true} {
			n.facts.MasqueradeEgress = hide
			table := sync(nil, nil)
			for _, to := range []string{"192.0.2.2:9000", "[2001:db8::2]:9000"} {
				at := netip.MustParseAddrPort(to)
				saw := n.pods[0].addr(at.Addr())
				explained := proxyrules.Trace(table, proxyrules.Packet{From: saw, To: at, Protocol: "TCP"})
				Expect(explained.Masquerade).To(Equal(hide))
				if hide {
					saw = n.node.addr(at.Addr())
				}
				Expect(n.pods[0].ask("tcp", to)).To(Equal("outside " + saw.String()))
			}
			Expect(n.pods[0].ask("tcp", "10.244.0.3:8080")).To(Equal("pod2 10.244.0.2"))
		}
	})
}
