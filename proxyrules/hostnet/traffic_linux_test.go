package hostnet_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/proxyrules/hostnet"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const table = "nodekit-test"

func must(err error) {
	GinkgoHelper()
	Expect(err).NotTo(HaveOccurred())
}

// machine is a network namespace that tells who asks it.
type machine struct {
	*kerneltest.NetNS
	name string
}

func newMachine(name string) *machine {
	GinkgoHelper()
	m := &machine{kerneltest.NewNetNS(GinkgoT()), name}
	must(m.Do(func() error {
		for path, value := range map[string]string{"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/default/accept_dad": "0", "ipv6/conf/all/accept_dad": "0"} {
			if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	}))
	return m
}

// join links two machines, with addresses at each end.
func join(a, b *machine, atA, atB []string) {
	GinkgoHelper()
	must(a.Do(func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: b.name}, PeerName: a.name, PeerNamespace: netlink.NsFd(b.FD())}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return configure(b.name, atA)
	}))
	must(b.Do(func() error { return configure(a.name, atB) }))
}

func configure(name string, addresses []string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, text := range addresses {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

func (m *machine) route(to string, via ...string) {
	GinkgoHelper()
	must(m.Do(func() error {
		for _, gateway := range via {
			r := &netlink.Route{Gw: net.ParseIP(gateway)}
			if to != "" {
				_, r.Dst, _ = net.ParseCIDR(to)
			}
			if err := netlink.RouteAdd(r); err != nil {
				return fmt.Errorf("%s via %s: %w", to, gateway, err)
			}
		}
		return nil
	}))
}

// serve tells each TCP connection and UDP datagram who answers, and the address
// that it sees.
func (m *machine) serve(port int) {
	GinkgoHelper()
	must(m.Do(func() error {
		at := fmt.Sprintf(":%d", port)
		listener, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		packets, err := net.ListenPacket("udp", at)
		if err != nil {
			return err
		}
		answer := func(peer net.Addr) string {
			return m.name + " " + netip.MustParseAddrPort(peer.String()).Addr().Unmap().String()
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(conn, answer(conn.RemoteAddr()))
				_ = conn.Close()
			}
		})
		wg.Go(func() {
			buf := make([]byte, 100)
			for {
				_, peer, err := packets.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = packets.WriteTo([]byte(answer(peer)), peer)
			}
		})
		DeferCleanup(func() {
			_ = listener.Close()
			_ = packets.Close()
			wg.Wait()
		})
		return nil
	}))
}

func (m *machine) ask(proto, to string) (string, error) { return m.askFor(2*time.Second, proto, to) }

func (m *machine) askFor(patience time.Duration, proto, to string) (answer string, err error) {
	err = m.Do(func() error {
		conn, err := net.DialTimeout(proto, to, patience)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if proto == "udp" {
			if _, err := conn.Write([]byte("?")); err != nil {
				return err
			}
		}
		buf := make([]byte, 100)
		n, err := conn.Read(buf)
		answer = string(buf[:n])
		return err
	})
	return answer, err
}

// answer waits for the answer that must come: neighbours are found in time.
func answer(m *machine, proto, to string, want OmegaMatcher, why ...any) {
	GinkgoHelper()
	Eventually(func() (string, error) { return m.ask(proto, to) }).WithTimeout(30*time.Second).Should(want, why...)
}

func (m *machine) run(stdin string, command ...string) string {
	GinkgoHelper()
	var out []byte
	must(m.Do(func() (err error) {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err = cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	}))
	return string(out)
}

func (m *machine) open() *hostnet.Host {
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
	var node, pod, other, world *machine
	var host *hostnet.Host
	sync := func(want hostnet.Want) hostnet.Stats {
		GinkgoHelper()
		stats, err := host.Sync(ctx, want)
		must(err)
		return stats
	}

	BeforeEach(func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root, kerneltest.Nft)
		node, pod, other, world = newMachine("node"), newMachine("pod"), newMachine("other"), newMachine("world")
		join(node, pod, []string{"10.244.0.1/24", "fd00:244::1/64"}, []string{"10.244.0.5/24", "fd00:244::5/64"})
		join(node, other, []string{"192.0.2.1/24", "2001:db8::1/64"}, []string{"192.0.2.2/24", "2001:db8::2/64", "10.245.0.7/32", "fd00:245::7/128"})
		join(node, world, []string{"198.51.100.1/24", "2001:db8:1::1/64"}, []string{"198.51.100.9/24", "2001:db8:1::9/64"})
		pod.route("", "10.244.0.1", "fd00:244::1")
		other.route("10.244.0.0/24", "192.0.2.1")
		other.route("fd00:244::/64", "2001:db8::1")
		for _, m := range []*machine{pod, other, world} {
			m.serve(8080)
		}
		host = node.open()
	})

	It("hide pods from the world, but not from the exceptions", func() {
		_, err := pod.ask("tcp", "198.51.100.9:8080")
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
		_, err := world.ask("tcp", "198.51.100.1:81")
		Expect(err).To(HaveOccurred(), "only one address of the node")
		answer(node, "tcp", "198.51.100.1:80", HavePrefix("pod "))
		answer(pod, "tcp", "198.51.100.1:80", HavePrefix("pod 10.244.0.1"), "itself by the node's port")

		want.HostPorts = want.HostPorts[1:]
		Expect(sync(want)).To(Equal(hostnet.Stats{Rules: true}))
		_, err = world.ask("tcp", "198.51.100.1:80")
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
		_, err := pod.ask("tcp", "[fd00:245::7]:8080")
		Expect(err).To(HaveOccurred())
	})

	It("do what can be done when a route of another's is in the way, or leads nowhere", func() {
		node.route("10.245.0.0/24", "192.0.2.9")
		foreign := hostnet.Route{To: network("10.245.0.0/24"), Via: netip.MustParseAddr("192.0.2.2")}
		nowhere := hostnet.Route{To: network("10.246.0.0/24"), Via: netip.MustParseAddr("203.0.113.1")}
		good := hostnet.Route{To: network("10.247.0.0/24"), Via: netip.MustParseAddr("192.0.2.2")}
		stats, err := host.Sync(ctx, hostnet.Want{Routes: []hostnet.Route{foreign, nowhere, good}, Pods: []netip.Prefix{network("10.244.0.0/24")}})
		Expect(err).To(And(MatchError(hostnet.ErrForeignRoute), MatchError(unix.ENETUNREACH), MatchError(ContainSubstring("route to 10.246.0.0/24 via 203.0.113.1"))))
		Expect(stats).To(Equal(hostnet.Stats{Routes: 1, Rules: true}))
		must(host.Cleanup(ctx))
		Expect(node.run("", "ip", "route", "show")).To(And(ContainSubstring("10.245.0.0/24 via 192.0.2.9"), Not(ContainSubstring("10.247.0.0"))))
	})

	It("are written once, whoever did it, repaired, and removed without a trace", func() {
		const others = "table inet theirs {\n\tchain c {\n\t}\n}\n"
		node.run(others, "nft", "-f", "-")
		want := hostnet.Want{
			Pods: []netip.Prefix{network("10.244.0.0/24")}, Except: []netip.Prefix{network("10.0.0.0/8"), network("0.0.0.0/1")},
			Routes:    []hostnet.Route{{To: network("10.245.0.0/24"), Via: netip.MustParseAddr("192.0.2.2")}},
			HostPorts: []hostnet.HostPort{{Port: 80, Protocol: "SCTP", To: netip.MustParseAddrPort("10.244.0.5:8080")}},
		}
		Expect(sync(want)).To(Equal(hostnet.Stats{Rules: true, Routes: 1}))
		good, handles := node.run("", "nft", "list", "table", "inet", table), node.run("", "nft", "-a", "list", "table", "inet", table)
		Expect(sync(want)).To(Equal(hostnet.Stats{}))
		must(host.Close())
		host = node.open()
		Expect(sync(want)).To(Equal(hostnet.Stats{}))
		Expect(node.run("", "nft", "-a", "list", "table", "inet", table)).To(Equal(handles), "not even the rules' handles changed")
		for _, edit := range []string{
			"flush table inet " + table,
			"delete table inet " + table,
			"add rule inet " + table + " egress drop",
			"add chain inet " + table + " mine { type filter hook forward priority 0; policy drop; }",
			"add set inet " + table + " mine { type mark; }",
			"flush chain inet " + table + " output; delete chain inet " + table + " output",
			"add chain inet " + table + " prerouting { policy drop; }",
		} {
			node.run(edit, "nft", "-f", "-")
			Expect(sync(want)).To(Equal(hostnet.Stats{Rules: true}), edit)
			Expect(node.run("", "nft", "list", "table", "inet", table)).To(Equal(good), edit)
		}
		node.run("", "ip", "route", "del", "10.245.0.0/24")
		Expect(sync(want)).To(Equal(hostnet.Stats{Routes: 1}))

		must(host.Cleanup(ctx))
		must(host.Cleanup(ctx))
		Expect(node.run("", "nft", "list", "ruleset")).To(Equal(others))
		Expect(node.run("", "ip", "route", "show")).NotTo(ContainSubstring("10.245.0.0"))
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
				if _, err := world.askFor(20*time.Second, "tcp", "198.51.100.1:80"); err != nil {
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
