package podlifecycle_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/probe"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// Events are hints: wrong ones change nothing, lost ones cost only time.
func TestTrap9EventsAreHints(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		r.set(newPod("web"))
		r.settle()
		id := r.container("app").ID
		for _, kind := range []runtimeiface.EventType{runtimeiface.ContainerStopped, runtimeiface.ContainerRemoved, runtimeiface.SandboxStopped, runtimeiface.SandboxRemoved} {
			r.fake.Emit(runtimeiface.Event{Type: kind, PodUID: "uid-web", ContainerID: id, SandboxID: r.container("app").SandboxID})
			r.settle()
		}
		r.ready("web", true)
		if got := r.container("app"); got.ID != id || got.State != runtimeiface.ContainerRunning {
			t.Errorf("an event was believed: %+v", got)
		}
		r.fake.Silence(true)
		if err := r.fake.Exit(id, 1); err != nil {
			t.Fatal(err)
		}
		r.pass(10 * time.Second)
		r.wantRunning("app/1")
		r.fake.Silence(false)
		r.fake.LoseEvents()
		r.pass(time.Second)
		r.pass(time.Second)
		if err := r.fake.Exit(r.container("app").ID, 1); err != nil {
			t.Fatal(err)
		}
		r.settle()
		if s := status(r.pod("web"), "app"); s.State.Waiting == nil || s.State.Waiting.Reason != "CrashLoopBackOff" {
			t.Errorf("events do not come any more after the break: %+v", s)
		}
	})
}

// Sidecars outlive the containers that need them, and the statuses reported
// while the agent shuts down are those of a pod that ends, in order.
func TestTrap10TerminationOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, lingers).start()
		pod := newPod("web", func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{sidecar("proxy", "web:1")} })
		r.set(pod)
		r.settle()
		r.set()
		r.pass(time.Second)
		r.kill() // in the midst of it
		r.pass(time.Second)
		r.wantRunning("app/0", "proxy/0")
		r.start()
		r.set()
		r.pass(3500 * time.Millisecond)
		r.wantRunning("proxy/0")
		r.pass(6 * time.Second)
		r.wantRunning()
		r.mu.Lock()
		defer r.mu.Unlock()
		last := r.statuses[len(r.statuses)-1]
		if !(last.Status.Phase == corev1.PodFailed) || status(last, "proxy").State.Terminated == nil || status(last, "app").State.Terminated == nil {
			t.Errorf("last status %+v", last.Status)
		}
		before := corev1.PodPending
		for _, p := range r.statuses {
			if before == corev1.PodFailed && p.Status.Phase != corev1.PodFailed {
				t.Errorf("phase %s after %s", p.Status.Phase, before)
			}
			before = p.Status.Phase
		}
	})
}

// A clock set back by hours neither stops restarts nor probes.
func TestTrap11ClockSetBack(t *testing.T) {
	exit := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	now := exit.Add(-5 * time.Hour) // set back since
	app := container("app", "web:1")
	o := podlifecycle.Observed{
		Prepared:  true,
		Sandboxes: []runtimeiface.Sandbox{{ID: "s", State: runtimeiface.SandboxReady, IPs: anIP}},
		Containers: []runtimeiface.Container{{ID: "c", SandboxID: "s", Name: "app", Attempt: 1, State: runtimeiface.ContainerExited, ExitCode: 1,
			StartedAt: exit.Add(-time.Second), FinishedAt: exit,
			Annotations: map[string]string{podlifecycle.AnnotationHash: podlifecycle.ContainerHash(&app), podlifecycle.AnnotationLevel: "1"}}},
		Images: map[string]podlifecycle.Image{"app": {Ref: "web:1", ID: "sha256:1"}},
	}
	o.ExitedFor = map[string]time.Duration{"c": 4 * time.Second}
	d := podlifecycle.Plan(newPod("web"), o, now)
	if d.Next == nil || d.Next.At.Sub(now) != 6*time.Second {
		t.Errorf("next %+v, want the rest of 10 s", d.Next)
	}
	o.ExitedFor["c"] = 10 * time.Second
	if d := podlifecycle.Plan(newPod("web"), o, now); len(d.Actions) != 1 || d.Actions[0].Type != podlifecycle.ActionCreate {
		t.Errorf("actions %+v", d.Actions)
	}
	// A container from the future is ready as its probe says.
	o.Containers[0].State, o.Containers[0].StartedAt = runtimeiface.ContainerRunning, exit
	ready := newPod("web", func(p *corev1.Pod) { p.Spec.Containers[0].ReadinessProbe = execProbe("x") })
	o.Verdicts = map[string]podlifecycle.Verdicts{"c": {Readiness: probe.Success}}
	if d := podlifecycle.Plan(ready, o, now); !d.Status.ContainerStatuses[0].Ready {
		t.Errorf("status %+v", d.Status.ContainerStatuses)
	}
	// A status that is older than the clock is replaced all the same.
	o.Prior.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Time{Time: exit}}}
	if d := podlifecycle.Plan(ready, o, now); !isReady(&corev1.Pod{Status: d.Status}) {
		t.Errorf("conditions %+v", d.Status.Conditions)
	}
}

// A journal with any byte damaged, or none at all, costs a record at most:
// no panic, no restart, no duplicate.
func TestTrap12CorruptJournal(t *testing.T) {
	damages := map[string]func([]byte) []byte{
		"a byte in the middle": func(b []byte) []byte { b[len(b)/2] ^= 0xff; return b },
		"the first byte":       func(b []byte) []byte { b[0] ^= 1; return b },
		"the last byte":        func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"cut in half":          func(b []byte) []byte { return b[:len(b)/2] },
		"empty":                func([]byte) []byte { return nil },
		"garbage":              func(b []byte) []byte { return bytes.Repeat([]byte{0xa5}, len(b)) },
		"zeros":                func(b []byte) []byte { return make([]byte, len(b)) },
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t).start()
				pods := []*corev1.Pod{newPod("a"), newPod("b"), newPod("c")}
				r.set(pods...)
				r.pass(time.Minute)
				r.stop()
				path := filepath.Join(r.root, "journal")
				text, err := os.ReadFile(path)
				if err != nil || len(text) == 0 {
					t.Fatalf("journal of %d bytes, %v", len(text), err)
				}
				if err := os.WriteFile(path, damage(text), 0o600); err != nil {
					t.Fatal(err)
				}
				before := r.fake.State().Containers
				r.start()
				r.m.Set(source.Set{Pods: pods[:2]})
				r.pass(time.Minute)
				r.ready("a", true)
				r.ready("b", true)
				after := r.fake.State().Containers
				if len(after) != 2 {
					t.Fatalf("containers %+v", after)
				}
				for _, c := range after {
					if !slices.ContainsFunc(before, func(old runtimeiface.Container) bool { return old.ID == c.ID }) {
						t.Errorf("restarted: %+v", c)
					}
				}
			})
		})
	}
}

// What the first set does not name lives on while a source has not spoken
// (kubernetes#112814), and so does its successor's turn not come.
func TestTrap13SourceNotReady(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		r.set(newPod("web"), newPod("other"))
		r.settle()
		before := r.fake.State().Containers
		r.kill()
		r.start()
		r.m.Set(source.Set{Pods: []*corev1.Pod{newPod("other")}, Waiting: []string{"late"}})
		r.pass(time.Minute)
		if after := r.fake.State().Containers; len(after) != 2 || after[0].ID != before[0].ID || after[0].State != runtimeiface.ContainerRunning {
			t.Fatalf("a pod of the late source was touched: %+v", after)
		}
		r.set(newPod("other"))
		r.pass(time.Minute)
		r.wantRunning("app/0")
	})
}

// The grace of a pod that ends only shrinks: neither a later request nor
// another agent, on a clock that was set back, makes it longer.
func TestTrap14GraceOnlyShrinks(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	quick := &podlifecycle.Ending{Reason: podlifecycle.EndingDeleted, Since: now, Grace: 5 * time.Second, Forget: true}
	merged := quick.Merge(podlifecycle.Ending{Reason: podlifecycle.EndingStopped, Since: now.Add(time.Second), Grace: time.Hour, Forget: true})
	if merged.Grace != 5*time.Second || !merged.Since.Equal(now) {
		t.Errorf("merged %+v", merged)
	}
	bubble(t, func(t *testing.T) {
		deaf := runtimetest.FakeImage{Ref: "web:1", Present: true, Program: runtimetest.Program{IgnoreStop: true}}
		r := newRig(t, deaf)
		clock := &settable{}
		r.tune = func(c *podlifecycle.Config) { c.Clock = clock }
		r.start()
		r.set(newPod("web"))
		r.settle()
		r.set()
		r.pass(10 * time.Second)
		r.kill()
		clock.ahead.Store(-7200)
		r.start()
		r.set()
		r.pass(31 * time.Second)
		r.wantRunning()
		for _, call := range r.fake.Calls(runtimetest.OpStopContainer) {
			if call.Grace > 30*time.Second {
				t.Errorf("a grace of %v", call.Grace)
			}
		}
	})
}

// What was told survives a crash: nobody has heard of an end, or of a restart,
// that the next agent does not know of.
func TestTrap15ToldIsKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		kept := map[corev1.PodPhase]bool{}
		r.tune = func(c *podlifecycle.Config) {
			c.OnStatus = func(pod *corev1.Pod) {
				text, err := os.ReadFile(filepath.Join(r.root, "journal"))
				if err != nil {
					t.Error(err)
				}
				kept[pod.Status.Phase] = bytes.Contains(text, []byte(`"phase":"`+pod.Status.Phase+`"`))
			}
		}
		r.start()
		r.set(newPod("job", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
		r.settle()
		if err := r.fake.Exit(r.container("app").ID, 0); err != nil {
			t.Fatal(err)
		}
		r.settle()
		for _, phase := range []corev1.PodPhase{corev1.PodPending, corev1.PodRunning, corev1.PodSucceeded} {
			if !kept[phase] {
				t.Errorf("%s was told before it was kept", phase)
			}
		}
	})
}

// A container that still runs in an older sandbox ends before another instance
// of it is begun in the new one.
func TestTrap16OldSandboxFirst(t *testing.T) {
	now := time.Now()
	boxes := []runtimeiface.Sandbox{{ID: "old", State: runtimeiface.SandboxNotReady}, {ID: "new", Attempt: 1, State: runtimeiface.SandboxReady, IPs: anIP}}
	list := []runtimeiface.Container{{ID: "runs", SandboxID: "old", Name: "app", State: runtimeiface.ContainerUnknown, StartedAt: now}}
	o := podlifecycle.Observed{Prepared: true, Sandboxes: boxes, Containers: list,
		Images: map[string]podlifecycle.Image{"app": {Ref: "web:1", ID: "sha256:1"}}}
	for _, a := range podlifecycle.Plan(newPod("web"), o, now).Actions {
		if a.Type == podlifecycle.ActionCreate {
			t.Errorf("action %+v", a)
		}
	}
	list[0].State = runtimeiface.ContainerRunning
	if d := podlifecycle.Plan(newPod("web"), o, now); len(d.Actions) != 1 || d.Actions[0].Type != podlifecycle.ActionKill {
		t.Errorf("actions %+v, want the end of the old one", d.Actions)
	}
}
