package runtimetest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	testingclock "k8s.io/utils/clock/testing"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest/testimage"
)

// openMine stands for a third party's runtime.
func openMine(string) (runtimeiface.Runtime, error) { return nil, errors.ErrUnsupported }

// A third party holds its own runtime to every promise, in its own test. It
// needs nothing but the go command: the images are built and served on loopback.
func ExampleCases() {
	_ = func(t *testing.T) { // func TestPromises(t *testing.T)
		dir := t.TempDir()
		rt, err := openMine(dir)
		if err != nil {
			t.Fatal(err)
		}
		subject := runtimetest.Subject{
			Runtime: rt,
			Images:  testimage.Serve(t),
			LogRoot: t.TempDir(),
			Kernel:  os.Geteuid() == 0,
			UserNS:  os.Geteuid() == 0,
			Seccomp: os.Geteuid() == 0,
		}
		subject.Restart = func(context.Context) (runtimeiface.Runtime, error) {
			rt, err := openMine(dir)
			subject.Runtime = rt
			return rt, err
		}
		for _, c := range runtimetest.Cases() {
			if missing := subject.Missing(c); len(missing) > 0 {
				t.Logf("%s is left out: it needs %v", c.Name, missing)
				continue
			}
			t.Run(c.Name, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := c.Run(ctx, subject); err != nil {
					t.Errorf("promise: %s\nseen: %v", c.Promise, err)
				}
			})
		}
	}

	// The same with no framework at all, here on the fake.
	images, offered := runtimetest.FakeImages()
	fake, err := runtimetest.NewFake(runtimetest.FakeConfig{Images: offered, WriteLogs: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	logs, err := os.MkdirTemp("", "logs-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(logs) }()
	subject := runtimetest.Subject{Runtime: fake, Images: images, LogRoot: logs}
	for _, c := range runtimetest.Cases()[:3] {
		fmt.Printf("%s: %v\n", c.Name, c.Run(context.Background(), subject))
	}
	// Output:
	// sandbox/run: <nil>
	// sandbox/same identity: <nil>
	// sandbox/attempts: <nil>
}

// A job that needs ten minutes ends within none.
func ExampleFake() {
	ctx := context.Background()
	clock := testingclock.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	fake, err := runtimetest.NewFake(runtimetest.FakeConfig{
		Clock: clock,
		Images: []runtimetest.FakeImage{{
			Ref: "registry.test/job:1", Present: true,
			Program: runtimetest.Program{Exit: &runtimetest.Exit{After: 10 * time.Minute, Code: 3}},
		}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	img, _ := fake.ImageStatus(ctx, "registry.test/job:1")
	pod, _ := fake.RunSandbox(ctx, runtimeiface.SandboxSpec{Name: "job", Namespace: "default", UID: "u1"})
	id, _ := fake.CreateContainer(ctx, pod, runtimeiface.ContainerSpec{Name: "main", Image: img.ID})
	_ = fake.StartContainer(ctx, id)
	clock.Step(time.Hour)
	c, err := fake.ContainerStatus(ctx, id)
	fmt.Println(c.State, c.ExitCode, c.Reason, c.FinishedAt.Sub(c.StartedAt), err)
	// Output: Exited 3 Error 10m0s <nil>
}

// The answer to the first call is lost, though the sandbox was made.
func ExampleFake_Inject() {
	ctx := context.Background()
	fake, _ := runtimetest.NewFake(runtimetest.FakeConfig{})
	fake.Inject(runtimetest.Fault{
		Op: runtimetest.OpRunSandbox, Times: 1, AfterEffect: true, Err: context.DeadlineExceeded,
	})
	spec := runtimeiface.SandboxSpec{Name: "web", Namespace: "default", UID: "u1"}
	_, err := fake.RunSandbox(ctx, spec)
	fmt.Println(err)
	id, err := fake.RunSandbox(ctx, spec)
	st := fake.State()
	fmt.Println(err, len(st.Sandboxes), st.Sandboxes[0].ID == id)
	// Output:
	// context deadline exceeded
	// <nil> 1 true
}
