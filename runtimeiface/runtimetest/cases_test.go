package runtimetest_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// fakeSubject is a fake that can be held to every promise but a kernel's.
func fakeSubject(t *testing.T) (*runtimetest.Fake, runtimetest.Subject) {
	t.Helper()
	refs, images := runtimetest.FakeImages()
	fake, err := runtimetest.NewFake(runtimetest.FakeConfig{Images: images, WriteLogs: true})
	if err != nil {
		t.Fatal(err)
	}
	return fake, runtimetest.Subject{
		Runtime: fake, Images: refs, LogRoot: t.TempDir(),
		Restart: func(context.Context) (runtimeiface.Runtime, error) {
			fake.LoseEvents()
			return fake, nil
		},
		RestartDaemon: func(context.Context) error {
			fake.LoseEvents()
			fake.Inject(runtimetest.Fault{Err: runtimeiface.ErrUnavailable, Times: 3})
			return nil
		},
		KillKeeper: func(_ context.Context, id string) error { return fake.KillShim(id) },
	}
}

// Inside a bubble the real clock is simulated: hours pass at once, and a
// goroutine left behind is a failure. Only what needs a kernel is left out.
func TestFakeKeepsThePromises(t *testing.T) {
	for _, c := range runtimetest.Cases() {
		if slices.Contains(c.Needs, runtimetest.Kernel) {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake, subject := fakeSubject(t)
				if missing := subject.Missing(c); len(missing) > 0 {
					t.Fatalf("the fake lacks %v", missing)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := c.Run(ctx, subject); err != nil {
					t.Fatalf("promise: %s\nseen: %v", c.Promise, err)
				}
				if left := fake.State(); len(left.Sandboxes)+len(left.Containers) > 0 {
					t.Errorf("the case left %+v", left)
				}
			})
		})
	}
}

func TestCasesAreNamed(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range runtimetest.Cases() {
		if seen[c.Name] || c.Name == "" || c.Promise == "" || c.Run == nil {
			t.Errorf("case %q is twice there or not whole", c.Name)
		}
		seen[c.Name] = true
	}
}
