package runtimetest_test

import (
	"context"
	"errors"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"go.uber.org/goleak"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is a fake on a stepped clock, with some images.
type world struct {
	*runtimetest.Fake
	clock *testingclock.FakeClock
}

func newWorld(images ...runtimetest.FakeImage) world {
	GinkgoHelper()
	c := testingclock.NewFakeClock(start)
	fake, err := runtimetest.NewFake(runtimetest.FakeConfig{Clock: c, Images: images})
	Expect(err).NotTo(HaveOccurred())
	return world{fake, c}
}

func (w world) sandbox(ctx context.Context, uid string) string {
	GinkgoHelper()
	id, err := w.RunSandbox(ctx, runtimeiface.SandboxSpec{Name: "web", Namespace: "default", UID: uid})
	Expect(err).NotTo(HaveOccurred())
	return id
}

func (w world) running(ctx context.Context, sandbox, name, ref string) string {
	GinkgoHelper()
	img, err := w.PullImage(ctx, runtimeiface.ImageSpec{Ref: ref}, nil)
	Expect(err).NotTo(HaveOccurred())
	id, err := w.CreateContainer(ctx, sandbox, runtimeiface.ContainerSpec{Name: name, Image: img.ID})
	Expect(err).NotTo(HaveOccurred())
	Expect(w.StartContainer(ctx, id)).To(Succeed())
	return id
}

func (w world) status(ctx context.Context, id string) runtimeiface.Container {
	GinkgoHelper()
	c, err := w.ContainerStatus(ctx, id)
	Expect(err).NotTo(HaveOccurred())
	return c
}

var _ = Describe("the fake", func() {
	BeforeEach(func() {
		before := goleak.IgnoreCurrent()
		DeferCleanup(func() { Expect(goleak.Find(before)).To(Succeed()) })
	})

	Describe("programs on a stepped clock", func() {
		It("end when their time has come, with that time", func(ctx SpecContext) {
			w := newWorld(runtimetest.FakeImage{Ref: "job:1", Program: runtimetest.Program{
				Exit: &runtimetest.Exit{After: time.Second, Code: 3},
			}})
			id := w.running(ctx, w.sandbox(ctx, "u1"), "job", "job:1")
			w.clock.Step(999 * time.Millisecond)
			Expect(w.status(ctx, id).State).To(Equal(runtimeiface.ContainerRunning))
			w.clock.Step(time.Hour)
			c := w.status(ctx, id)
			Expect(c.State).To(Equal(runtimeiface.ContainerExited))
			Expect(c.ExitCode).To(BeEquivalentTo(3))
			Expect(c.Reason).To(Equal(runtimeiface.ReasonError))
			Expect(c.FinishedAt).To(Equal(start.Add(time.Second)))
		})

		It("are killed once the grace has passed, the least that was asked for", func(ctx SpecContext) {
			w := newWorld(runtimetest.FakeImage{Ref: "deaf", Program: runtimetest.Program{IgnoreStop: true}})
			id := w.running(ctx, w.sandbox(ctx, "u1"), "deaf", "deaf")
			stopped := make(chan error, 2)
			for _, grace := range []time.Duration{time.Hour, 2 * time.Second} {
				go func() { stopped <- w.StopContainer(ctx, id, grace) }()
				Eventually(func() []runtimetest.Call { return w.Calls(runtimetest.OpStopContainer) }).
					Should(ContainElement(HaveField("Grace", grace)))
				Eventually(w.clock.HasWaiters).Should(BeTrue())
			}
			// Both calls are noted, but the second may not have planned its end yet.
			Eventually(func() runtimeiface.ContainerState {
				w.clock.Step(2 * time.Second)
				return w.status(ctx, id).State
			}).Should(Equal(runtimeiface.ContainerExited))
			Eventually(stopped).Should(Receive(BeNil()))
			Eventually(stopped).Should(Receive(BeNil()))
			Expect(w.status(ctx, id).ExitCode).To(BeEquivalentTo(137))
			Expect(w.status(ctx, id).FinishedAt).To(BeTemporally("<", start.Add(time.Hour)))
		})

		It("that run out of memory say so", func(ctx SpecContext) {
			w := newWorld(runtimetest.FakeImage{Ref: "hog", Program: runtimetest.Program{
				Exit: &runtimetest.Exit{OOM: true},
			}})
			c := w.status(ctx, w.running(ctx, w.sandbox(ctx, "u1"), "hog", "hog"))
			Expect(c.ExitCode).To(BeEquivalentTo(137))
			Expect(c.Reason).To(Equal(runtimeiface.ReasonOOMKilled))
		})
	})

	Describe("faults", func() {
		boom := errors.New("boom")

		It("before the effect leave nothing, after it leave it", func(ctx SpecContext) {
			w := newWorld()
			spec := runtimeiface.SandboxSpec{Name: "web", Namespace: "default", UID: "u1"}
			w.Inject(runtimetest.Fault{Op: runtimetest.OpRunSandbox, Err: boom, Times: 1})
			_, err := w.RunSandbox(ctx, spec)
			Expect(err).To(MatchError(boom))
			Expect(w.State().Sandboxes).To(BeEmpty())

			w.Inject(runtimetest.Fault{Op: runtimetest.OpRunSandbox, Err: boom, Times: 1, AfterEffect: true})
			_, err = w.RunSandbox(ctx, spec)
			Expect(err).To(MatchError(boom))
			Expect(w.State().Sandboxes).To(HaveLen(1))

			id, err := w.RunSandbox(ctx, spec)
			Expect(err).NotTo(HaveOccurred())
			Expect(id).To(Equal(w.State().Sandboxes[0].ID))
		})

		It("hang until the context ends, skip, match and are removed", func(ctx SpecContext) {
			w := newWorld()
			remove := w.Inject(runtimetest.Fault{
				Match: func(c runtimetest.Call) bool { return c.PodUID == "u2" }, Skip: 1, Hang: true,
			})
			one, two := w.sandbox(ctx, "u1"), w.sandbox(ctx, "u2")
			short, cancel := context.WithCancel(ctx)
			time.AfterFunc(5*time.Millisecond, cancel)
			_, err := w.SandboxStatus(short, two)
			Expect(err).To(MatchError(context.Canceled))
			_, err = w.SandboxStatus(ctx, one)
			Expect(err).NotTo(HaveOccurred())
			remove()
			_, err = w.SandboxStatus(ctx, two)
			Expect(err).NotTo(HaveOccurred())
			Expect(w.Calls(runtimetest.OpSandboxStatus)).To(HaveExactElements(
				And(HaveField("PodUID", "u2"), HaveField("Err", context.Canceled), HaveField("Done", true)),
				HaveField("PodUID", "u1"), HaveField("Err", BeNil())))
		})

		It("delay on the fake's clock", func(ctx SpecContext) {
			w := newWorld()
			w.Inject(runtimetest.Fault{Delay: time.Minute})
			done := make(chan error, 1)
			go func() { _, err := w.Version(ctx); done <- err }()
			Eventually(w.clock.HasWaiters).Should(BeTrue())
			Consistently(done, "20ms").ShouldNot(Receive())
			w.clock.Step(time.Minute)
			Eventually(done).Should(Receive(BeNil()))
		})
	})

	Describe("what happens from outside", func() {
		It("a killed shim leaves a sandbox that is not ready and exits without a witness", func(ctx SpecContext) {
			w := newWorld(runtimetest.FakeImage{Ref: "app"})
			sb := w.sandbox(ctx, "u1")
			id := w.running(ctx, sb, "app", "app")
			Expect(w.KillShim(sb)).To(Succeed())
			s, err := w.SandboxStatus(ctx, sb)
			Expect(err).NotTo(HaveOccurred())
			Expect(s.State).To(Equal(runtimeiface.SandboxNotReady))
			Expect(s.IPs).To(BeEmpty())
			c := w.status(ctx, id)
			Expect(c.ExitCode).To(BeEquivalentTo(runtimeiface.ExitCodeUnknown))
			Expect(c.Reason).To(Equal(runtimeiface.ReasonUnknown))
		})

		DescribeTable("a reboot ends everything and every subscription",
			func(ctx SpecContext, forget bool, left int) {
				w := newWorld(runtimetest.FakeImage{Ref: "app"})
				events, err := w.Subscribe(ctx)
				Expect(err).NotTo(HaveOccurred())
				w.running(ctx, w.sandbox(ctx, "u1"), "app", "app")
				w.Reboot(forget)
				Eventually(events).Should(BeClosed())
				st := w.State()
				Expect(st.Sandboxes).To(HaveLen(left))
				Expect(st.Containers).To(HaveLen(left))
				Expect(st.Images).To(HaveLen(1))
			},
			Entry("keeping the records", false, 1),
			Entry("forgetting them", true, 0))

		It("Exit and OOM end what runs, and only that", func(ctx SpecContext) {
			w := newWorld(runtimetest.FakeImage{Ref: "app"})
			sb := w.sandbox(ctx, "u1")
			one, two := w.running(ctx, sb, "one", "app"), w.running(ctx, sb, "two", "app")
			Expect(w.Exit(one, 7)).To(Succeed())
			Expect(w.OOM(two)).To(Succeed())
			Expect(w.status(ctx, one).ExitCode).To(BeEquivalentTo(7))
			Expect(w.status(ctx, two).Reason).To(Equal(runtimeiface.ReasonOOMKilled))
			Expect(w.Exit(one, 8)).To(MatchError(runtimeiface.ErrNotRunning))
			Expect(w.OOM("nobody")).To(MatchError(runtimeiface.ErrNotFound))
			Expect(w.status(ctx, one).ExitCode).To(BeEquivalentTo(7))
		})

		It("a silent fake changes without telling, Emit tells without a change", func(ctx SpecContext) {
			w := newWorld()
			sub, cancel := context.WithCancel(ctx)
			events, err := w.Subscribe(sub)
			Expect(err).NotTo(HaveOccurred())
			w.Silence(true)
			w.sandbox(ctx, "u1")
			w.Silence(false)
			w.Emit(runtimeiface.Event{Type: runtimeiface.ContainerStopped, PodUID: "u9"})
			Eventually(events).Should(Receive(HaveField("PodUID", "u9")))
			cancel()
			Eventually(events).Should(BeClosed())
		})
	})

	It("gives equal IDs for equal seeds, and a new one to an identity made again", func(ctx SpecContext) {
		one, two := newWorld(), newWorld()
		first := one.sandbox(ctx, "u1")
		Expect(two.sandbox(ctx, "u1")).To(Equal(first))
		Expect(one.RemoveSandbox(ctx, first)).To(Succeed())
		one.ForgetCalls()
		Expect(one.sandbox(ctx, "u1")).NotTo(Equal(first))
	})

	It("loses events of a slow reader, but not a pod's newest", SpecTimeout(10*time.Second), func(ctx SpecContext) {
		w := newWorld()
		sub, cancel := context.WithCancel(ctx)
		events, err := w.Subscribe(sub)
		Expect(err).NotTo(HaveOccurred())
		for range 1500 {
			w.Emit(runtimeiface.Event{Type: runtimeiface.ContainerStarted, PodUID: "noisy"})
		}
		w.Emit(runtimeiface.Event{Type: runtimeiface.ContainerStopped, PodUID: "noisy"})
		w.Emit(runtimeiface.Event{Type: runtimeiface.SandboxStopped, PodUID: "quiet"})
		var got []runtimeiface.Event
		for len(got) == 0 || got[len(got)-1].PodUID != "quiet" {
			select {
			case e := <-events:
				got = append(got, e)
			case <-ctx.Done():
				Fail("the newest event was lost")
			}
		}
		Expect(len(got)).To(BeNumerically("<", 1100))
		Expect(got[len(got)-2].Type).To(Equal(runtimeiface.ContainerStopped))
		cancel()
		Eventually(events).Should(BeClosed())
	})

	It("fails to be made of bad images and a subnet without room", func() {
		_, err := runtimetest.NewFake(runtimetest.FakeConfig{Images: []runtimetest.FakeImage{{Ref: "UPPER"}}})
		Expect(err).To(MatchError(runtimeiface.ErrInvalidImageName))
	})
})
