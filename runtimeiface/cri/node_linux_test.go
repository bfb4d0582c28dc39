package cri_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
)

// pod makes a sandbox that is gone after the spec.
func (n *node) pod(ctx context.Context, change ...func(*runtimeiface.SandboxSpec)) string {
	n.tb.Helper()
	uid := fmt.Sprintf("uid-%d", time.Now().UnixNano())
	spec := runtimeiface.SandboxSpec{Name: uid, Namespace: "test", UID: uid, LogDirectory: filepath.Join(n.logs, uid)}
	for _, c := range change {
		c(&spec)
	}
	id, err := n.rt.RunSandbox(ctx, spec)
	if err != nil {
		n.tb.Fatalf("run sandbox: %v\n%s", err, n.daemon.Tail())
	}
	DeferCleanup(func(ctx SpecContext) { Expect(n.rt.RemoveSandbox(ctx, id)).To(Succeed()) })
	return id
}

// prog starts the test program and gives its container once it says "ready".
func (n *node) prog(ctx context.Context, sandbox, name, steps string, change ...func(*runtimeiface.ContainerSpec)) string {
	n.tb.Helper()
	img, err := n.rt.PullImage(ctx, runtimeiface.ImageSpec{Ref: n.images.Prog}, nil)
	if err != nil {
		n.tb.Fatalf("pull: %v", err)
	}
	spec := runtimeiface.ContainerSpec{Name: name, Image: img.ID, Args: strings.Fields(steps), LogPath: name + ".log"}
	for _, c := range change {
		c(&spec)
	}
	id, err := n.rt.CreateContainer(ctx, sandbox, spec)
	if err != nil {
		n.tb.Fatalf("create: %v\n%s", err, n.daemon.Tail())
	}
	if err := n.rt.StartContainer(ctx, id); err != nil {
		n.tb.Fatalf("start: %v\n%s", err, n.daemon.Tail())
	}
	return id
}

func (n *node) text(ctx context.Context, id string) string {
	c, err := n.rt.ContainerStatus(ctx, id)
	if err != nil {
		return err.Error()
	}
	data, _ := os.ReadFile(c.LogPath)
	return string(data)
}

func (n *node) ps(ctx context.Context, id string) string {
	var out bytes.Buffer
	if _, err := n.rt.Exec(ctx, id, runtimeiface.ExecSpec{Command: []string{"/prog", "ps"}, Stdout: &out}); err != nil {
		return err.Error()
	}
	return out.String()
}

var _ = Describe("containerd", Ordered, ContinueOnFailure, func() {
	var n *node
	BeforeAll(func() { n = newNode(GinkgoTB()) })

	It("kills a streamed command and its children when ctx ends", func(ctx SpecContext) {
		id := n.prog(ctx, n.pod(ctx), "app", "forever")
		short, cancel := context.WithCancel(ctx)
		child := runtimeiface.ExecSpec{Command: []string{"/prog", "cat", "/tmp/child"}}
		go func() {
			defer cancel()
			for ctx.Err() == nil {
				if code, err := n.rt.Exec(ctx, id, child); err == nil && code == 0 {
					return
				}
			}
		}()
		hold, write := io.Pipe()
		defer func() { _ = write.Close() }()
		_, err := n.rt.Exec(short, id, runtimeiface.ExecSpec{
			Command: []string{"/prog", "spawn", "ignore", ",", "count", "/tmp/child", "10ms", ";", "ignore", ";", "count", "/tmp/parent", "10ms"},
			Stdin:   hold,
		})
		Expect(err).To(MatchError(context.Canceled))
		Eventually(func() string { return n.ps(ctx, id) }, "1m", "20ms").ShouldNot(Or(ContainSubstring("/tmp/child"), ContainSubstring("/tmp/parent")))
	}, NodeTimeout(5*time.Minute))

	It("gives a command a terminal, its exit code, and why it cannot run", func(ctx SpecContext) {
		id := n.prog(ctx, n.pod(ctx), "app", "forever")
		var out bytes.Buffer
		code, err := n.rt.Exec(ctx, id, runtimeiface.ExecSpec{
			Command: []string{"/prog", "print", "a", ";", "eprint", "b", ";", "exit", "7"}, TTY: true, Stdout: &out,
		})
		Expect(err).NotTo(HaveOccurred())
		Expect(code).To(Equal(7))
		Expect(out.String()).To(Equal("a\r\nb\r\n"))
		code, err = n.rt.Exec(ctx, id, runtimeiface.ExecSpec{Command: []string{"/none"}, Stdin: strings.NewReader("")})
		Expect(code).To(Equal(127))
		Expect(err).To(MatchError(ContainSubstring("/none")))
		code, err = n.rt.Exec(ctx, id, runtimeiface.ExecSpec{Command: []string{"/plain"}})
		Expect(code).To(Equal(126))
		Expect(err).To(HaveOccurred())
		_, err = n.rt.Exec(ctx, "none", runtimeiface.ExecSpec{Command: []string{"/x"}, Stdin: strings.NewReader("")})
		Expect(err).To(MatchError(runtimeiface.ErrNotFound))
	}, NodeTimeout(5*time.Minute))

	It("streams more than a message holds, given an empty Stdin", func(ctx SpecContext) {
		id := n.prog(ctx, n.pod(ctx), "app", "forever")
		count := counter(0)
		code, err := n.rt.Exec(ctx, id, runtimeiface.ExecSpec{
			Command: []string{"/prog", "fill", "40000000"}, Stdin: strings.NewReader(""), Stdout: &count,
		})
		Expect(err).NotTo(HaveOccurred())
		Expect(code).To(BeZero())
		Expect(count).To(BeEquivalentTo(40000000))
	}, NodeTimeout(5*time.Minute))

	It("answers a Runtime that was there before its crash, whose subscription tells what happened meanwhile", func(ctx SpecContext) {
		sb := n.pod(ctx)
		id := n.prog(ctx, sb, "app", "sleep 1s ; exit 3")
		events, err := n.rt.Subscribe(ctx)
		Expect(err).NotTo(HaveOccurred())
		n.daemon.Kill()
		_, err = n.rt.ContainerStatus(ctx, id)
		Expect(err).To(MatchError(runtimeiface.ErrUnavailable))
		n.daemonStart()
		Eventually(func() error { _, err := n.rt.Version(ctx); return err }, "1m", "20ms").Should(Succeed())
		Eventually(events, "1m").Should(Receive(And(HaveField("Type", runtimeiface.ContainerStopped), HaveField("ContainerID", id))))
		c, err := n.rt.ContainerStatus(ctx, id)
		Expect(err).NotTo(HaveOccurred())
		Expect(c.ExitCode).To(BeEquivalentTo(3))
	}, NodeTimeout(5*time.Minute))

	It("makes a port of the node answer for a pod", func(ctx SpecContext) {
		sb := n.pod(ctx, func(s *runtimeiface.SandboxSpec) {
			s.PortMappings = []runtimeiface.PortMapping{{Protocol: "TCP", ContainerPort: 80, HostPort: 18080, HostIP: netip.MustParseAddr("127.0.0.1")}}
		})
		id := n.prog(ctx, sb, "app", "serve :80")
		Eventually(func() string { return n.text(ctx, id) }, "1m", "20ms").Should(ContainSubstring("serving"))
		Eventually(func() error {
			conn, err := net.DialTimeout("tcp", "127.0.0.1:18080", time.Second)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			_, err = conn.Write([]byte("x"))
			if err == nil {
				_ = conn.SetDeadline(time.Now().Add(time.Second))
				_, err = io.ReadFull(conn, make([]byte, 1))
			}
			return err
		}, "1m", "50ms").Should(Succeed())
	}, NodeTimeout(5*time.Minute))

	It("gives a device, a group beside the image's user, seccomp and hidden paths", func(ctx SpecContext) {
		group := int64(1234)
		id := n.prog(ctx, n.pod(ctx), "app", "ls /dev ; ids ; cat /proc/self/status ; print begin ; ls /sys/firmware ; print end ; forever",
			func(s *runtimeiface.ContainerSpec) {
				s.Devices = []specs.LinuxDevice{{Path: "/dev/mynull", Type: "c", Major: 1, Minor: 3}}
				s.Security = runtimeiface.Security{RunAsGroup: &group, Seccomp: runtimeiface.SeccompRuntimeDefault}
			})
		Eventually(func() string { return n.text(ctx, id) }, "1m", "20ms").Should(And(
			ContainSubstring("mynull"), ContainSubstring("F 0 1234"), MatchRegexp(`Seccomp:\s+2`), MatchRegexp(`F begin\n\S+ stdout F end`)))
	}, NodeTimeout(5*time.Minute))

	It("runs a privileged container in a privileged sandbox only", func(ctx SpecContext) {
		img, err := n.rt.PullImage(ctx, runtimeiface.ImageSpec{Ref: n.images.Prog}, nil)
		Expect(err).NotTo(HaveOccurred())
		spec := runtimeiface.ContainerSpec{Name: "app", Image: img.ID, Security: runtimeiface.Security{Privileged: true}}
		_, err = n.rt.CreateContainer(ctx, n.pod(ctx), spec)
		Expect(err).To(MatchError(runtimeiface.ErrInvalid))
		Expect(err).To(MatchError(ContainSubstring("Security.Privileged")))

		pod := n.pod(ctx, func(s *runtimeiface.SandboxSpec) { s.Privileged = true })
		id := n.prog(ctx, pod, "app", "cat /proc/self/status ; forever", func(s *runtimeiface.ContainerSpec) { s.Security.Privileged = true })
		Eventually(func() string { return n.text(ctx, id) }, "1m", "20ms").Should(MatchRegexp(`Seccomp:\s+0`))
	}, NodeTimeout(5*time.Minute))
})

type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
