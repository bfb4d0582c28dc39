package oci

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// podSysctls are set in each pod's network namespace before its interface is
// there. A redirect would lead a pod past the host, and past its rules; so would
// a router that a pod on the same bridge plays (CVE-2020-10749).
func (n *network) podSysctls() []string {
	list := []string{
		"net.ipv4.conf.all.accept_redirects", "0",
		"net.ipv4.conf.default.accept_redirects", "0",
	}
	if !n.ipv6 {
		return list
	}
	list = append(list,
		"net.ipv6.conf.default.accept_redirects", "0",
		"net.ipv6.conf.default.accept_ra", "0",
		"net.ipv6.conf.default.accept_dad", "0")
	if n.hasIPv6Subnet() {
		list = append(list, "net.ipv6.conf.all.disable_ipv6", "0", "net.ipv6.conf.default.disable_ipv6", "0")
	}
	return list
}

// bridgeSysctls are of the bridge's own, and go with it.
func (n *network) bridgeSysctls() [][2]string {
	list := [][2]string{{"ipv4", "send_redirects=0"}}
	if !n.ipv6 {
		return list
	}
	if n.hasIPv6Subnet() {
		list = append(list, [2]string{"ipv6", "disable_ipv6=0"})
	}
	// No pod tells the node where the world is.
	return append(list, [2]string{"ipv6", "accept_ra=0"}, [2]string{"ipv6", "accept_redirects=0"}, [2]string{"ipv6", "accept_dad=0"})
}

func (n *network) hasIPv6Subnet() bool {
	for _, subnet := range n.cfg.Subnets {
		if subnet.Addr().Is6() {
			return true
		}
	}
	return false
}

// ensureBridge makes the bridge, or finds it.
func (n *network) ensureBridge() (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.bridge != 0 {
		if link, err := n.handle.LinkByIndex(n.bridge); err == nil && link.Attrs().Name == n.cfg.Bridge {
			return n.bridge, nil
		}
	}
	if err := n.setHostSysctls(); err != nil {
		return 0, err
	}
	faultPoint("host parameters set")
	link, err := n.makeBridge()
	if err != nil {
		return 0, err
	}
	if err := n.inHostNS(n.setBridgeSysctls); err != nil {
		return 0, fmt.Errorf("set parameters of bridge: %w", err)
	}
	for _, pool := range n.pools {
		addr := &netlink.Addr{IPNet: &net.IPNet{
			IP: pool.gateway().AsSlice(), Mask: net.CIDRMask(pool.subnet.Bits(), pool.subnet.Addr().BitLen()),
		}}
		if pool.subnet.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD // good at once
		}
		if err := n.handle.AddrReplace(link, addr); err != nil {
			return 0, fmt.Errorf("give %v to bridge: %w", addr, err)
		}
	}
	if err := n.handle.LinkSetUp(link); err != nil {
		return 0, fmt.Errorf("set bridge up: %w", err)
	}
	faultPoint("bridge made")
	n.bridge = link.Attrs().Index
	return n.bridge, nil
}

func (n *network) makeBridge() (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = n.cfg.Bridge, n.cfg.MTU
	// A fixed address: else it would change with the pods on the bridge.
	attrs.HardwareAddr = hardwareAddr(n.pools[0].gateway())
	err := n.handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make bridge %s: %w", n.cfg.Bridge, err)
	}
	faultPoint("bridge added")
	link, err := n.handle.LinkByName(n.cfg.Bridge)
	if err != nil {
		return nil, fmt.Errorf("find bridge %s: %w", n.cfg.Bridge, err)
	}
	if link.Type() != "bridge" {
		return nil, fmt.Errorf("interface %s is a %s and not a bridge", n.cfg.Bridge, link.Type())
	}
	if n.madeBridge(link) && link.Attrs().Alias == "" {
		if err := n.handle.LinkSetAlias(link, n.bridgeAlias); err != nil {
			return nil, fmt.Errorf("set alias of bridge: %w", err)
		}
	}
	return link, nil
}

// madeBridge tells our bridge, by its alias or, if an agent was killed before it
// gave one, by its address, from one that was there.
func (n *network) madeBridge(link netlink.Link) bool {
	a := link.Attrs()
	return link.Type() == "bridge" && (a.Alias == n.bridgeAlias ||
		a.Alias == "" && bytes.Equal(a.HardwareAddr, hardwareAddr(n.pools[0].gateway())))
}

// setBridgeSysctls is called in the node's namespace, before the bridge is up.
func (n *network) setBridgeSysctls() error {
	for _, s := range n.bridgeSysctls() {
		name, value, _ := strings.Cut(s[1], "=")
		if err := writeSysctl("net/"+s[0]+"/conf/"+n.cfg.Bridge+"/"+name, value); err != nil {
			return err
		}
	}
	return nil
}

// hardwareAddr makes one of an address: unique on the bridge, the addresses of
// one subnet being so in their last four bytes.
func hardwareAddr(ip netip.Addr) net.HardwareAddr {
	b := ip.AsSlice()
	return append(net.HardwareAddr{0x0a, 0x58}, b[len(b)-4:]...)
}

// attachBridge makes the veth pair and all in the pod.
func (n *network) attachBridge(rec *sandboxRecord, nsPath string, sysctls []string) error {
	podNS, err := os.Open(nsPath)
	if err != nil {
		return err
	}
	defer func() { _ = podNS.Close() }()
	pod, err := enterPod(podNS, append(n.podSysctls(), sysctls...))
	if err != nil {
		return err
	}
	defer pod.Close()
	faultPoint("pod parameters set")
	// After what can be wrong with the pod: that does not change the node.
	bridge, err := n.ensureBridge()
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Flags = hostInterface(rec.ID), n.cfg.MTU, net.FlagUp
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: podInterface, PeerNamespace: netlink.NsFd(int(podNS.Fd())),
		PeerHardwareAddr: hardwareAddr(rec.IPs[0]),
	}
	if err := n.handle.LinkAdd(veth); err != nil {
		return fmt.Errorf("make veth pair: %w", err)
	}
	faultPoint("veth made")
	if err := n.handle.LinkSetMasterByIndex(veth, bridge); err != nil {
		return fmt.Errorf("put veth on bridge: %w", err)
	}
	faultPoint("veth on bridge")
	// Where br_netfilter is active, the bridge itself turns round what a rule
	// sends from a pod back to that pod, and its port must let it.
	if err := n.handle.LinkSetHairpin(veth, true); err != nil {
		return fmt.Errorf("set hairpin mode of veth: %w", err)
	}
	if err := n.handle.LinkSetAlias(veth, n.alias+rec.ID); err != nil {
		return fmt.Errorf("set alias of veth: %w", err)
	}
	faultPoint("veth named")
	return n.configure(pod, rec.IPs)
}

// enterPod sets kernel parameters of the pod's network and gives a way to its
// interfaces.
func enterPod(ns *os.File, sysctls []string) (pod *netlink.Handle, err error) {
	err = inNetNS(ns, func() error {
		for i := 0; i+1 < len(sysctls); i += 2 {
			if err := shim.SetSysctl(sysctls[i], sysctls[i+1]); err != nil {
				return err
			}
		}
		if pod, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("netlink in pod: %w", err)
		}
		return nil
	})
	return pod, err
}

// configure sets up the inside: the pod's own addresses only, and every way
// through the host. So the only neighbour that a pod asks for is the bridge, and
// the host asks for pods on a subnet that is its own: nobody needs to answer for
// another, by ARP or NDP.
func (n *network) configure(pod *netlink.Handle, ips []netip.Addr) error {
	if err := loopbackUp(pod); err != nil {
		return err
	}
	eth, err := pod.LinkByName(podInterface)
	if err != nil {
		return fmt.Errorf("find %s in pod: %w", podInterface, err)
	}
	for _, ip := range ips {
		addr := &netlink.Addr{IPNet: single(ip)}
		if ip.Is6() {
			addr.Flags = unix.IFA_F_NODAD // nobody else can have it; good at once
		}
		if err := pod.AddrAdd(eth, addr); err != nil {
			return fmt.Errorf("give %v to pod: %w", ip, err)
		}
	}
	if err := pod.LinkSetUp(eth); err != nil {
		return fmt.Errorf("set %s up: %w", podInterface, err)
	}
	faultPoint("pod has address")
	index := eth.Attrs().Index
	for _, pool := range n.pools {
		gateway := single(pool.gateway())
		all := &net.IPNet{IP: make(net.IP, len(gateway.IP)), Mask: make(net.IPMask, len(gateway.IP))}
		routes := []netlink.Route{
			{LinkIndex: index, Scope: netlink.SCOPE_LINK, Dst: gateway},
			{LinkIndex: index, Gw: gateway.IP, Dst: all},
		}
		for _, route := range routes {
			if err := pod.RouteAdd(&route); err != nil {
				return fmt.Errorf("add route %v: %w", route.Dst, err)
			}
		}
	}
	return nil
}

// single is the subnet of one address.
func single(ip netip.Addr) *net.IPNet {
	return &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}
}

func loopbackUp(pod *netlink.Handle) error {
	lo, err := pod.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo in pod: %w", err)
	}
	if err := pod.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// detachBridge takes the pod's veth pair away, if it still is there.
func (n *network) detachBridge(sandboxID string) error {
	link, err := n.handle.LinkByName(hostInterface(sandboxID))
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		// The kernel may have taken it away meanwhile, with the namespace.
		if err = n.handle.LinkDel(link); errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("remove veth of sandbox %s: %w", sandboxID, err)
	}
	return nil
}

// hostInterface names the host's end of a pod's veth pair: 15 bytes at most.
func hostInterface(sandboxID string) string { return "nk" + sandboxID[:12] }

// reapLinks removes interfaces of sandboxes that are not known.
func (n *network) reapLinks(known func(id string) bool) (gone int, err error) {
	links, err := n.handle.LinkList()
	if err != nil {
		return 0, err
	}
	for _, link := range links {
		id, ours := strings.CutPrefix(link.Attrs().Alias, n.alias)
		if ours && !known(id) && n.handle.LinkDel(link) == nil {
			gone++
		}
	}
	return gone, nil
}

// removeBridge leaves a bridge that somebody else made.
func (n *network) removeBridge() error {
	link, err := n.handle.LinkByName(n.cfg.Bridge)
	if err != nil || !n.madeBridge(link) {
		return nil
	}
	if err := n.handle.LinkDel(link); err != nil {
		return fmt.Errorf("remove bridge: %w", err)
	}
	return nil
}
