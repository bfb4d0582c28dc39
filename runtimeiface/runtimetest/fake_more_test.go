package runtimetest_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

var _ = Describe("what a fake is made of", func() {
	It("gives the lowest free address, and an error when there is none", func(ctx SpecContext) {
		fake, err := runtimetest.NewFake(runtimetest.FakeConfig{Subnet: netip.MustParsePrefix("127.5.0.0/30")})
		Expect(err).NotTo(HaveOccurred())
		run := func(uid string) (string, error) {
			return fake.RunSandbox(ctx, runtimeiface.SandboxSpec{Name: "web", Namespace: "default", UID: uid})
		}
		one, err := run("u1")
		Expect(err).NotTo(HaveOccurred())
		_, err = run("u2")
		Expect(err).NotTo(HaveOccurred())
		_, err = run("u3")
		Expect(err).To(MatchError(ContainSubstring("no address is free in 127.5.0.0/30")))
		Expect(fake.State().Sandboxes).To(HaveLen(2))
		Expect(fake.StopSandbox(ctx, one)).To(Succeed())
		three, err := run("u3")
		Expect(err).NotTo(HaveOccurred())
		s, err := fake.SandboxStatus(ctx, three)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.IPs).To(HaveExactElements(netip.MustParseAddr("127.5.0.2")))
	})

	It("refuses a subnet without room", func() {
		_, err := runtimetest.NewFake(runtimetest.FakeConfig{Subnet: netip.MustParsePrefix("10.0.0.0/31")})
		Expect(err).To(MatchError(runtimeiface.ErrInvalid))
	})

	It("knows the configured handlers only", func(ctx SpecContext) {
		fake, err := runtimetest.NewFake(runtimetest.FakeConfig{RuntimeHandlers: []string{"gvisor"}})
		Expect(err).NotTo(HaveOccurred())
		spec := runtimeiface.SandboxSpec{Name: "web", Namespace: "default", UID: "u1", RuntimeHandler: "kata"}
		_, err = fake.RunSandbox(ctx, spec)
		Expect(err).To(MatchError(runtimeiface.ErrNotSupported))
		spec.RuntimeHandler = "gvisor"
		_, err = fake.RunSandbox(ctx, spec)
		Expect(err).NotTo(HaveOccurred())
	})

	It("asks Stat for what is to be mounted, and tells what was asked for", func(ctx SpecContext) {
		fake, err := runtimetest.NewFake(runtimetest.FakeConfig{
			Images: []runtimetest.FakeImage{{Ref: "app", Present: true}},
			Stat: func(path string) error {
				if path == "/there" {
					return nil
				}
				return os.ErrNotExist
			},
		})
		Expect(err).NotTo(HaveOccurred())
		w := world{Fake: fake}
		sb := w.sandbox(ctx, "u1")
		img, err := w.ImageStatus(ctx, "app")
		Expect(err).NotTo(HaveOccurred())
		spec := runtimeiface.ContainerSpec{Name: "app", Image: img.ID, Mounts: []specs.Mount{
			{Type: "bind", Source: "/nowhere", Destination: "/mnt"},
		}}
		_, err = w.CreateContainer(ctx, sb, spec)
		Expect(err).To(MatchError(runtimeiface.ErrInvalid))
		Expect(err).To(MatchError(ContainSubstring("Mounts[0].Source")))
		spec.Mounts[0].Source = "/there"
		id, err := w.CreateContainer(ctx, sb, spec)
		Expect(err).NotTo(HaveOccurred())
		spec.Mounts[0].Source = "/changed"
		pod, container, err := w.Specs(id)
		Expect(err).NotTo(HaveOccurred())
		Expect(pod.UID).To(Equal("u1"))
		Expect(container.Mounts[0].Source).To(Equal("/there"))
		_, _, err = w.Specs("nobody")
		Expect(err).To(MatchError(runtimeiface.ErrNotFound))
	})

	Describe("images", func() {
		It("arrive over their time, with progress", func(ctx SpecContext) {
			w := newWorld(runtimetest.FakeImage{Ref: "slow", PullTakes: 8 * time.Second, Size: 800, Layers: 4})
			seen := make(chan runtimeiface.PullProgress, 100)
			done := make(chan error, 1)
			go func() {
				_, err := w.PullImage(ctx, runtimeiface.ImageSpec{Ref: "slow"}, func(p runtimeiface.PullProgress) { seen <- p })
				done <- err
			}()
			for range 4 {
				Eventually(w.clock.HasWaiters).Should(BeTrue())
				Expect(done).NotTo(Receive())
				w.clock.Step(2 * time.Second)
			}
			Eventually(done).Should(Receive(BeNil()))
			close(seen)
			var bytes []int64
			var phases []string
			for p := range seen {
				bytes, phases = append(bytes, p.Done), append(phases, p.Phase)
			}
			Expect(bytes).To(HaveExactElements(int64(0), int64(0), int64(200), int64(400), int64(600), int64(800), int64(800)))
			Expect(strings.Join(phases, " ")).To(Equal("resolving downloading downloading downloading downloading unpacking done"))
		})

		It("fail as they are told, until they are offered anew", func(ctx SpecContext) {
			w := newWorld(runtimetest.FakeImage{Ref: "flaky:1", PullErr: runtimeiface.ErrUnavailable})
			_, err := w.PullImage(ctx, runtimeiface.ImageSpec{Ref: "flaky:1"}, nil)
			Expect(err).To(MatchError(runtimeiface.ErrUnavailable))
			Expect(w.State().Images).To(BeEmpty())
			Expect(w.AddImage(runtimetest.FakeImage{Ref: "flaky:1"})).To(Succeed())
			first, err := w.PullImage(ctx, runtimeiface.ImageSpec{Ref: "flaky:1"}, nil)
			Expect(err).NotTo(HaveOccurred())
			Expect(first.Tags).To(HaveExactElements("docker.io/library/flaky:1"))

			By("a tag that moves leaves the old content without it")
			Expect(w.AddImage(runtimetest.FakeImage{Ref: "flaky:1", Content: "second"})).To(Succeed())
			second, err := w.PullImage(ctx, runtimeiface.ImageSpec{Ref: "flaky:1"}, nil)
			Expect(err).NotTo(HaveOccurred())
			Expect(second.ID).NotTo(Equal(first.ID))
			old, err := w.ImageStatus(ctx, first.ID)
			Expect(err).NotTo(HaveOccurred())
			Expect(old.Tags).To(BeEmpty())
		})
	})

	Describe("exec", func() {
		start := func(ctx context.Context, p runtimetest.Program) (world, string) {
			GinkgoHelper()
			w := newWorld(runtimetest.FakeImage{Ref: "app", Env: []string{"A=1"}, WorkingDir: "/work", Program: p})
			return w, w.running(ctx, w.sandbox(ctx, "u1"), "app", "app")
		}

		It("asks the program, which sees the container", func(ctx SpecContext) {
			var got runtimetest.Process
			w, id := start(ctx, runtimetest.Program{Exec: func(_ context.Context, p runtimetest.Process, stdin []byte) runtimetest.ExecResult {
				got = p
				return runtimetest.ExecResult{Stdout: "in: " + string(stdin), Stderr: "!", Code: 3}
			}})
			var out, errs strings.Builder
			code, err := w.Exec(ctx, id, runtimeiface.ExecSpec{
				Command: []string{"check", "it"}, Stdin: strings.NewReader("typed"), Stdout: &out, Stderr: &errs,
			})
			Expect(err).NotTo(HaveOccurred())
			Expect(code).To(Equal(3))
			Expect(out.String()).To(Equal("in: typed"))
			Expect(errs.String()).To(Equal("!"))
			Expect(got).To(Equal(runtimetest.Process{
				Pod: "web", Namespace: "default", PodUID: "u1", SandboxID: got.SandboxID, Container: "app",
				Argv: []string{"check", "it"}, Env: []string{"A=1"}, Dir: "/work", Hostname: "web", Stdin: true,
			}))

			By("a terminal has one stream")
			out.Reset()
			errs.Reset()
			_, err = w.Exec(ctx, id, runtimeiface.ExecSpec{Command: []string{"x"}, TTY: true, Stdout: &out, Stderr: &errs})
			Expect(err).NotTo(HaveOccurred())
			Expect(out.String()).To(Equal("in: !"))
			Expect(errs.String()).To(BeEmpty())
		})

		It("ends with the container, though the program would not", func(ctx SpecContext) {
			asked := make(chan struct{})
			w, id := start(ctx, runtimetest.Program{Exec: func(ctx context.Context, _ runtimetest.Process, _ []byte) runtimetest.ExecResult {
				close(asked)
				<-ctx.Done()
				return runtimetest.ExecResult{}
			}})
			type result struct {
				code int
				err  error
			}
			done := make(chan result, 1)
			go func() {
				code, err := w.Exec(ctx, id, runtimeiface.ExecSpec{Command: []string{"hang"}})
				done <- result{code, err}
			}()
			Eventually(asked).Should(BeClosed())
			Expect(w.Exit(id, 0)).To(Succeed())
			Eventually(done).Should(Receive(Equal(result{137, nil})))
		})

		It("takes its time, and 127 for what cannot be run", func(ctx SpecContext) {
			w, id := start(ctx, runtimetest.Program{Exec: func(_ context.Context, p runtimetest.Process, _ []byte) runtimetest.ExecResult {
				if p.Argv[0] == "slow" {
					return runtimetest.ExecResult{Takes: time.Minute, Code: 1}
				}
				return runtimetest.ExecResult{Err: errors.New("no such file")}
			}})
			done := make(chan int, 1)
			go func() {
				code, _ := w.Exec(ctx, id, runtimeiface.ExecSpec{Command: []string{"slow"}})
				done <- code
			}()
			Eventually(w.clock.HasWaiters).Should(BeTrue())
			w.clock.Step(time.Minute)
			Eventually(done).Should(Receive(Equal(1)))
			code, err := w.Exec(ctx, id, runtimeiface.ExecSpec{Command: []string{"nothing"}})
			Expect(code).To(Equal(127))
			Expect(err).To(MatchError(ContainSubstring("no such file")))
		})
	})
})
