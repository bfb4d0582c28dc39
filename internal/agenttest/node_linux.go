package agenttest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/nodekit/nodekit/internal/kerneltest"
)

// NodeIP is the address of every test node; each has a namespace of its own.
var NodeIP = netip.MustParseAddr("192.0.2.10")

// Node is a machine for one agent: a network namespace, a directory and names
// that no other run uses.
type Node struct {
	// Dir holds all of the node's files; Manifests and State are below it.
	Dir, Manifests, State string
	// Cgroup is the node's own, absolute from each hierarchy's root.
	Cgroup string
	NetNS  *kerneltest.NetNS
}

// NewNode makes a node below dir.
func NewNode(dir string) (*Node, error) {
	netns, err := kerneltest.OpenNetNS()
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	n := &Node{
		Dir: dir, Manifests: filepath.Join(dir, "manifests"), State: filepath.Join(dir, "state"),
		Cgroup: "/nodekit-test-" + strconv.Itoa(os.Getpid()) + "-" + filepath.Base(dir), NetNS: netns,
	}
	if err := errors.Join(os.MkdirAll(n.Manifests, 0o700), netns.Do(uplink)); err != nil {
		return nil, errors.Join(err, netns.Close())
	}
	return n, nil
}

// uplink gives the namespace what a machine has: an address and a default route.
func uplink() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: "uplink"}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("add eth0: %w", err)
	}
	peer, err := netlink.LinkByName("uplink")
	if err != nil {
		return fmt.Errorf("find uplink: %w", err)
	}
	if err := netlink.LinkSetUp(peer); err != nil {
		return fmt.Errorf("set uplink up: %w", err)
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: NodeIP.AsSlice(), Mask: net.CIDRMask(24, 32)}}
	if err := netlink.AddrAdd(link, address); err != nil {
		return fmt.Errorf("address of eth0: %w", err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set eth0 up: %w", err)
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.IPv4(192, 0, 2, 1)})
}

// StatusURL is where the quickstart's status server answers inside the node.
const StatusURL = "http://127.0.0.1:10255"

// Args are the quickstart's flags that keep it inside the node.
func (n *Node) Args() []string {
	return []string{"--root", n.State, "--manifests", n.Manifests, "--cgroup", n.Cgroup}
}

// Close lets go of the network namespace; directories are the caller's.
func (n *Node) Close() error { return n.NetNS.Close() }

// Write writes a manifest as an editor does: whole, by rename.
func (n *Node) Write(name, text string) error {
	temporary := filepath.Join(n.Manifests, "."+name)
	if err := os.WriteFile(temporary, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, filepath.Join(n.Manifests, name))
}

// Delete removes a manifest.
func (n *Node) Delete(name string) error { return os.Remove(filepath.Join(n.Manifests, name)) }

// Client makes HTTP calls from inside the node's namespace, each on a
// connection of its own.
func (n *Node) Client(timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			err = n.NetNS.Do(func() error {
				conn, err = (&net.Dialer{Timeout: timeout}).DialContext(ctx, network, address)
				return err
			})
			return conn, err
		},
	}}
}

// Do makes one call from inside the namespace and gives the body; a status
// other than 200 is an error that holds it.
func (n *Node) Do(method, url string) (string, error) {
	request, err := http.NewRequest(method, url, nil)
	if err != nil {
		return "", err
	}
	response, err := n.Client(5 * time.Second).Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, url, response.Status, strings.TrimSpace(string(body)))
	}
	return string(body), err
}

// Process is an agent's program at work.
type Process struct {
	command *exec.Cmd
	done    chan struct{}
	err     error // valid once done is closed
	// Output is all that it printed.
	Output *Buffer
}

// Start runs the program in the node's namespace.
func (n *Node) Start(program string, args ...string) (*Process, error) {
	p := &Process{command: exec.Command(program, args...), done: make(chan struct{}), Output: &Buffer{}}
	p.command.Stdout, p.command.Stderr = p.Output, p.Output
	if err := n.NetNS.Do(p.command.Start); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.command.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID of the program.
func (p *Process) PID() int { return p.command.Process.Pid }

// Kill ends it as a crash would, and returns when it is gone.
func (p *Process) Kill() {
	_ = p.command.Process.Kill()
	<-p.done
}

// Interrupt is Ctrl-C; then Wait.
func (p *Process) Interrupt() error { return p.command.Process.Signal(os.Interrupt) }

// Wait gives the program's end, or an error and a kill after timeout.
func (p *Process) Wait(timeout time.Duration) error {
	select {
	case <-p.done:
		return p.err
	case <-time.After(timeout):
		p.Kill()
		return fmt.Errorf("no end within %v; killed", timeout)
	}
}

// Buffer is a growing text that may be read while it is written.
type Buffer struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write appends.
func (b *Buffer) Write(data []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(data)
}

// String gives all so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
