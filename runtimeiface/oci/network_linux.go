package oci

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

const (
	podInterface = "eth0"
	networkFile  = "network.json"
)

// podSysctls are set in each pod's network namespace before its interface is
// there. A redirect would lead a pod past the host, and past its rules.
var podSysctls = []string{
	"net.ipv4.conf.all.accept_redirects", "0",
	"net.ipv4.conf.default.accept_redirects", "0",
}

// hostSysctls are what the bridge needs of the node.
func (n *network) hostSysctls() map[string]string {
	return map[string]string{
		"net/ipv4/ip_forward":              "1",
		"net/ipv4/conf/all/send_redirects": "0",
	}
}

// network is the bridge and what hangs on it.
type network struct {
	cfg       Network
	dir       string // of networkFile
	alias     string // of interfaces: whose they are
	ns        *os.File
	handle    *netlink.Handle
	addresses *addresses

	mu     sync.Mutex
	bridge int // index, 0 before it is there
}

func openNetwork(cfg Network, root string) (*network, error) {
	path := cfg.NetNSPath
	if path == "" {
		path = "/proc/thread-self/ns/net"
	}
	// The namespace and the handle must be of one thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ns, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open node's network namespace: %w", err)
	}
	handle, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		_ = ns.Close()
		return nil, fmt.Errorf("netlink: %w", err)
	}
	sum := sha256.Sum256([]byte(root))
	return &network{
		cfg: cfg, dir: root, alias: "nodekit/" + hex.EncodeToString(sum[:6]) + "/",
		ns: ns, handle: handle, addresses: newAddresses(cfg.Subnet),
	}, nil
}

func (n *network) close() {
	n.handle.Close()
	_ = n.ns.Close()
}

// inHostNS runs f on a thread of the node's network namespace.
func (n *network) inHostNS(f func() error) error { return inNetNS(n.ns, f) }

func inNetNS(ns *os.File, f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Not unlocked: the thread has another namespace now, it ends with the
		// goroutine.
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("join network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
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
	gateway := n.addresses.gateway().As4()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = n.cfg.Bridge, n.cfg.MTU
	// A fixed address: else it would change with the pods on the bridge.
	attrs.HardwareAddr = net.HardwareAddr{0x0a, 0x58, gateway[0], gateway[1], gateway[2], gateway[3]}
	err := n.handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return 0, fmt.Errorf("make bridge %s: %w", n.cfg.Bridge, err)
	}
	faultPoint("bridge added")
	link, err := n.handle.LinkByName(n.cfg.Bridge)
	if err != nil {
		return 0, fmt.Errorf("find bridge %s: %w", n.cfg.Bridge, err)
	}
	if link.Type() != "bridge" {
		return 0, fmt.Errorf("interface %s is a %s and not a bridge", n.cfg.Bridge, link.Type())
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: gateway[:], Mask: net.CIDRMask(n.cfg.Subnet.Bits(), 32)}}
	if err := n.handle.AddrReplace(link, addr); err != nil {
		return 0, fmt.Errorf("give %v to bridge: %w", addr, err)
	}
	if err := n.handle.LinkSetUp(link); err != nil {
		return 0, fmt.Errorf("set bridge up: %w", err)
	}
	_ = n.inHostNS(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/conf/"+n.cfg.Bridge+"/send_redirects", []byte("0"), 0)
	})
	faultPoint("bridge made")
	n.bridge = link.Attrs().Index
	return n.bridge, nil
}

// setHostSysctls remembers on disk what was there before it changes anything.
func (n *network) setHostSysctls() error {
	return n.inHostNS(func() error {
		before := map[string]string{}
		data, err := os.ReadFile(filepath.Join(n.dir, networkFile))
		if err == nil {
			_ = json.Unmarshal(data, &before)
		}
		change := map[string]string{}
		for name, want := range n.hostSysctls() {
			now, err := os.ReadFile("/proc/sys/" + name)
			if err != nil {
				return err
			}
			if have := strings.TrimSpace(string(now)); have != want {
				change[name] = want
				if _, ok := before[name]; !ok {
					before[name] = have
				}
			}
		}
		if len(change) == 0 {
			return nil
		}
		data, err = json.Marshal(before)
		if err != nil {
			return err
		}
		if err := shim.WriteFile(n.dir, networkFile, data); err != nil {
			return err
		}
		faultPoint("host parameters recorded")
		for name, value := range change {
			if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// attach joins the pod that holds pid's network namespace to the bridge. The
// sysctls, names and values by turns, are set before the interface is there.
func (n *network) attach(sandboxID string, pid int, ip netip.Addr, sysctls []string) error {
	podNS, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer func() { _ = podNS.Close() }()
	pod, err := enterPod(podNS, sysctls)
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
	attrs.Name, attrs.MTU, attrs.Flags = hostInterface(sandboxID), n.cfg.MTU, net.FlagUp
	addr := ip.As4()
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: podInterface, PeerNamespace: netlink.NsFd(int(podNS.Fd())),
		PeerHardwareAddr: net.HardwareAddr{0x0a, 0x58, addr[0], addr[1], addr[2], addr[3]},
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
	if err := n.handle.LinkSetAlias(veth, n.alias+sandboxID); err != nil {
		return fmt.Errorf("set alias of veth: %w", err)
	}
	faultPoint("veth named")
	return n.configure(pod, addr[:])
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

// configure sets up the inside: the pod's own address only, and every way
// through the host.
func (n *network) configure(pod *netlink.Handle, ip net.IP) error {
	if err := loopbackUp(pod); err != nil {
		return err
	}
	eth, err := pod.LinkByName(podInterface)
	if err != nil {
		return fmt.Errorf("find %s in pod: %w", podInterface, err)
	}
	all := net.CIDRMask(32, 32)
	if err := pod.AddrAdd(eth, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: all}}); err != nil {
		return fmt.Errorf("give address to pod: %w", err)
	}
	if err := pod.LinkSetUp(eth); err != nil {
		return fmt.Errorf("set %s up: %w", podInterface, err)
	}
	faultPoint("pod has address")
	gateway := net.IP(n.addresses.gateway().AsSlice())
	index := eth.Attrs().Index
	routes := []netlink.Route{
		{LinkIndex: index, Scope: netlink.SCOPE_LINK, Dst: &net.IPNet{IP: gateway, Mask: all}},
		{LinkIndex: index, Gw: gateway, Dst: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}},
	}
	for _, route := range routes {
		if err := pod.RouteAdd(&route); err != nil {
			return fmt.Errorf("add route %v: %w", route.Dst, err)
		}
	}
	return nil
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

// detach takes the pod off the network, if it still is on it.
func (n *network) detach(sandboxID string) error {
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

// reap removes interfaces of sandboxes that are not known.
func (n *network) reap(known func(id string) bool) ([]string, error) {
	links, err := n.handle.LinkList()
	if err != nil {
		return nil, err
	}
	var gone []string
	for _, link := range links {
		id, ours := strings.CutPrefix(link.Attrs().Alias, n.alias)
		if ours && !known(id) && n.handle.LinkDel(link) == nil {
			gone = append(gone, link.Attrs().Name)
		}
	}
	return gone, nil
}

// purge takes the bridge away and puts the node's parameters back.
func (n *network) purge() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bridge = 0
	link, err := n.handle.LinkByName(n.cfg.Bridge)
	if err == nil && link.Type() == "bridge" {
		if err := n.handle.LinkDel(link); err != nil {
			return fmt.Errorf("remove bridge: %w", err)
		}
	}
	faultPoint("bridge removed")
	file := filepath.Join(n.dir, networkFile)
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	before := map[string]string{}
	if err == nil {
		err = json.Unmarshal(data, &before)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	err = n.inHostNS(func() error {
		var errs []error
		for name := range n.hostSysctls() {
			if value, ok := before[name]; ok {
				errs = append(errs, os.WriteFile("/proc/sys/"+name, []byte(value), 0))
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return err
	}
	faultPoint("host parameters put back")
	return os.Remove(file)
}
