package oci

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"

	"github.com/go-logr/logr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface"
)

// podInterface is a pod's way out.
const podInterface = "eth0"

// network is what pods hang on: the bridge, ports of the node, and plug-ins.
type network struct {
	cfg         Network
	log         logr.Logger
	dir         string // of networkFile
	alias       string // of interfaces: whose they are
	bridgeAlias string
	ipv6        bool // the kernel has it
	ns          *os.File
	handle      *netlink.Handle
	pools       []*addresses // one a subnet
	ports       *hostPorts
	cni         *plugins

	mu     sync.Mutex
	bridge int // index, 0 before it is there
}

func openNetwork(cfg Network, root string, log logr.Logger) (*network, error) {
	path := cfg.NetNSPath
	if path == "" {
		path = "/proc/thread-self/ns/net"
	}
	// The namespace and the handle must be of one thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	n := &network{cfg: cfg, log: log, dir: root, ipv6: haveIPv6()}
	for i, subnet := range cfg.Subnets {
		if subnet.Addr().Is6() && !n.ipv6 {
			return nil, fmt.Errorf("config: %s: %w: the kernel has no IPv6", fieldOf(i, subnet), runtimeiface.ErrNotSupported)
		}
		n.pools = append(n.pools, newAddresses(fieldOf(i, subnet), subnet))
	}
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
	owner := hex.EncodeToString(sum[:6])
	n.alias, n.bridgeAlias = "nodekit/"+owner+"/", "nodekit-bridge/"+owner
	n.ns, n.handle = ns, handle
	n.ports = newHostPorts(n, "nodekit-hostport-"+owner)
	n.cni = newPlugins(n)
	return n, nil
}

// haveIPv6 is false where the kernel was built or started without it. What is
// only switched off (disable_ipv6) is switched on where it is needed.
func haveIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6/conf")
	return err == nil
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

// reserve takes what the pod will have of the network, and puts it in the
// record, before anything is made. ErrInUse: another pod has a port.
func (n *network) reserve(rec *sandboxRecord) (err error) {
	if rec.Spec.Network == runtimeiface.NamespaceHost {
		return nil
	}
	defer func() {
		if err != nil {
			n.release(rec.ID, rec.IPs)
			rec.IPs = nil
		}
	}()
	if rec.CNI, err = n.cni.choose(); err != nil {
		return err
	}
	if rec.CNI != nil {
		if err := n.cni.check(rec.CNI, rec.Spec); err != nil {
			return err
		}
		return n.ports.reserve(rec)
	}
	for _, pool := range n.pools {
		ip, err := pool.take(rec.ID)
		if err != nil {
			return err
		}
		rec.IPs = append(rec.IPs, ip)
	}
	return n.ports.reserve(rec)
}

// mark is reserve for a sandbox that an agent before made whole.
func (n *network) mark(rec *sandboxRecord) {
	for _, ip := range rec.IPs {
		for _, pool := range n.pools {
			if rec.CNI == nil {
				pool.mark(ip, rec.ID)
			}
		}
	}
	n.ports.mark(rec)
}

// release gives back what was reserved.
func (n *network) release(sandboxID string, ips []netip.Addr) {
	n.ports.release(sandboxID)
	for _, ip := range ips {
		for _, pool := range n.pools {
			pool.free(ip, sandboxID)
		}
	}
}

// attach joins the pod that holds pid's network namespace to the network, and
// gives its addresses, the primary one first. The sysctls, names and values by
// turns, are set before its interface is there.
func (n *network) attach(rec *sandboxRecord, pid int, sysctls []string) ([]netip.Addr, error) {
	path := fmt.Sprintf("/proc/%d/ns/net", pid)
	if rec.CNI != nil {
		return n.cni.add(rec, path, sysctls)
	}
	if err := n.attachBridge(rec, path, sysctls); err != nil {
		return nil, err
	}
	return rec.IPs, n.ports.add(rec.ID)
}

// hold keeps the pod's network namespace while plug-ins still need it, though
// its last process ends. nil: there is none, or nobody needs it.
func (n *network) hold(rec *sandboxRecord, dir string, client *shimClient) *os.File {
	if rec.CNI == nil {
		return nil
	}
	var pids []int
	if client != nil {
		pids = []int{client.pid}
	} else if shimAlive(dir) {
		pids = append(findPause(dir), findShim(dir)...)
	}
	for _, pid := range pids {
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil {
			continue
		}
		// If the shim lives still, the process was no other that has its number.
		// In the node's namespace plug-ins would take the node's own interface.
		if shimAlive(dir) && !n.isNodes(ns) {
			return ns
		}
		_ = ns.Close()
	}
	return nil
}

func (n *network) isNodes(ns *os.File) bool {
	a, err1 := ns.Stat()
	b, err2 := n.ns.Stat()
	return err1 != nil || err2 != nil || os.SameFile(a, b)
}

// detach takes the pod off the network, if it still is on it, and lets go of
// what hold gave.
func (n *network) detach(rec *sandboxRecord, held *os.File) error {
	if held != nil {
		defer func() { _ = held.Close() }()
	}
	if rec.Spec.Network == runtimeiface.NamespaceHost {
		return nil
	}
	if rec.CNI != nil {
		if err := n.cni.del(rec, held); err != nil {
			return err
		}
		rec.CNI = nil // done: plug-ins are slow, and are not called again
		return nil
	}
	return errors.Join(n.ports.remove(rec), n.detachBridge(rec.ID))
}

// settle takes away what belongs to sandboxes that are not known, and has the
// ports of the others as they were marked. What fails for one pod must not keep
// the others down, and is told.
func (n *network) settle(known func(id string) bool) (gone int, err error) {
	links, err := n.reapLinks(known)
	if err != nil {
		return 0, fmt.Errorf("remove interfaces of unknown sandboxes: %w", err)
	}
	attachments, err := n.cni.reap(known)
	if err != nil {
		n.log.Error(err, "detach unknown sandboxes")
	}
	if err := n.ports.settle(); err != nil {
		n.log.Error(err, "settle host ports", "table", n.ports.table.table.Name)
	}
	return links + attachments, nil
}

// inUse tells whether a pod has one of the addresses.
func (n *network) inUse(ips []netip.Addr) bool {
	for _, ip := range ips {
		for _, pool := range n.pools {
			if pool.inUse(ip) {
				return true
			}
		}
	}
	return false
}

// purge takes bridge and rules away and puts the node's parameters back.
func (n *network) purge() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bridge = 0
	if err := n.removeBridge(); err != nil {
		return err
	}
	faultPoint("bridge removed")
	// After the bridge, which the rules guard.
	if err := n.ports.purge(); err != nil {
		return err
	}
	faultPoint("port rules removed")
	return n.restoreSysctls()
}
