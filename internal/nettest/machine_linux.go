package nettest

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
)

// Machine is a network namespace with a name. It forwards between its links.
type Machine struct {
	*kerneltest.NetNS
	Name string
	tb   kerneltest.TB
}

// New makes a machine that lives as long as its test.
func New(tb kerneltest.TB, name string) *Machine {
	tb.Helper()
	m := &Machine{kerneltest.NewNetNS(tb), name, tb}
	m.must(m.Do(func() error {
		for path, value := range map[string]string{
			"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/default/accept_dad": "0", "ipv6/conf/all/accept_dad": "0",
			"ipv4/icmp_ratelimit": "0", "ipv6/icmp/ratelimit": "0", "ipv4/conf/all/send_redirects": "0", "ipv4/conf/default/send_redirects": "0",
		} {
			if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	}))
	return m
}

func (m *Machine) must(err error) {
	m.tb.Helper()
	if err != nil {
		m.tb.Fatalf("machine %s: %v", m.Name, err)
	}
}

// Join links two machines, with addresses such as 192.0.2.1/24 at each end. The
// links are called as the other machine.
func Join(a, b *Machine, atA, atB []string) {
	a.tb.Helper()
	a.must(a.Do(func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: b.Name}, PeerName: a.Name, PeerNamespace: netlink.NsFd(b.FD())}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return Configure(b.Name, atA...)
	}))
	b.must(b.Do(func() error { return Configure(a.Name, atB...) }))
}

// Configure gives a link of the thread's network namespace addresses such as
// 192.0.2.1/24, and sets it up.
func Configure(name string, addresses ...string) error {
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
			return fmt.Errorf("add %s: %w", text, err)
		}
	}
	return netlink.LinkSetUp(link)
}

// Route leads to a network, "" for all, by way of neighbours.
func (m *Machine) Route(to string, via ...string) {
	m.tb.Helper()
	m.must(m.Do(func() error {
		for _, gateway := range via {
			r := &netlink.Route{Gw: net.ParseIP(gateway)}
			if to != "" {
				_, network, err := net.ParseCIDR(to)
				if err != nil {
					return err
				}
				r.Dst = network
			}
			if err := netlink.RouteAdd(r); err != nil {
				return fmt.Errorf("route %s via %s: %w", to, gateway, err)
			}
		}
		return nil
	}))
}

// Serve tells each TCP connection and UDP datagram at a port the machine's name
// and the address that it sees, such as "pod 192.0.2.9".
func (m *Machine) Serve(port int) {
	m.tb.Helper()
	m.must(m.Do(func() error {
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
			return m.Name + " " + netip.MustParseAddrPort(peer.String()).Addr().Unmap().String()
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
		m.tb.Cleanup(func() {
			_ = listener.Close()
			_ = packets.Close()
			wg.Wait()
		})
		return nil
	}))
}

// Dial makes a connection from the machine.
func (m *Machine) Dial(patience time.Duration, proto, to string) (conn net.Conn, err error) {
	err = m.Do(func() error {
		conn, err = net.DialTimeout(proto, to, patience)
		return err
	})
	return conn, err
}

// ServeSCTP does the same for SCTP, at one of the machine's addresses.
func (m *Machine) ServeSCTP(at netip.AddrPort) {
	m.tb.Helper()
	ServeSCTP(m.tb, m.NetNS, at, func(peer netip.Addr) string { return m.Name + " " + peer.String() })
}

// Ask gives the answer of Serve to a new connection; proto is tcp, udp or sctp,
// which has its own patience.
func (m *Machine) Ask(patience time.Duration, proto, to string) (string, error) {
	if proto == "sctp" {
		at, err := netip.ParseAddrPort(to)
		if err != nil {
			return "", err
		}
		return AskSCTP(m.NetNS, at)
	}
	conn, err := m.Dial(patience, proto, to)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	return Answer(conn, patience)
}

// Answer reads that of Serve; of UDP it asks for it before.
func Answer(conn net.Conn, patience time.Duration) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if strings.HasPrefix(conn.LocalAddr().Network(), "udp") {
		if _, err := conn.Write([]byte("?")); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	return string(buf[:n]), err
}

// Run runs a program on the machine and gives all that it prints; its failure is
// the test's.
func (m *Machine) Run(stdin string, command ...string) string {
	m.tb.Helper()
	var out []byte
	m.must(m.Do(func() (err error) {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Stdin = strings.NewReader(stdin)
		if out, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, out)
		}
		return err
	}))
	return string(out)
}
