package runtimetest_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// interactive runs a program that can be typed at.
func (w world) interactive(ctx context.Context, ref string) string {
	GinkgoHelper()
	img, err := w.PullImage(ctx, runtimeiface.ImageSpec{Ref: ref}, nil)
	Expect(err).NotTo(HaveOccurred())
	id, err := w.CreateContainer(ctx, w.sandbox(ctx, "u1"), runtimeiface.ContainerSpec{Name: "app", Image: img.ID, Stdin: true, TTY: true})
	Expect(err).NotTo(HaveOccurred())
	Expect(w.StartContainer(ctx, id)).To(Succeed())
	return id
}

var _ = Describe("the fake's streams", func() {
	It("tell a program what is typed and the terminal's size, and do what it says to that", func(ctx SpecContext) {
		w := newWorld(runtimetest.FakeImage{Ref: "shell", Program: runtimetest.Program{
			Stdin: func(data []byte) runtimetest.Reaction {
				if string(data) == "exit\n" {
					return runtimetest.Reaction{Exit: &runtimetest.Exit{After: time.Second, Code: 5}}
				}
				return runtimetest.Reaction{Output: []runtimetest.Output{{After: time.Minute, Data: []byte("heard " + string(data))}}}
			},
			Resized: func(s runtimeiface.TerminalSize) runtimetest.Reaction {
				return runtimetest.Reaction{Output: []runtimetest.Output{{Stderr: true, Data: []byte{byte('0' + s.Width), 'x', byte('0' + s.Height), '\n'}}}}
			},
		}})
		id := w.interactive(ctx, "shell")
		read, write := io.Pipe()
		said, saying := io.Pipe()
		sizes := make(chan runtimeiface.TerminalSize)
		done := make(chan error, 1)
		go func() {
			done <- w.Attach(ctx, id, runtimeiface.AttachSpec{Stdin: read, Stdout: saying, Resize: sizes})
			_ = saying.Close()
		}()
		next := func(n int) string {
			GinkgoHelper()
			buf := make([]byte, n)
			_, err := io.ReadFull(said, buf)
			Expect(err).NotTo(HaveOccurred())
			return string(buf)
		}
		sizes <- runtimeiface.TerminalSize{Width: 3, Height: 4}
		Expect(next(4)).To(Equal("3x4\n"))
		_, err := io.WriteString(write, "hello\n")
		Expect(err).NotTo(HaveOccurred())
		Eventually(w.clock.HasWaiters).Should(BeTrue())
		w.clock.Step(time.Minute)
		Expect(next(12)).To(Equal("heard hello\n"))
		_, err = io.WriteString(write, "exit\n")
		Expect(err).NotTo(HaveOccurred())
		Eventually(w.clock.HasWaiters).Should(BeTrue())
		w.clock.Step(time.Second)
		Eventually(done).Should(Receive(BeNil()))
		Expect(write.Close()).To(Succeed())
		Expect(w.status(ctx, id).ExitCode).To(BeEquivalentTo(5))
	})

	It("choose what a command does", func(ctx SpecContext) {
		w := newWorld(runtimetest.FakeImage{Ref: "app", Program: runtimetest.Program{
			Command: func(p runtimetest.Process) runtimetest.Program {
				switch p.Argv[0] {
				case "nothing":
					return runtimetest.Program{StartError: "no such file"}
				case "forever":
					return runtimetest.Program{Output: []runtimetest.Output{{Data: []byte("began\n")}}}
				}
				return runtimetest.Program{
					Output: []runtimetest.Output{{Data: []byte("out\n")}, {Stderr: true, Data: []byte("err\n")}},
					Exit:   &runtimetest.Exit{Code: 3},
				}
			},
		}})
		id := w.running(ctx, w.sandbox(ctx, "u1"), "app", "app")
		var out, errs strings.Builder
		code, err := w.Exec(ctx, id, runtimeiface.ExecSpec{Command: []string{"check"}, Stdout: &out, Stderr: &errs})
		Expect(err).NotTo(HaveOccurred())
		Expect([]any{code, out.String(), errs.String()}).To(Equal([]any{3, "out\n", "err\n"}))
		code, err = w.Exec(ctx, id, runtimeiface.ExecSpec{Command: []string{"nothing"}})
		Expect(code).To(Equal(127))
		Expect(err).To(MatchError(ContainSubstring("no such file")))

		By("one that goes on ends with its container, or with ctx")
		short, cancel := context.WithCancel(ctx)
		_, err = w.Exec(short, id, runtimeiface.ExecSpec{Command: []string{"forever"}, Stdout: writerFunc(cancel)})
		Expect(err).To(MatchError(context.Canceled))
		began := make(chan struct{})
		type result struct {
			code int
			err  error
		}
		done := make(chan result, 1)
		go func() {
			code, err := w.Exec(ctx, id, runtimeiface.ExecSpec{Command: []string{"forever"}, Stdout: writerFunc(func() { close(began) })})
			done <- result{code, err}
		}()
		Eventually(began).Should(BeClosed())
		Expect(w.Exit(id, 0)).To(Succeed())
		Eventually(done).Should(Receive(Equal(result{137, nil})))
	})

	It("give an error of whoever reads", func(ctx SpecContext) {
		full := errors.New("full")
		var chatty runtimetest.Program
		for i := range 1000 {
			chatty.Output = append(chatty.Output, runtimetest.Output{After: time.Duration(i) * time.Second, Data: []byte("out\n")})
		}
		w := newWorld(runtimetest.FakeImage{Ref: "app", Program: chatty})
		id := w.running(ctx, w.sandbox(ctx, "u1"), "app", "app")
		done := make(chan error, 1)
		go func() { done <- w.Attach(ctx, id, runtimeiface.AttachSpec{Stdout: failing{full}}) }()
		Eventually(func() error {
			w.clock.Step(time.Second)
			select {
			case err := <-done:
				return err
			default:
				return nil
			}
		}).Should(MatchError(full))
		Expect(w.status(ctx, id).State).To(Equal(runtimeiface.ContainerRunning))
		Expect(w.Exit(id, 0)).To(Succeed())
	})

	It("connect to who listens", func(ctx SpecContext) {
		w := newWorld(runtimetest.FakeImage{Ref: "web", Program: runtimetest.Program{
			Listen: map[uint16]func(context.Context, io.ReadWriteCloser){
				80: func(_ context.Context, conn io.ReadWriteCloser) { _, _ = io.WriteString(conn, "welcome") },
			},
		}})
		sb := w.sandbox(ctx, "u1")
		w.running(ctx, sb, "web", "web")
		client, server := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- w.PortForward(ctx, sb, 80, server) }()
		got, err := io.ReadAll(client)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(got)).To(Equal("welcome"))
		Eventually(done).Should(Receive(BeNil()))
		Expect(w.PortForward(ctx, sb, 81, server)).To(MatchError(runtimeiface.ErrUnavailable))
	})

	DescribeTable("faults meet the calls",
		func(ctx SpecContext, op runtimetest.Op, call func(context.Context, world, string, string) error) {
			w := newWorld(runtimetest.FakeImage{Ref: "app"})
			sb := w.sandbox(ctx, "u1")
			id := w.running(ctx, sb, "app", "app")
			boom := errors.New("boom")
			w.Inject(runtimetest.Fault{Op: op, Err: boom, Times: 1})
			Expect(call(ctx, w, sb, id)).To(MatchError(boom))
			calls := w.Calls(op)
			Expect(calls).To(HaveLen(1))
			Expect(calls[0].Err).To(MatchError(boom))
			w.Inject(runtimetest.Fault{Op: op, Hang: true})
			short, cancel := context.WithCancel(ctx)
			time.AfterFunc(5*time.Millisecond, cancel)
			Expect(call(short, w, sb, id)).To(MatchError(context.Canceled))
		},
		Entry(nil, runtimetest.OpAttach, func(ctx context.Context, w world, _, id string) error {
			return w.Attach(ctx, id, runtimeiface.AttachSpec{})
		}),
		Entry(nil, runtimetest.OpPortForward, func(ctx context.Context, w world, sb, _ string) error {
			conn, _ := net.Pipe()
			return w.PortForward(ctx, sb, 80, conn)
		}),
		Entry(nil, runtimetest.OpRunContainers, func(ctx context.Context, w world, sb, _ string) error {
			_, err := w.RunContainers(ctx, sb, nil)
			return err
		}),
		Entry(nil, runtimetest.OpUpdateContainer, func(ctx context.Context, w world, _, id string) error {
			return w.UpdateContainer(ctx, id, specs.LinuxResources{})
		}),
		Entry(nil, runtimetest.OpImageFilesystem, func(ctx context.Context, w world, _, _ string) error {
			_, err := w.ImageFilesystem(ctx)
			return err
		}))

	It("updates are kept beside what was there", func(ctx SpecContext) {
		w := newWorld(runtimetest.FakeImage{Ref: "app", Present: true})
		img, err := w.ImageStatus(ctx, "app")
		Expect(err).NotTo(HaveOccurred())
		given := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(64))}, Unified: map[string]string{"a": "1"}}
		id, err := w.CreateContainer(ctx, w.sandbox(ctx, "u1"), runtimeiface.ContainerSpec{Name: "app", Image: img.ID, Resources: given})
		Expect(err).NotTo(HaveOccurred())
		Expect(w.UpdateContainer(ctx, id, specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: new(int64(0)), Swap: new(int64(128))}, CPU: &specs.LinuxCPU{Shares: new(uint64(2))},
			Unified: map[string]string{"b": "2"},
		})).To(Succeed())
		_, spec, err := w.Specs(id)
		Expect(err).NotTo(HaveOccurred())
		Expect(spec.Resources).To(Equal(&specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: new(int64(64)), Swap: new(int64(128))}, CPU: &specs.LinuxCPU{Shares: new(uint64(2))},
			Unified: map[string]string{"a": "1", "b": "2"},
		}))
		Expect(given.Memory.Swap).To(BeNil(), "what the caller gave was changed")
	})

	It("user namespaces, images' capacity and pins are kept", func(ctx SpecContext) {
		fake, err := runtimetest.NewFake(runtimetest.FakeConfig{ImageCapacity: 100, Images: []runtimetest.FakeImage{
			{Ref: "one", Present: true, Size: 30, Pinned: true}, {Ref: "two", Present: true, Size: 20, Layers: 3},
		}})
		Expect(err).NotTo(HaveOccurred())
		Expect(fake.ImageFilesystem(ctx)).To(Equal(runtimeiface.Filesystem{
			Path: "/fake/images", UsedBytes: 50, UsedInodes: 4, CapacityBytes: 100, AvailableBytes: 50,
		}))
		img, err := fake.ImageStatus(ctx, "one")
		Expect(err).NotTo(HaveOccurred())
		Expect(img.Pinned).To(BeTrue())
		ids := []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
		sb, err := fake.RunSandbox(ctx, runtimeiface.SandboxSpec{
			Name: "web", Namespace: "default", UID: "u1", UserNamespace: &runtimeiface.UserNamespace{UIDs: ids, GIDs: ids},
		})
		Expect(err).NotTo(HaveOccurred())
		id, err := fake.CreateContainer(ctx, sb, runtimeiface.ContainerSpec{Name: "app", Image: img.ID})
		Expect(err).NotTo(HaveOccurred())
		pod, _, err := fake.Specs(id)
		Expect(err).NotTo(HaveOccurred())
		Expect(pod.UserNamespace.UIDs).To(Equal(ids))
	})
})

// writerFunc is told of each write.
type writerFunc func()

func (f writerFunc) Write(p []byte) (int, error) { f(); return len(p), nil }

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
