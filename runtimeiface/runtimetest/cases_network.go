package runtimetest

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

func networkCases() []Case {
	return []Case{
		newCase("network/shared in a pod", "containers of a sandbox meet on 127.0.0.1", networkShared, Kernel),
		newCase("network/apart", "sandboxes have loopbacks and ports of their own", networkApart, Kernel),
		newCase("network/addresses", "a pod is reached by its address, from the node, from itself and from another pod", networkAddresses, Kernel),
		newCase("network/stopped", "the address of a stopped sandbox does not answer", networkStopped, Kernel),
		newCase("network/outlives containers", "the network stays when a container goes", networkOutlives, Kernel),
		newCase("network/ports of the node", "PortMappings have the node answer for the pod, until it is stopped", networkPorts, Kernel),
		newCase("ipc/shared in a pod", "containers of a sandbox share /dev/shm, sandboxes do not", ipcShared, Kernel),
	}
}

// serve starts an echo server and waits until it listens.
func (k *kit) serve(sandbox, address string) string {
	id := k.prog(sandbox, "serve", address)
	k.logHas(k.status(id).LogPath, "serving\n")
	return id
}

func networkShared(k *kit) {
	sb := k.pod()
	k.serve(sb, "127.0.0.1:47813")
	k.same(k.output(sb, "dial", "127.0.0.1:47813", "hello"), "hello\n", "answer")
}

func networkApart(k *kit) {
	one, two := k.pod(), k.pod()
	k.serve(one, "127.0.0.1:47813")
	k.ends(k.prog(two, "dial", "127.0.0.1:47813", "hello"), 1, runtimeiface.ReasonError)
	k.serve(two, "127.0.0.1:47813")
	_, err := net.DialTimeout("tcp", "127.0.0.1:47813", time.Second)
	k.that(err != nil, "a pod's loopback is the node's")
}

func networkAddresses(k *kit) {
	one, two := k.pod(), k.pod()
	ip := k.sandbox(one).IPs[0]
	address := netip.AddrPortFrom(ip, 47813).String()
	k.serve(one, ":47813")
	k.same(k.output(one, "dial", address, "myself"), "myself\n", "answer to the pod itself")
	k.same(k.output(two, "dial", address, "neighbour"), "neighbour\n", "answer to another pod")
	k.ok(dialEcho(address), "dial from the node")
}

func dialEcho(address string) error {
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "node"); err != nil {
		return err
	}
	answer := make([]byte, 4)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	if string(answer) != "node" {
		return fmt.Errorf("the answer is %q", answer)
	}
	return nil
}

func networkStopped(k *kit) {
	sb := k.pod()
	address := netip.AddrPortFrom(k.sandbox(sb).IPs[0], 47813).String()
	k.serve(sb, ":47813")
	k.ok(dialEcho(address), "dial")
	k.ok(k.rt.StopSandbox(k.ctx, sb), "stop sandbox")
	_, err := net.DialTimeout("tcp", address, 300*time.Millisecond)
	k.that(err != nil, "it answers")
}

func networkOutlives(k *kit) {
	sb := k.pod()
	ips := k.sandbox(sb).IPs
	first := k.serve(sb, ":47813")
	k.stop(first, 0)
	k.ok(k.rt.RemoveContainer(k.ctx, first), "remove container")
	k.serve(sb, ":47813")
	k.same(k.sandbox(sb).IPs, ips, "addresses")
	k.ok(dialEcho(netip.AddrPortFrom(ips[0], 47813).String()), "dial")
}

func networkPorts(k *kit) {
	const port = 47817
	sb := k.pod(func(s *runtimeiface.SandboxSpec) {
		s.PortMappings = []runtimeiface.PortMapping{{Protocol: "TCP", ContainerPort: 47813, HostPort: port}}
	})
	k.serve(sb, ":47813")
	// From another pod, because not every backend serves the node's own loopback.
	node, err := gateway(k.sandbox(sb).IPs[0])
	k.ok(err, "find the node's address")
	address := netip.AddrPortFrom(node, port).String()
	other := k.pod()
	k.same(k.output(other, "dial", address, "hello"), "hello\n", "answer of the node's port to a pod")
	k.ok(k.rt.StopSandbox(k.ctx, sb), "stop sandbox")
	k.ends(k.prog(other, "dial", address, "hello"), 1, runtimeiface.ReasonError)
}

// gateway is the node's address in the network of an address.
func gateway(of netip.Addr) (netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range list {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && prefix.Contains(of) {
			return prefix.Addr(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address of the node is in the network of %v", of)
}

func ipcShared(k *kit) {
	sb, other := k.pod(), k.pod()
	k.output(sb, "write", "/dev/shm/note", "shared")
	k.same(k.output(sb, "cat", "/dev/shm/note", ";", "print", ""), "shared\n", "what the pod's other container reads")
	k.ends(k.prog(other, "cat", "/dev/shm/note"), 1, runtimeiface.ReasonError)
}
