package oci_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci"
)

var _ = Describe("a network of IPv6", func() {
	for name, subnets := range map[string][]netip.Prefix{
		"IPv4 first": dualStack,
		"IPv6 first": {dualStack[1], dualStack[0]},
		"IPv6 alone": {dualStack[1]},
	} {
		It("carries everything between pods, node and the world: "+name, func() {
			e := newDualEnv(GinkgoTB(), subnets...)
			outside := newOutside(GinkgoTB(), "/proc/self/ns/net")
			one := e.sandbox()
			// At once: an address is good when RunSandbox returns.
			ips := e.ips(one)
			Expect(ips).To(HaveLen(len(subnets)))
			e.serve(one, "one", 80)
			for i, ip := range ips {
				Expect(subnets[i].Contains(ip)).To(BeTrue(), "%v in %v: the first subnet's address is the primary one", ip, subnets[i])
				gateway := subnets[i].Addr().Next().String()
				place(here).hears(ip.String(), 80, "one", gateway)
			}
			two := e.sandbox()
			e.serve(two, "two", 80)
			for i, ip := range ips {
				world := map[bool]string{true: outside4, false: outside6}[ip.Is4()]
				e.from(two).hears(ip.String(), 80, "one", e.ips(two)[i].String())
				e.from(one).hears(ip.String(), 80, "one", ip.String())
				outside.hears(ip.String(), 80, "one", world)
			}
			e.reopen()
			Expect(e.ips(one)).To(Equal(ips))
			three := e.sandbox()
			for _, ip := range e.ips(three) {
				Expect(append(ips, e.ips(two)...)).NotTo(ContainElement(ip))
			}
			gone := e.ips(two)
			Expect(e.rt.StopSandbox(e.ctx(), two)).To(Succeed())
			Expect(e.ips(two)).To(BeEmpty())
			place(here).hearsNothing(gone[0].String(), 80)
		})
	}

	It("gives each pod addresses that wait for nothing, and routes through the host", func() {
		e := newDualEnv(GinkgoTB())
		sb := e.sandbox()
		Expect(e.inNet(sb, func() error {
			eth0, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			addresses, err := netlink.AddrList(eth0, netlink.FAMILY_V6)
			if err != nil {
				return err
			}
			for _, a := range addresses {
				if !a.IP.IsGlobalUnicast() {
					continue // the kernel's own, good in a moment
				}
				if a.Flags&unix.IFA_F_TENTATIVE != 0 {
					return fmt.Errorf("%v is tentative", a)
				}
				if ones, _ := a.Mask.Size(); ones != 128 {
					return fmt.Errorf("%v is not alone", a)
				}
			}
			routes, err := netlink.RouteGet(net.ParseIP("fd00:88::77"))
			if err != nil {
				return err
			}
			if !routes[0].Gw.Equal(net.ParseIP("fd00:88::1")) {
				return fmt.Errorf("another pod is reached by %v", routes[0])
			}
			return nil
		})).To(Succeed())
	})

	It("hears no router among the pods (CVE-2020-10749)", func() {
		for _, subnets := range [][]netip.Prefix{dualStack, dualStack[:1]} {
			e := newDualEnv(GinkgoTB(), subnets...)
			sb := e.sandbox()
			for _, p := range []string{"accept_ra", "accept_redirects"} {
				Expect(e.inPod(sb, "/proc/sys/net/ipv6/conf/eth0/"+p)).To(Equal("0"), p)
				Expect(sysctl("net/ipv6/conf/nodekit0/"+p)).To(Equal("0"), p)
			}
			Expect(e.rt.Purge(e.ctx())).To(Succeed())
		}
	})

	It("makes the node forward, keeps its routers, and puts all of it back", func() {
		for _, name := range []string{"up0", "up1", "up2"} {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = name
			Expect(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})).To(Succeed()) // of any kind
			DeferCleanup(func() error {
				link, err := netlink.LinkByName(name)
				return errors.Join(err, netlink.LinkDel(link))
			})
		}
		const conf = "net/ipv6/conf/"
		setSysctl(conf+"all/forwarding", "0")
		before := map[string]string{conf + "up0/accept_ra": "1", conf + "up1/accept_ra": "0", conf + "up1/forwarding": "1", conf + "up2/forwarding": "0"}
		for name, value := range before {
			setSysctl(name, value)
		}
		e := newDualEnv(GinkgoTB())
		Expect(sysctl(conf+"all/forwarding")).To(Equal("0"), "before there is a pod")
		e.sandbox()
		Expect(sysctl(conf + "all/forwarding")).To(Equal("1"))
		Expect(sysctl(conf+"up0/accept_ra")).To(Equal("2"), "a node that forwards hears routers only so")
		Expect(sysctl(conf + "up1/accept_ra")).To(Equal("0"))
		e.reopen()
		e.sandbox()
		Expect(e.rt.Purge(e.ctx())).To(Succeed())
		Expect(sysctl(conf + "all/forwarding")).To(Equal("0"))
		for name, value := range before {
			Expect(sysctl(name)).To(Equal(value), name)
		}
	})

	It("is switched on where the node has it switched off", func() {
		setSysctl("net/ipv6/conf/all/disable_ipv6", "1")
		setSysctl("net/ipv6/conf/default/disable_ipv6", "1")
		DeferCleanup(func() {
			setSysctl("net/ipv6/conf/all/disable_ipv6", "0")
			setSysctl("net/ipv6/conf/default/disable_ipv6", "0")
		})
		e := newDualEnv(GinkgoTB())
		sb := e.sandbox()
		e.serve(sb, "one", 80)
		place(here).hears(e.ips(sb)[1].String(), 80, "one", "fd00:88::1")
	})

	It("is refused by a kernel without, before anything is made", func() {
		e := prepareEnv(GinkgoTB())
		e.cfg.Network = oci.Network{Subnets: dualStack}
		Expect(withoutIPv6(func() error { _, err := oci.Open(e.cfg); return err })).To(SatisfyAll(
			MatchError(runtimeiface.ErrNotSupported),
			MatchError(ContainSubstring("Network.Subnets[1] fd00:88::/64: not supported: the kernel has no IPv6"))))
		e.cfg.Network.Subnets = dualStack[:1]
		// In such a kernel: what Open and the first pod do with it left out.
		Expect(withoutIPv6(func() (err error) { e.rt, err = oci.Open(e.cfg); return err })).To(Succeed())
		sb := e.sandbox()
		e.serve(sb, "one", 80)
		place(here).hears(e.ips(sb)[0].String(), 80, "one", "10.88.0.1")
	})

	It("tells which subnet is full, and of how many pods", func() {
		e := newDualEnv(GinkgoTB(), netip.MustParsePrefix("10.88.0.0/24"), netip.MustParsePrefix("fd00:88::/126"))
		e.sandbox()
		second := e.sandbox()
		_, err := e.rt.RunSandbox(e.ctx(), e.sandboxSpec())
		Expect(err).To(MatchError(ContainSubstring("Network.Subnets[1] fd00:88::/126: no address is free: 2 pods have one each")))
		Expect(e.rt.RemoveSandbox(e.ctx(), second)).To(Succeed())
		e.sandbox()
	})

	It("leaves a bridge that was there", func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "mine0"
		Expect(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})).To(Succeed())
		DeferCleanup(func() error {
			link, err := netlink.LinkByName("mine0")
			return errors.Join(err, netlink.LinkDel(link))
		})
		e := prepareEnv(GinkgoTB())
		e.cfg.Network = oci.Network{Bridge: "mine0"}
		e.open()
		e.sandbox()
		Expect(e.rt.Purge(e.ctx())).To(Succeed())
		_, err := netlink.LinkByName("mine0")
		Expect(err).NotTo(HaveOccurred())
	})
})

// withoutIPv6 runs f on a thread that sees the /proc of a kernel without.
func withoutIPv6(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
				return err
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return err
			}
			if err := unix.Mount("none", "/proc/sys/net/ipv6", "tmpfs", 0, ""); err != nil {
				return err
			}
			if entries, err := os.ReadDir("/proc/sys/net/ipv6"); err != nil || len(entries) > 0 {
				return fmt.Errorf("still there: %v %v", entries, err)
			}
			return f()
		}()
	}()
	return <-done
}
