package kerneltest

import (
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The first thread never ends, and /proc/self speaks of it. So it belongs to the
// main goroutine, and no other may take it into a namespace and leave it there.
func init() { runtime.LockOSThread() }

// NetNS is a network namespace that lives as long as its test. It has no name
// and no mount: when the last process and descriptor are gone, so is it.
type NetNS struct {
	file *os.File
}

// NewNetNS makes a network namespace with its loopback up, and closes it at
// the end of the test.
func NewNetNS(tb TB) *NetNS {
	tb.Helper()
	n, err := OpenNetNS()
	if err != nil {
		tb.Fatalf("new network namespace: %v", err)
	}
	tb.Cleanup(func() { _ = n.Close() })
	return n
}

// OpenNetNS is NewNetNS for programs that are not tests.
func OpenNetNS() (*NetNS, error) {
	type made struct {
		file *os.File
		err  error
	}
	result := make(chan made)
	go func() {
		// Never unlocked: the thread is tainted and must end with the goroutine.
		runtime.LockOSThread()
		file, err := unshareNet()
		result <- made{file, err}
	}()
	m := <-result
	if m.err != nil {
		return nil, m.err
	}
	return &NetNS{file: m.file}, nil
}

// Close lets go of the namespace.
func (n *NetNS) Close() error { return n.file.Close() }

func unshareNet() (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("unshare: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return nil, fmt.Errorf("set lo up: %w", err)
	}
	return os.Open("/proc/thread-self/ns/net")
}

// FD is the descriptor of the namespace, good for setns, netlink
// (netlink.NsFd, nftables.WithNetNSFd) and IFLA_NET_NS_FD until the test ends.
func (n *NetNS) FD() int { return int(n.file.Fd()) }

// Path names the namespace for tools such as nsenter --net=PATH, while this
// process lives.
func (n *NetNS) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.FD())
}

// Do runs f in the namespace, on a thread of its own, and returns its error.
// Sockets that f makes stay in the namespace; goroutines that f starts do not.
func (n *NetNS) Do(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("setns: %w", err)
			return
		}
		result <- f()
	}()
	return <-result
}
