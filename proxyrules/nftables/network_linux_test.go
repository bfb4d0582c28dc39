package nftables_test

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/internal/nettest"
	"github.com/nodekit/nodekit/proxyrules"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"
)

// host is a network namespace with addresses: a pod, the node or a machine
// beside it.
type host struct {
	*kerneltest.NetNS
	name   string
	v4, v6 netip.Addr
}

func (h *host) addr(like netip.Addr) netip.Addr {
	if like.Is4() {
		return h.v4
	}
	return h.v6
}

// network is a node whose pods hang on a bridge with an address of their own
// and a default route through the node, and a machine outside.
type network struct {
	node, outside *host
	pods          []*host
	facts         proxyrules.Node
}

var (
	gateway4 = netip.MustParseAddr("10.244.0.1")
	gateway6 = netip.MustParseAddr("fd00:244::1")
)

func must(err error) {
	GinkgoHelper()
	Expect(err).NotTo(HaveOccurred())
}

// newHost makes a host whose links are of use at once.
func newHost(name, v4, v6 string) *host {
	GinkgoHelper()
	h := &host{NetNS: kerneltest.NewNetNS(GinkgoT()), name: name, v4: netip.MustParseAddr(v4), v6: netip.MustParseAddr(v6)}
	must(h.Do(func() error {
		for _, name := range []string{"accept_dad", "accept_redirects"} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/"+name, []byte("0"), 0); err != nil {
				return err
			}
		}
		return nil
	}))
	return h
}

// newNetwork makes one; bridgeNetfilter is "1" if the bridge shall show frames
// to the IP rules, as it does on hosts with Docker.
func newNetwork(pods int, bridgeNetfilter string) *network {
	GinkgoHelper()
	n := &network{
		node:    newHost("node", "192.0.2.1", "2001:db8::1"),
		outside: newHost("outside", "192.0.2.2", "2001:db8::2"),
		facts:   testNode,
	}
	must(n.node.Do(func() error {
		for path, value := range map[string]string{
			"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1",
			"ipv4/icmp_ratelimit": "0", "ipv6/icmp/ratelimit": "0",
			"ipv4/conf/all/send_redirects": "0", "ipv4/conf/default/send_redirects": "0",
		} {
			if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0); err != nil {
				return err
			}
		}
		// With br_netfilter the bridge itself turns packets round, and must be
		// allowed to send them back where they came from.
		for _, name := range []string{"iptables", "ip6tables"} {
			err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+name, []byte(bridgeNetfilter), 0)
			if err != nil && !os.IsNotExist(err) {
				return err
			}
		}
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		if err := netlink.LinkAdd(bridge); err != nil {
			return err
		}
		return nettest.Configure("br0", "10.244.0.1/24", "fd00:244::1/64")
	}))
	n.plug(n.outside, "", []string{"192.0.2.1/24", "2001:db8::1/64"}, []string{"192.0.2.2/24", "2001:db8::2/64"}, n.node.v4, n.node.v6)
	must(n.node.Do(func() error { return defaultRoutes("outside", n.outside.v4, n.outside.v6) }))
	for i := range pods {
		pod := newHost(fmt.Sprintf("pod%d", i+1), fmt.Sprintf("10.244.0.%d", i+2), fmt.Sprintf("fd00:244::%x", i+2))
		n.pods = append(n.pods, pod)
		n.plug(pod, "br0", nil, []string{pod.v4.String() + "/32", pod.v6.String() + "/128"}, gateway4, gateway6)
	}
	return n
}

// plug joins a host with the node by a veth pair.
func (n *network) plug(h *host, bridge string, here, there []string, gateways ...netip.Addr) {
	GinkgoHelper()
	must(n.node.Do(func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: h.name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(h.FD())}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		if bridge != "" {
			master, err := netlink.LinkByName(bridge)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetMaster(veth, master); err != nil {
				return err
			}
			if err := netlink.LinkSetHairpin(veth, true); err != nil {
				return err
			}
		}
		return nettest.Configure(h.name, here...)
	}))
	must(h.Do(func() error {
		if err := nettest.Configure("eth0", there...); err != nil {
			return err
		}
		return defaultRoutes("eth0", gateways...)
	}))
}

func defaultRoutes(link string, gateways ...netip.Addr) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	for _, gateway := range gateways {
		route := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("route via %s: %w", gateway, err)
		}
	}
	return nil
}

// serve answers each line or datagram with the host's name and the address
// that it sees, on a port of both families.
func (h *host) serve(port int) {
	GinkgoHelper()
	must(h.Do(func() error {
		for _, addr := range []netip.Addr{h.v4, h.v6} {
			at := netip.AddrPortFrom(addr, uint16(port)).String()
			listener, err := net.Listen("tcp", at)
			if err != nil {
				return err
			}
			packets, err := net.ListenPacket("udp", at)
			if err != nil {
				return err
			}
			var wg sync.WaitGroup
			wg.Add(2)
			DeferCleanup(func() {
				_ = listener.Close()
				_ = packets.Close()
				wg.Wait()
			})
			go func() { defer wg.Done(); h.accept(listener) }()
			go func() { defer wg.Done(); h.echo(packets) }()
		}
		return nil
	}))
}

func (h *host) answer(peer net.Addr) string {
	return h.name + " " + netip.MustParseAddrPort(peer.String()).Addr().String()
}

func (h *host) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = conn.Close() }()
			lines := bufio.NewScanner(conn)
			for lines.Scan() {
				if _, err := fmt.Fprintln(conn, h.answer(conn.RemoteAddr())); err != nil {
					return
				}
			}
		}()
	}
}

func (h *host) echo(packets net.PacketConn) {
	buf := make([]byte, 100)
	for {
		_, peer, err := packets.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = packets.WriteTo([]byte(h.answer(peer)), peer)
	}
}

// conn is a connection from a host.
type conn struct {
	net.Conn
	lines *bufio.Reader
}

func (h *host) dial(proto, to string, local net.Addr) (*conn, error) {
	var c net.Conn
	err := h.Do(func() (err error) {
		dialer := net.Dialer{Timeout: 20 * time.Second, LocalAddr: local}
		c, err = dialer.Dial(proto, to)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &conn{c, bufio.NewReader(c)}, nil
}

// ask sends a line and returns who answered and what address that saw.
func (c *conn) ask() (string, error) {
	limit := 20 * time.Second
	if strings.HasPrefix(c.LocalAddr().Network(), "udp") {
		limit = 4 * time.Second // a datagram may be lost
	}
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte("hello\n")); err != nil {
		return "", err
	}
	if strings.HasPrefix(c.LocalAddr().Network(), "udp") {
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		return string(buf[:n]), err
	}
	line, err := c.lines.ReadString('\n')
	return strings.TrimSpace(line), err
}

// ask makes one connection and asks once.
func (h *host) ask(proto, to string) (string, error) {
	c, err := h.dial(proto, to, nil)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	return c.ask()
}

// askAll asks until n different answers came, at most 100 times.
func (h *host) askAll(proto, to string, n int) map[string]int {
	GinkgoHelper()
	answers := make(map[string]int)
	for i := 0; i < 100 && (i < 2*n || len(answers) < n); i++ {
		answer, err := h.ask(proto, to)
		Expect(err).NotTo(HaveOccurred(), "%s %s from %s", proto, to, h.name)
		answers[answer]++
	}
	return answers
}

// serveSCTP answers at a port with the host's name and the address that it sees.
func (h *host) serveSCTP(port uint16) {
	GinkgoHelper()
	for _, addr := range []netip.Addr{h.v4, h.v6} {
		nettest.ServeSCTP(GinkgoT(), h.NetNS, netip.AddrPortFrom(addr, port), func(peer netip.Addr) string { return h.name + " " + peer.String() })
	}
}

// askProto asks over TCP, UDP or SCTP.
func (h *host) askProto(proto string, to netip.AddrPort) (string, error) {
	if proto == "sctp" {
		return nettest.AskSCTP(h.NetNS, to)
	}
	return h.ask(proto, to.String())
}
