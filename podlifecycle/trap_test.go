package podlifecycle_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// The twelve traps of the kubelet's history, each with a test that fails once
// the guard is taken out.

// Running pods of an earlier agent are admitted first; terminal ones do not count.
func TestTrap1RestartReadmission(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		port := func(number int32) func(*corev1.Pod) {
			return func(p *corev1.Pod) {
				p.Spec.RestartPolicy = corev1.RestartPolicyNever
				p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: number}}
			}
		}
		runs, done := newPod("zz-runs", port(8080)), newPod("done", port(9090))
		r.set(runs, done)
		r.settle()
		for _, c := range r.fake.State().Containers {
			if c.Labels[podlifecycle.LabelPodName] == "done" {
				if err := r.fake.Exit(c.ID, 0); err != nil {
					t.Fatal(err)
				}
			}
		}
		r.settle()
		r.phase("done", corev1.PodSucceeded)
		r.kill()

		r.start()
		// The newcomers come first in the set, and by name.
		r.set(newPod("a-late", port(8080)), newPod("b-next", port(9090)), done, runs)
		r.settle()
		r.ready("zz-runs", true)
		r.phase("done", corev1.PodSucceeded)
		r.ready("b-next", true)
		if pod := r.phase("a-late", corev1.PodPending); pod.Status.Reason != "NodePorts" {
			t.Errorf("reason %q", pod.Status.Reason)
		}
	})
}

var lingers = runtimetest.FakeImage{Ref: "web:1", Present: true, Program: runtimetest.Program{StopTakes: 5 * time.Second}}

// A pod created again, with the same UID or the same name, starts after the old one is gone.
func TestTrap2RecreatedPodWaits(t *testing.T) {
	for name, uid := range map[string]string{"same UID": "uid-web", "same name": "uid-other"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, lingers).start()
				r.set(newPod("web"))
				r.settle()
				old := r.container("app").ID
				again := newPod("web")
				again.UID = types.UID(uid)
				r.set()
				r.pass(time.Second)
				r.set(again)
				for range 39 {
					r.pass(100 * time.Millisecond)
					if n := len(r.fake.State().Sandboxes); n != 1 || len(r.running()) != 1 {
						t.Fatalf("%d sandboxes, running %v: old and new at once", n, r.running())
					}
				}
				r.pass(time.Second)
				r.wantRunning("app/0")
				if got := r.container("app"); got.ID == old || got.Labels[podlifecycle.LabelPodUID] != string(again.UID) {
					t.Errorf("still the old one: %+v", got)
				}
				r.ready("web", true)
			})
		})
	}
}

// A call that times out and yet has its effect never makes a second instance.
func TestTrap3NoDuplicateAfterTimeout(t *testing.T) {
	for _, op := range []runtimetest.Op{runtimetest.OpRunSandbox, runtimetest.OpCreateContainer, runtimetest.OpStartContainer} {
		for _, hang := range []bool{true, false} {
			t.Run(string(op), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t)
					r.fake.Inject(runtimetest.Fault{Op: op, Times: 1, Hang: hang, Err: context.DeadlineExceeded, AfterEffect: true})
					r.start()
					r.set(newPod("web"))
					r.pass(5 * time.Minute)
					r.ready("web", true)
					if st := r.fake.State(); len(st.Sandboxes) != 1 || len(st.Containers) != 1 || st.Containers[0].Attempt != 0 {
						t.Errorf("made more than once: %+v", st)
					}
				})
			})
		}
	}
	t.Run("a stale view", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t)
			stale := &staleRuntime{Fake: r.fake, until: time.Now().Add(10 * time.Second)}
			r.tune = func(c *podlifecycle.Config) { c.Runtime = stale }
			r.start()
			r.set(newPod("web"))
			r.pass(20 * time.Second)
			r.ready("web", true)
			if st := r.fake.State(); len(st.Sandboxes) != 1 || len(st.Containers) != 1 {
				t.Errorf("made more than once: %+v", st)
			}
			if n := len(r.fake.Calls(runtimetest.OpRunSandbox)); n > 12 {
				t.Errorf("%d calls within 10 s", n)
			}
		})
	})
	t.Run("a running instance is found first", func(t *testing.T) {
		now := time.Now()
		box := runtimeiface.Sandbox{ID: "s", State: runtimeiface.SandboxReady, IPs: anIP}
		list := []runtimeiface.Container{
			{ID: "dead", SandboxID: "s", Name: "app", Attempt: 7, State: runtimeiface.ContainerExited, FinishedAt: now},
			{ID: "runs", SandboxID: "s", Name: "app", Attempt: 3, State: runtimeiface.ContainerRunning, StartedAt: now},
		}
		d := podlifecycle.Plan(newPod("web"), podlifecycle.Observed{Prepared: true, Sandboxes: []runtimeiface.Sandbox{box}, Containers: list}, now)
		for _, a := range d.Actions {
			if a.Type == podlifecycle.ActionCreate || a.Type == podlifecycle.ActionPull || a.Type == podlifecycle.ActionKill {
				t.Errorf("action %+v", a)
			}
		}
	})
}

// Init containers run once in a sandbox, and again after a reboot.
func TestTrap4InitContainersOncePerSandbox(t *testing.T) {
	bubble(t, func(t *testing.T) {
		quick := runtimetest.FakeImage{Ref: "job:1", Present: true, Program: runtimetest.Program{Exit: &runtimetest.Exit{}}}
		r := newRig(t, quick, runtimetest.FakeImage{Ref: "web:1", Present: true}).start()
		r.set(newPod("web", func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{container("init", "job:1")} }))
		r.settle()
		r.wantRunning("app/0")
		// Somebody prunes the dead container, and the main one restarts.
		if err := r.fake.RemoveContainer(context.Background(), r.container("init").ID); err != nil {
			t.Fatal(err)
		}
		if err := r.fake.Exit(r.container("app").ID, 1); err != nil {
			t.Fatal(err)
		}
		r.settle()
		r.wantRunning("app/1")
		r.stop()
		r.start()
		r.set(newPod("web", func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{container("init", "job:1")} }))
		r.pass(time.Minute)
		starts := func(name string) (n int) {
			for _, c := range r.fake.Calls(runtimetest.OpCreateContainer) {
				if c.Container == name {
					n++
				}
			}
			return n
		}
		if n := starts("init"); n != 1 {
			t.Errorf("the init container ran %d times", n)
		}
		r.stop()
		r.fake.Reboot(true)
		r.start()
		r.set(newPod("web", func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{container("init", "job:1")} }))
		r.pass(time.Minute)
		if n := starts("init"); n != 2 {
			t.Errorf("after the reboot the init container ran %d times in all", n)
		}
		if s := status(r.ready("web", true), "app"); s.RestartCount != 2 || s.LastTerminationState.Terminated == nil ||
			s.LastTerminationState.Terminated.Reason != runtimeiface.ReasonUnknown {
			t.Errorf("status after the reboot: %+v", s)
		}
	})
}

func probed(p *corev1.Pod) {
	p.Spec.InitContainers = []corev1.Container{sidecar("proxy", "web:1")}
	p.Spec.InitContainers[0].StartupProbe = execProbe("proxy-up")
	p.Spec.Containers[0].ReadinessProbe = execProbe("app-ready")
}

// Probe state survives a restart of the agent: no false NotReady, no false
// Ready, and a sidecar's startup result is not lost.
func TestTrap5ProbeStateSurvivesRestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		r.set(newPod("web", probed), newPod("sick", func(p *corev1.Pod) {
			p.Spec.Containers[0].ReadinessProbe = execProbe("sick-ready")
		}))
		r.prober.breaks("sick-ready", true)
		r.pass(time.Minute)
		r.ready("web", true)
		r.ready("sick", false)
		r.kill()
		r.mu.Lock()
		r.statuses = nil
		r.mu.Unlock()
		// The startup probe would fail now: it must not be asked again.
		r.prober.breaks("proxy-up", true)
		r.start()
		r.set(newPod("web", probed), newPod("sick", func(p *corev1.Pod) {
			p.Spec.Containers[0].ReadinessProbe = execProbe("sick-ready")
		}))
		r.pass(time.Minute)
		r.ready("web", true)
		r.ready("sick", false)
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, pod := range r.statuses {
			if got, want := isReady(pod), pod.Name == "web"; got != want {
				t.Errorf("%s was reported ready: %v at some time after the restart", pod.Name, got)
			}
		}
		if s := status(r.pod("web"), "proxy"); s.Started == nil || !*s.Started || s.RestartCount != 0 {
			t.Errorf("sidecar %+v", s)
		}
	})
}

// The final status holds true exit codes and is stored before anything is removed.
func TestTrap6TerminalStatus(t *testing.T) {
	t.Run("exit code 0 after the stop signal stays 0", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			zero := int32(0)
			r := newRig(t, runtimetest.FakeImage{Ref: "web:1", Present: true, Program: runtimetest.Program{StopTakes: time.Second, StopCode: &zero}}).start()
			r.set(newPod("web"))
			r.settle()
			r.set()
			r.pass(2 * time.Second)
			r.mu.Lock()
			defer r.mu.Unlock()
			last := r.statuses[len(r.statuses)-1]
			if s := status(last, "app"); last.Status.Phase != corev1.PodSucceeded || s.State.Terminated == nil || s.State.Terminated.ExitCode != 0 {
				t.Errorf("last status: %s, %+v", last.Status.Phase, s)
			}
		})
	})
	t.Run("nothing is removed before the status is stored", func(t *testing.T) {
		now := time.Now()
		o := podlifecycle.Observed{Prepared: true, Ending: &podlifecycle.Ending{Reason: podlifecycle.EndingDeleted, Since: now, Forget: true},
			Sandboxes: []runtimeiface.Sandbox{{ID: "s", State: runtimeiface.SandboxNotReady}}}
		d := podlifecycle.Plan(newPod("web"), o, now)
		if len(d.Actions) != 1 || d.Actions[0].Type != podlifecycle.ActionPersist {
			t.Errorf("actions %+v", d.Actions)
		}
	})
	t.Run("a phase never goes back, whatever is lost", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			job := newPod("job", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever })
			r := newRig(t).start()
			r.set(job)
			r.settle()
			if err := r.fake.Exit(r.container("app").ID, 0); err != nil {
				t.Fatal(err)
			}
			r.settle()
			r.phase("job", corev1.PodSucceeded)
			r.kill()
			r.fake.Reboot(true)
			r.start()
			r.set(job)
			r.pass(time.Minute)
			pod := r.phase("job", corev1.PodSucceeded)
			if s := status(pod, "app"); s.State.Terminated == nil || s.State.Terminated.ExitCode != 0 {
				t.Errorf("status %+v", s)
			}
			r.wantRunning()
		})
	})
}

// Another version of the hash restarts nothing, and fields outside the list
// do not enter it.
func TestTrap7HashVersion(t *testing.T) {
	c := container("app", "web:1")
	if got, want := podlifecycle.ContainerHash(&c), "v1:541258d72614f912"; got != want {
		t.Errorf("hash %s, want %s: it must never change under the same version", got, want)
	}
	other := c
	other.Env = []corev1.EnvVar{{Name: "A", Value: "b"}}
	if podlifecycle.ContainerHash(&other) != podlifecycle.ContainerHash(&c) {
		t.Error("a field that cannot change in place is hashed")
	}
	now := time.Now()
	for hash, want := range map[string]bool{"v0:1234": false, "": false, "v2:ffff": false, "v1:0000": true} {
		o := podlifecycle.Observed{Prepared: true, Sandboxes: []runtimeiface.Sandbox{{ID: "s", State: runtimeiface.SandboxReady, IPs: anIP}},
			Containers: []runtimeiface.Container{{ID: "c", SandboxID: "s", Name: "app", State: runtimeiface.ContainerRunning,
				Annotations: map[string]string{podlifecycle.AnnotationHash: hash}}}}
		d := podlifecycle.Plan(newPod("web"), o, now)
		killed := slices.ContainsFunc(d.Actions, func(a podlifecycle.Action) bool { return a.Type == podlifecycle.ActionKill })
		if killed != want {
			t.Errorf("hash %q: killed %v, want %v", hash, killed, want)
		}
	}
}

// While a volume cannot be torn down, the pod is not forgotten, and nothing
// of it is removed by other ways.
func TestTrap8NothingIsRemovedAcrossAMount(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		r.set(newPod("web"))
		r.settle()
		data := filepath.Join(r.volumes.PodDir("uid-web"), "data")
		if err := os.WriteFile(data, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		r.volumes.fail(errors.New("still mounted"))
		r.set()
		r.pass(time.Minute)
		if _, err := os.Stat(data); err != nil {
			t.Errorf("data is gone: %v", err)
		}
		if !strings.Contains(r.why("web"), "still mounted") {
			t.Errorf("why does not tell:\n%s", r.why("web"))
		}
		r.volumes.fail(nil)
		r.pass(time.Minute)
		if pods := r.m.Pods(); len(pods) != 0 {
			t.Errorf("still there: %v", pods)
		}
	})
}
