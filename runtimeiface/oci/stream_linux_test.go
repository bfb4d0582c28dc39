package oci_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface"
)

// client is what is attached. While it is held, it takes nothing.
type client struct {
	mu   sync.Mutex
	text bytes.Buffer
	done chan error
}

func (c *client) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(p)
}

func (c *client) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

// typing makes a container with steps that begin at the end of its input.
func typing(s *runtimeiface.ContainerSpec) { s.Stdin, s.StdinOnce = true, true }

func (e *env) attach(ctx context.Context, id string, stdin io.Reader) *client {
	c := &client{done: make(chan error, 1)}
	go func() { c.done <- e.rt.Attach(ctx, id, runtimeiface.AttachSpec{Stdin: stdin, Stdout: c}) }()
	return c
}

func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("line " + strconv.Itoa(i) + "\n")
	}
	return b.String()
}

var _ = Describe("a client", func() {
	var e *env
	BeforeEach(func() { e = newEnv(GinkgoTB()) })

	It("that is slow slows the program, and costs neither a byte nor memory", func() {
		const lines = 400_000
		sb := e.sandbox()
		id := e.start(sb, "app", fmt.Sprintf("stdin ; lines %d", lines), typing)
		c := &client{done: make(chan error, 1)}
		c.mu.Lock()
		go func() {
			c.done <- e.rt.Attach(e.ctx(), id, runtimeiface.AttachSpec{Stdin: strings.NewReader(""), Stdout: c})
		}()
		size := func() int64 {
			info, err := os.Stat(e.status(id).LogPath)
			if err != nil {
				return 0
			}
			return info.Size()
		}
		Eventually(size, "1m", "10ms").Should(BeNumerically(">", 0))
		var last int64
		Eventually(func() bool { now := size(); same := now == last; last = now; return same }, "1m", "200ms").Should(BeTrue(), "the log stands still")
		Expect(e.status(id).State).To(Equal(runtimeiface.ContainerRunning))
		Expect(last).To(BeNumerically("<", 2<<20), "more was said than all buffers on the way hold")
		before := e.private(sb)
		c.mu.Unlock()
		Eventually(c.done, "1m").Should(Receive(BeNil()))
		want := numbered(lines)
		Expect(c.String() == want).To(BeTrue(), "the client got %d of %d bytes", len(c.String()), len(want))
		Expect(e.log(e.exited(id)) == want).To(BeTrue(), "the log is whole")
		Expect(before).To(BeNumerically("<", 2<<20), "the shim's own memory while a client is slow")
	})

	It("that is slow keeps no end from being told, and gets what was said before it", func() {
		const lines = 9000 // more than a pipe, less than those on the way
		id := e.start(e.sandbox(), "app", fmt.Sprintf("stdin ; lines %d ; exit 3", lines), typing)
		c := &client{done: make(chan error, 1)}
		c.mu.Lock()
		go func() {
			c.done <- e.rt.Attach(e.ctx(), id, runtimeiface.AttachSpec{Stdin: strings.NewReader(""), Stdout: c})
		}()
		ended := e.exited(id)
		Expect(ended.ExitCode).To(BeEquivalentTo(3))
		want := numbered(lines)
		Expect(e.log(ended) == want).To(BeTrue(), "the log is whole when the exit is told")
		Expect(e.rt.RemoveContainer(e.ctx(), id)).To(Succeed())
		Consistently(c.done, "100ms").ShouldNot(Receive())
		c.mu.Unlock()
		Eventually(c.done, "1m").Should(Receive(BeNil()))
		Expect(c.String() == want).To(BeTrue(), "the client got %d of %d bytes", len(c.String()), len(want))
	})

	It("that is killed with its agent holds nothing up", func() {
		e.close()
		a := e.agent(agentJob{Prefix: "attached", Pods: 1, Steps: "lines 400000 ; exit 5", Attach: true})
		id, ok := a.next("done")
		Expect(ok).To(BeTrue(), "the agent starts a pod")
		_, ok = a.next("attached")
		Expect(ok).To(BeTrue(), "the agent is attached")
		a.kill()
		e.open()
		c := e.exited(id)
		Expect(c.ExitCode).To(BeEquivalentTo(5))
		Expect(e.log(c) == numbered(400000)).To(BeTrue(), "the log is whole")
	})

	It("attaches again after a restart of the agent, and types on", func() {
		id := e.start(e.sandbox(), "app", "stdin ; exit 4", func(s *runtimeiface.ContainerSpec) { s.Stdin = true })
		for _, text := range []string{"one\n", "two\n"} {
			read, write := io.Pipe()
			c := e.attach(e.ctx(), id, read)
			_, err := io.WriteString(write, text)
			Expect(err).NotTo(HaveOccurred())
			Eventually(c.String, "1m", "5ms").Should(Equal(text))
			e.reopen()
			Eventually(c.done, "1m").Should(Receive(MatchError(runtimeiface.ErrUnavailable)))
			_ = write.Close()
		}
		Expect(e.status(id).State).To(Equal(runtimeiface.ContainerRunning))
		Expect(e.log(e.status(id))).To(Equal("one\ntwo\n"))
	})

	It("finds room among sixteen, and leaves none of the shim's memory taken", func() {
		sb := e.sandbox()
		id := e.start(sb, "app", "lines 100000 1ms")
		Eventually(func() string { return e.log(e.status(id)) }, "1m").ShouldNot(BeEmpty())
		before := e.private(sb)
		for range 3 {
			ctx, cancel := context.WithCancel(e.ctx())
			var clients []*client
			for range 16 {
				clients = append(clients, e.attach(ctx, id, nil))
			}
			for _, c := range clients {
				Eventually(c.String, "1m", "5ms").Should(ContainSubstring("line"))
			}
			Expect(e.rt.Attach(ctx, id, runtimeiface.AttachSpec{Stdout: io.Discard})).To(MatchError(runtimeiface.ErrUnavailable))
			cancel()
			for _, c := range clients {
				Eventually(c.done, "1m").Should(Receive(MatchError(context.Canceled)))
			}
			Eventually(func() error {
				ctx, cancel := context.WithCancel(e.ctx())
				c := e.attach(ctx, id, nil)
				Eventually(c.String, "1m", "5ms").Should(ContainSubstring("line"))
				cancel()
				return <-c.done
			}, "5s").Should(MatchError(context.Canceled))
		}
		Eventually(func() int64 { return e.private(sb) - before }, "1m", "500ms").Should(BeNumerically("<", 512<<10))
	})
})

// private is the memory that only the shim of a sandbox has, in bytes.
func (e *env) private(sandbox string) int64 {
	e.tb.Helper()
	s, err := e.rt.SandboxStatus(e.ctx(), sandbox)
	if err != nil {
		e.tb.Fatal(err)
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", s.PID))
	if err != nil {
		e.tb.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		if rest, ok := bytes.CutPrefix(line, []byte("Private_Dirty:")); ok {
			kib, _ := strconv.ParseInt(string(bytes.Fields(rest)[0]), 10, 64)
			return kib << 10
		}
	}
	e.tb.Fatalf("no Private_Dirty of %d", s.PID)
	return 0
}

var _ = Describe("a forward", func() {
	It("reaches a pod with the node's network, and is counted", func() {
		e := newEnv(GinkgoTB())
		l, err := net.Listen("tcp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		defer func() { _ = l.Close() }()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
			}
		}()
		port := uint16(l.Addr().(*net.TCPAddr).Port)
		sb := e.sandbox(func(s *runtimeiface.SandboxSpec) { s.Network = runtimeiface.NamespaceHost })
		ctx, cancel := context.WithCancel(e.ctx())
		defer cancel()
		done := make(chan error, 256)
		for range 256 {
			ours, theirs := net.Pipe()
			go func() { done <- e.rt.PortForward(ctx, sb, port, theirs) }()
			_, err := ours.Write([]byte("x"))
			Expect(err).NotTo(HaveOccurred())
			_, err = io.ReadFull(ours, make([]byte, 1))
			Expect(err).NotTo(HaveOccurred())
		}
		_, theirs := net.Pipe()
		Expect(e.rt.PortForward(ctx, sb, port, theirs)).To(MatchError(runtimeiface.ErrUnavailable))
		cancel()
		for range 256 {
			Eventually(done, "1m").Should(Receive(MatchError(context.Canceled)))
		}
		ours, theirs := net.Pipe()
		go func() { done <- e.rt.PortForward(e.ctx(), sb, port, theirs) }()
		Expect(ours.Close()).To(Succeed())
		Eventually(done, "1m").Should(Receive(BeNil()))
	})
})

var _ = Describe("a PID namespace", func() {
	var e *env
	BeforeEach(func() { e = newEnv(GinkgoTB()) })
	join := func(id string) func(*runtimeiface.ContainerSpec) {
		return func(s *runtimeiface.ContainerSpec) { s.PID, s.PIDTarget = runtimeiface.NamespaceTarget, id }
	}

	It("of a container is joined by others, and what these leave behind dies with them", func() {
		sb := e.sandbox()
		first := e.start(sb, "first", "forever")
		second := e.start(sb, "second", "ps ; spawn forever ; sleep 200ms ; exit 7", join(first))
		pid := e.status(first).PID
		c := e.exited(second)
		Expect(c.ExitCode).To(BeEquivalentTo(7))
		Expect(e.log(c)).To(ContainSubstring("forever"), "it sees the first one")
		left, err := runtimeiface.ExecSync(e.ctx(), e.rt, first, []string{"/prog", "ps"})
		Expect(err).NotTo(HaveOccurred())
		Expect(strings.Count(string(left.Stdout), "forever")).To(Equal(1), "processes: %s", left.Stdout)
		Expect(e.status(first).PID).To(Equal(pid))
		third := e.start(sb, "third", "forever", join(first))
		Expect(nsOf(e.status(third).PID, "pid")).To(Equal(nsOf(pid, "pid")))
		Expect(e.rt.StopContainer(e.ctx(), first, 0)).To(Succeed())
		Expect(e.exited(third).ExitCode).To(BeEquivalentTo(137), "with its first process the namespace ends")
	})

	It("of what is no running container of the sandbox cannot be joined", func() {
		sb, other := e.sandbox(), e.sandbox()
		for id, want := range map[string]error{
			"abc": runtimeiface.ErrNotFound, e.start(other, "app", "forever"): runtimeiface.ErrNotFound,
			e.create(sb, "created", "forever"):          runtimeiface.ErrNotRunning,
			e.exited(e.start(sb, "ended", "exit 0")).ID: runtimeiface.ErrNotRunning,
		} {
			_, err := e.rt.CreateContainer(e.ctx(), sb, runtimeiface.ContainerSpec{
				Name: "app", Image: e.image, PID: runtimeiface.NamespaceTarget, PIDTarget: id,
			})
			Expect(err).To(MatchError(want))
			Expect(err).To(MatchError(ContainSubstring("PIDTarget")))
		}
	})

	It("of a pod whose first process was killed is the end of the pod", func() {
		sb := e.sandbox(func(s *runtimeiface.SandboxSpec) { s.PID = runtimeiface.NamespacePod })
		first := e.start(sb, "first", "forever")
		Expect(unix.Kill(e.pauseOf(sb), unix.SIGKILL)).To(Succeed())
		Expect(e.exited(first).ExitCode).To(BeEquivalentTo(137))
		Eventually(func() runtimeiface.SandboxState {
			s, err := e.rt.SandboxStatus(e.ctx(), sb)
			Expect(err).NotTo(HaveOccurred())
			return s.State
		}, "5s", "5ms").Should(Equal(runtimeiface.SandboxNotReady))
	})
})

var _ = Describe("streams of a pod with a user namespace", func() {
	It("are those of any other", func() {
		e := newEnv(GinkgoTB())
		sb := e.sandbox(userNamespace)
		id := e.start(sb, "app", "serve 127.0.0.1:4711", func(s *runtimeiface.ContainerSpec) { s.TTY, s.Stdin = true, true })
		Eventually(func() error {
			ours, theirs := net.Pipe()
			done := make(chan error, 1)
			go func() { done <- e.rt.PortForward(e.ctx(), sb, 4711, theirs) }()
			defer func() { _ = ours.Close() }()
			if _, err := ours.Write([]byte("echo")); err != nil {
				return <-done
			}
			got := make([]byte, 4)
			_, err := io.ReadFull(ours, got)
			Expect(string(got)).To(Equal("echo"))
			return err
		}, "10s", "20ms").Should(Succeed())
		ctx, cancel := context.WithCancel(e.ctx())
		read, write := io.Pipe()
		c := e.attach(ctx, id, read)
		_, err := io.WriteString(write, "typed\n")
		Expect(err).NotTo(HaveOccurred())
		Eventually(c.String, "1m", "5ms").Should(ContainSubstring("typed\r\n"), "the terminal's echo")
		cancel()
		Eventually(c.done, "1m").Should(Receive(MatchError(context.Canceled)))
		var out bytes.Buffer
		code, err := e.rt.Exec(e.ctx(), id, runtimeiface.ExecSpec{
			Command: []string{"/prog", "ids", ";", "exit", "9"}, TTY: true, Stdout: &out,
		})
		Expect(err).NotTo(HaveOccurred())
		Expect(code).To(Equal(9))
		Expect(out.String()).To(Equal("0 0\r\n"))
	})
})

// pauseOf finds the process that holds a pod's PID namespace.
func (e *env) pauseOf(sandbox string) int {
	s, err := e.rt.SandboxStatus(e.ctx(), sandbox)
	Expect(err).NotTo(HaveOccurred())
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s.PID))
	Expect(err).NotTo(HaveOccurred())
	for _, list := range lists {
		data, _ := os.ReadFile(list)
		for child := range strings.FieldsSeq(string(data)) {
			if line, _ := os.ReadFile("/proc/" + child + "/cmdline"); strings.HasPrefix(string(line), "nodekit-shim\x00pause\x00") {
				pid, _ := strconv.Atoi(child)
				return pid
			}
		}
	}
	Fail("no process holds the PID namespace of the pod")
	return 0
}
