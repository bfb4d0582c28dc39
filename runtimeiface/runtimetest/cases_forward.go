package runtimetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

func forwardCases() []Case {
	return []Case{
		newCase("forward/both loopbacks", "who listens on 127.0.0.1, on ::1 or on all addresses is reached", forwardLoopbacks),
		newCase("forward/several", "connections to one port and to several do not mix", forwardSeveral),
		newCase("forward/client's end", "the end of what conn gives is told to the pod, which may go on talking", forwardClientEnd),
		newCase("forward/pod's end", "the pod's last byte is told to conn, which may go on talking", forwardPodEnd),
		newCase("forward/large", "large data arrives whole, both ways at once", forwardLarge),
		newCase("forward/nobody listens", "a port on which nothing listens is ErrUnavailable, and conn is closed", forwardNobody),
		newCase("forward/not running", "an unknown sandbox is ErrNotFound, one that is not ready ErrNotRunning", forwardNotRunning),
		newCase("forward/cancelled", "when ctx ends, its error is given and conn is closed", forwardCancelled),
		newCase("forward/pod's own", "ports are the pod's, not the node's; those of the node with its network", forwardOwn, Kernel),
	}
}

// duplex is a connection in memory of which each direction ends by itself, with
// some room, as sockets have it.
type duplex struct {
	*io.PipeReader
	*io.PipeWriter
}

func (d duplex) CloseWrite() error { return d.PipeWriter.Close() }

func (d duplex) Close() error {
	return errors.Join(d.PipeReader.Close(), d.PipeWriter.Close())
}

// forwarding is a PortForward in a goroutine of its own.
type forwarding struct {
	duplex
	done  chan error
	leave func()
}

func (k *kit) forward(sandbox string, port uint16) *forwarding {
	toPod, fromClient := k.pipe()
	toClient, fromPod := k.pipe()
	ctx, cancel := context.WithCancel(k.ctx)
	f := &forwarding{duplex: duplex{toClient, fromClient}, done: make(chan error, 1), leave: cancel}
	k.later(func() { cancel(); _ = f.Close() })
	rt := k.rt
	go func() { f.done <- rt.PortForward(ctx, sandbox, port, duplex{toPod, fromPod}) }()
	return f
}

// answer sends text and its end, and reads to the end.
func (k *kit) answer(f *forwarding, text string) string {
	_, err := io.WriteString(f, text)
	k.ok(err, "send")
	answer := make([]byte, len(text))
	_, err = io.ReadFull(f, answer)
	k.ok(err, "read the answer")
	return string(answer)
}

const forwardPort = 47815

func listenOn(host string) string { return net.JoinHostPort(host, fmt.Sprint(forwardPort)) }

func forwardLoopbacks(k *kit) {
	for _, host := range []string{"127.0.0.1", "::1", ""} {
		sb := k.pod()
		k.serve(sb, listenOn(host))
		f := k.forward(sb, forwardPort)
		k.same(k.answer(f, "to "+host), "to "+host, "answer of who listens on %q", host)
		f.leave()
		k.ended(f.done)
	}
}

func forwardSeveral(k *kit) {
	sb := k.pod()
	k.serve(sb, listenOn("127.0.0.1"))
	k.serve(sb, "127.0.0.1:47816")
	one, two, three := k.forward(sb, forwardPort), k.forward(sb, forwardPort), k.forward(sb, 47816)
	for i := range 3 {
		for j, f := range []*forwarding{one, two, three} {
			text := fmt.Sprintf("%d of %d", i, j)
			k.same(k.answer(f, text), text, "answer")
		}
	}
}

func forwardClientEnd(k *kit) {
	sb := k.pod()
	// It says nothing before it has heard all.
	k.logHas(k.status(k.prog(sb, "collect", listenOn("127.0.0.1"))).LogPath, "serving\n")
	f := k.forward(sb, forwardPort)
	text := strings.Repeat("0123456789abcdef", 8<<10)
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(f, text)
		sent <- errors.Join(err, f.CloseWrite())
	}()
	got, err := io.ReadAll(f)
	k.ok(err, "read to the end")
	k.wait(sent, "send and say the last")
	k.that(string(got) == text, "of %d bytes came back %d, alike up to %d", len(text), len(got), alike(string(got), text))
	k.wait(f.done, "forward until both have said their last")
}

func forwardPodEnd(k *kit) {
	sb := k.pod()
	id := k.prog(sb, "greet", listenOn("127.0.0.1"), "welcome")
	k.logHas(k.status(id).LogPath, "serving\n")
	f := k.forward(sb, forwardPort)
	got, err := io.ReadAll(f)
	k.ok(err, "read to the end")
	k.same(string(got), "welcome", "what the pod said")
	for range 3 {
		k.pause(20 * time.Millisecond)
		_, err = io.WriteString(f, "and another thing")
		k.ok(err, "send after the pod's last byte")
	}
	k.ok(f.CloseWrite(), "say the last")
	k.wait(f.done, "forward until both have said their last")
}

func forwardLarge(k *kit) {
	const n = 16 << 20
	sb := k.pod()
	k.serve(sb, listenOn("127.0.0.1"))
	f := k.forward(sb, forwardPort)
	want := pattern(n)
	sent := make(chan error, 1)
	go func() { _, err := io.WriteString(f, want); sent <- err }()
	got := make([]byte, n)
	read, err := io.ReadFull(f, got)
	k.ok(err, "read what comes back; of %d bytes came %d", n, read)
	k.wait(sent, "send")
	k.that(string(got) == want, "alike up to byte %d only", alike(string(got), want))
}

func forwardNobody(k *kit) {
	sb := k.pod()
	f := k.forward(sb, forwardPort)
	got, err := io.ReadAll(f)
	k.ok(err, "read to the end")
	k.same(string(got), "", "what came from nobody")
	k.is(k.ended(f.done), runtimeiface.ErrUnavailable, "forward to a port on which nothing listens")
	k.is(k.ended(k.forward(sb, 0).done), runtimeiface.ErrInvalid, "forward to port 0")
	id := k.serve(sb, listenOn("127.0.0.1"))
	k.same(k.answer(k.forward(sb, forwardPort), "now"), "now", "answer")
	k.stop(id, 0)
	k.is(k.ended(k.forward(sb, forwardPort).done), runtimeiface.ErrUnavailable, "forward after who listened has ended")
}

func forwardNotRunning(k *kit) {
	f := k.forward("no-such-sandbox", forwardPort)
	k.is(k.ended(f.done), runtimeiface.ErrNotFound, "forward to an unknown sandbox")
	sb := k.pod()
	k.serve(sb, listenOn("127.0.0.1"))
	k.ok(k.rt.StopSandbox(k.ctx, sb), "stop sandbox")
	f = k.forward(sb, forwardPort)
	k.is(k.ended(f.done), runtimeiface.ErrNotRunning, "forward to a stopped sandbox")
	_, err := f.Read(make([]byte, 1))
	k.that(err != nil, "conn is open")
}

func forwardCancelled(k *kit) {
	sb := k.pod()
	k.serve(sb, listenOn("127.0.0.1"))
	f := k.forward(sb, forwardPort)
	k.same(k.answer(f, "open"), "open", "answer")
	f.leave()
	k.is(k.ended(f.done), context.Canceled, "forward whose ctx ends")
	_, err := f.Read(make([]byte, 1))
	k.that(err != nil, "conn is open")
	k.same(k.answer(k.forward(sb, forwardPort), "again"), "again", "answer to the next one")
}

func forwardOwn(k *kit) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	k.ok(err, "listen on the node")
	k.later(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
		}
	}()
	port := netip.MustParseAddrPort(listener.Addr().String()).Port()
	k.is(k.ended(k.forward(k.pod(), port).done), runtimeiface.ErrUnavailable, "forward to a port of the node")
	host := k.pod(func(s *runtimeiface.SandboxSpec) { s.Network = runtimeiface.NamespaceHost })
	k.same(k.answer(k.forward(host, port), "node"), "node", "answer of the node to a pod with its network")
}
