package oci_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
)

// Addresses of the node and of a machine outside, on the wire between them.
const (
	node4, outside4 = "198.51.100.1", "198.51.100.2"
	node6, outside6 = "2001:db8:1::1", "2001:db8:1::2"
)

// within runs f in the network namespace of a path.
func within(path string, f func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// inNet runs f in the network of a sandbox.
func (e *env) inNet(sandbox string, f func() error) error {
	e.tb.Helper()
	s, err := e.rt.SandboxStatus(e.ctx(), sandbox)
	if err != nil {
		return err
	}
	return within(fmt.Sprintf("/proc/%d/ns/net", s.PID), f)
}

func (e *env) ips(sandbox string) []netip.Addr {
	e.tb.Helper()
	s, err := e.rt.SandboxStatus(e.ctx(), sandbox)
	Expect(err).NotTo(HaveOccurred())
	return s.IPs
}

// serve answers on a port of a sandbox, TCP and UDP of both families, with its
// name and the asker's address.
func (e *env) serve(sandbox, name string, port int) {
	e.tb.Helper()
	Expect(e.inNet(sandbox, func() error { return answer(e.tb.Cleanup, name, fmt.Sprintf(":%d", port)) })).To(Succeed())
}

func answer(cleanup func(func()), name, address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, reply(name, conn.RemoteAddr()))
			_ = conn.Close()
		}
	}()
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	cleanup(func() { _ = packets.Close() })
	go func() {
		buffer := make([]byte, 100)
		for {
			_, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo([]byte(reply(name, from)), from)
		}
	}()
	return nil
}

func reply(name string, from net.Addr) string {
	ap := netip.MustParseAddrPort(from.String())
	return name + " " + ap.Addr().Unmap().String()
}

// ask gives the answer, "name address".
func ask(network, host string, port int, patience time.Duration) (string, error) {
	conn, err := net.DialTimeout(network, net.JoinHostPort(host, fmt.Sprint(port)), patience)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if network == "udp" {
		if _, err := io.WriteString(conn, "?"); err != nil {
			return "", err
		}
	}
	buffer := make([]byte, 100)
	n, err := conn.Read(buffer)
	return string(buffer[:n]), err
}

// place is where something is asked from.
type place func(f func() error) error

func here(f func() error) error { return f() }

func (e *env) from(sandbox string) place {
	return func(f func() error) error { return e.inNet(sandbox, f) }
}

func (p place) ask(network, host string, port int, patience time.Duration) (out string, err error) {
	err = p(func() (err error) { out, err = ask(network, host, port, patience); return err })
	return out, err
}

// hears expects an answer of TCP and of UDP from who, which sees asker; "" is
// whoever.
func (p place) hears(host string, port int, who, asker string) {
	for _, network := range []string{"tcp", "udp"} {
		got, err := p.ask(network, host, port, 5*time.Second)
		ExpectWithOffset(1, err).NotTo(HaveOccurred(), "%s %s:%d", network, host, port)
		name, by, _ := strings.Cut(got, " ")
		ExpectWithOffset(1, name).To(Equal(who), "%s %s:%d", network, host, port)
		if asker != "" {
			ExpectWithOffset(1, by).To(Equal(asker), "%s %s:%d: who is seen to ask", network, host, port)
		}
	}
}

// hearsNothing expects none.
func (p place) hearsNothing(host string, port int) {
	for _, network := range []string{"tcp", "udp"} {
		got, err := p.ask(network, host, port, 300*time.Millisecond)
		ExpectWithOffset(1, err).To(HaveOccurred(), "%s %s:%d answers %s", network, host, port, got)
	}
}

// newOutside is a machine on a wire to the network namespace at node, with
// routes through it.
func newOutside(tb testTB, node string) place {
	tb.Helper()
	ns := kerneltest.NewNetNS(tb)
	err := within(node, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "wan0"
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "wan0", PeerNamespace: netlink.NsFd(ns.FD())}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return addressed("wan0", node4+"/24", node6+"/64")
	})
	Expect(err).NotTo(HaveOccurred())
	tb.Cleanup(func() {
		_ = within(node, func() error {
			link, err := netlink.LinkByName("wan0")
			return errors.Join(err, netlink.LinkDel(link))
		})
	})
	err = ns.Do(func() error {
		if err := addressed("wan0", outside4+"/24", outside6+"/64"); err != nil {
			return err
		}
		for _, gateway := range []string{node4, node6} {
			if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)}); err != nil {
				return err
			}
		}
		return nil
	})
	Expect(err).NotTo(HaveOccurred())
	return ns.Do
}

type testTB interface {
	kerneltest.TB
	Cleanup(func())
}

func addressed(name string, addresses ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, text := range addresses {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

func sysctl(name string) string {
	data, err := os.ReadFile("/proc/sys/" + name)
	ExpectWithOffset(1, err).NotTo(HaveOccurred())
	return strings.TrimSpace(string(data))
}

func setSysctl(name, value string) {
	ExpectWithOffset(1, os.WriteFile("/proc/sys/"+name, []byte(value), 0)).To(Succeed())
}
