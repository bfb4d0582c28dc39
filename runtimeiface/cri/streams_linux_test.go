package cri_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"go.uber.org/goleak"

	"github.com/nodekit/nodekit/runtimeiface"
)

// buffer may be read while it is written.
type buffer struct {
	mu   sync.Mutex
	data bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.String()
}

var _ = Describe("streams with containerd", Ordered, ContinueOnFailure, func() {
	var n *node
	BeforeAll(func() { n = newNode(GinkgoTB()) })

	It("attaches: what is said arrives, and the end of it with StdinOnce", func(ctx SpecContext) {
		id := n.prog(ctx, n.pod(ctx), "app", "stdin ; eprint bye ; exit 4", func(s *runtimeiface.ContainerSpec) { s.Stdin, s.StdinOnce = true, true })
		ignore := goleak.IgnoreCurrent()
		var stdout, stderr buffer
		err := n.rt.Attach(ctx, id, runtimeiface.AttachSpec{Stdin: strings.NewReader("hello\n"), Stdout: &stdout, Stderr: &stderr})
		Expect(err).NotTo(HaveOccurred())
		Expect(stdout.String()).To(Equal("hello\n"))
		Expect(stderr.String()).To(Equal("bye\n"))
		Eventually(func() int32 { c, _ := n.rt.ContainerStatus(ctx, id); return c.ExitCode }, "1m", "20ms").Should(BeEquivalentTo(4))
		Eventually(func() string { return n.text(ctx, id) }, "1m", "20ms").Should(And(ContainSubstring("stdout F hello"), ContainSubstring("stderr F bye")))
		Eventually(func() error { return goleak.Find(ignore) }, "1m", "20ms").Should(Succeed())
		Expect(n.rt.Attach(ctx, id, runtimeiface.AttachSpec{})).To(MatchError(runtimeiface.ErrNotRunning))
	}, NodeTimeout(5*time.Minute))

	It("attaches several to a terminal, and leaves it when ctx ends", func(ctx SpecContext) {
		id := n.prog(ctx, n.pod(ctx), "app", "stdin", func(s *runtimeiface.ContainerSpec) { s.Stdin, s.TTY = true, true })
		ignore := goleak.IgnoreCurrent()
		short, cancel := context.WithCancel(ctx)
		defer cancel()
		var first, second buffer
		in, type_ := io.Pipe()
		left := make(chan error, 2)
		go func() { left <- n.rt.Attach(short, id, runtimeiface.AttachSpec{Stdin: in, Stdout: &first}) }()
		go func() { left <- n.rt.Attach(short, id, runtimeiface.AttachSpec{Stdout: &second}) }()
		go func() { _, _ = io.WriteString(type_, "one\n") }()
		Eventually(first.String, "1m", "20ms").Should(ContainSubstring("one\r\none\r\n"))
		go func() { _, _ = io.WriteString(type_, "two\n") }()
		Eventually(second.String, "1m", "20ms").Should(ContainSubstring("two\r\ntwo\r\n"))
		cancel()
		Eventually(left, "1m").Should(Receive(MatchError(context.Canceled)))
		Eventually(left, "1m").Should(Receive(MatchError(context.Canceled)))
		Expect(type_.Close()).To(Succeed())
		Eventually(func() error { return goleak.Find(ignore) }, "1m", "20ms").Should(Succeed())
		c, err := n.rt.ContainerStatus(ctx, id)
		Expect(err).NotTo(HaveOccurred())
		Expect(c.State).To(Equal(runtimeiface.ContainerRunning))
	}, NodeTimeout(5*time.Minute))

	It("refuses Stdin of a container that was made without", func(ctx SpecContext) {
		id := n.prog(ctx, n.pod(ctx), "app", "forever")
		err := n.rt.Attach(ctx, id, runtimeiface.AttachSpec{Stdin: strings.NewReader("")})
		Expect(err).To(MatchError(runtimeiface.ErrInvalid))
		Expect(n.rt.Attach(ctx, "none", runtimeiface.AttachSpec{})).To(MatchError(runtimeiface.ErrNotFound))
	}, NodeTimeout(5*time.Minute))

	ways := map[string]func(context.Context, string, uint16, io.ReadWriteCloser) error{
		"by itself": func(ctx context.Context, id string, port uint16, conn io.ReadWriteCloser) error {
			return n.rt.PortForward(ctx, id, port, conn)
		},
		"by the runtime": func(ctx context.Context, id string, port uint16, conn io.ReadWriteCloser) error {
			return n.rt.ForwardStream(ctx, id, port, conn)
		},
	}
	for name, forward := range ways {
		It("forwards to a port "+name, func(ctx SpecContext) {
			sb := n.pod(ctx)
			id := n.prog(ctx, sb, "app", "serve 127.0.0.1:81")
			Eventually(func() string { return n.text(ctx, id) }, "1m", "20ms").Should(ContainSubstring("serving"))
			ignore := goleak.IgnoreCurrent()
			near, far := tcpPair()
			over := make(chan error, 1)
			go func() { over <- forward(ctx, sb, 81, near) }()
			sent := strings.Repeat("0123456789abcdef", 1<<16)
			go func() {
				_, _ = io.WriteString(far, sent)
				_ = far.CloseWrite()
			}()
			got, err := io.ReadAll(far)
			Expect(err).NotTo(HaveOccurred())
			Expect(string(got) == sent).To(BeTrue(), "%d bytes came back", len(got))
			Eventually(over, "1m").Should(Receive(BeNil()))

			near, _ = tcpPair()
			err = forward(ctx, sb, 82, near)
			Expect(err).To(MatchError(runtimeiface.ErrUnavailable))

			short, cancel := context.WithCancel(ctx)
			near, far = tcpPair()
			go func() { over <- forward(short, sb, 81, near) }()
			_, err = io.WriteString(far, "x")
			Expect(err).NotTo(HaveOccurred())
			_, err = io.ReadFull(far, make([]byte, 1))
			Expect(err).NotTo(HaveOccurred())
			cancel()
			Eventually(over, "1m").Should(Receive(MatchError(context.Canceled)))
			Eventually(func() error { return goleak.Find(ignore) }, "1m", "20ms").Should(Succeed())
		}, NodeTimeout(5*time.Minute))
	}

	It("forwards nowhere without a ready sandbox", func(ctx SpecContext) {
		sb := n.pod(ctx)
		near, far := tcpPair()
		Expect(n.rt.PortForward(ctx, "none", 81, near)).To(MatchError(runtimeiface.ErrNotFound))
		_, err := io.ReadAll(far)
		Expect(err).NotTo(HaveOccurred(), "it was closed")
		near, _ = tcpPair()
		Expect(n.rt.PortForward(ctx, sb, 0, near)).To(MatchError(runtimeiface.ErrInvalid))
		Expect(n.rt.StopSandbox(ctx, sb)).To(Succeed())
		near, _ = tcpPair()
		Expect(n.rt.PortForward(ctx, sb, 81, near)).To(MatchError(runtimeiface.ErrNotRunning))
	}, NodeTimeout(5*time.Minute))
})
