package podlifecycle_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// A new agent takes over what runs: no restart, the history stays, and what
// ended meanwhile is told with its true code and time.
func TestAgentRestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		pods := []*corev1.Pod{newPod("web"), newPod("dies"), newPod("crashy"),
			newPod("job", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever })}
		r.set(pods...)
		r.settle()
		of := func(pod string) runtimeiface.Container {
			t.Helper()
			var found runtimeiface.Container
			for _, c := range r.fake.State().Containers {
				if c.Labels[podlifecycle.LabelPodName] == pod {
					found = c
				}
			}
			return found
		}
		exit := func(pod string, code int32) {
			t.Helper()
			if err := r.fake.Exit(of(pod).ID, code); err != nil {
				t.Fatal(err)
			}
			r.settle()
		}
		exit("crashy", 1)
		exit("crashy", 1) // now it waits for 10 s
		web := of("web").ID
		start := r.pod("web").Status.StartTime
		r.pass(time.Second)
		r.kill()

		r.pass(time.Second)
		exit("dies", 42)
		exit("job", 7)
		at := time.Now()
		r.pass(2 * time.Second)
		calls := len(r.fake.Calls(runtimetest.OpCreateContainer))
		r.start()
		r.pass(time.Millisecond)
		if len(r.m.Pods()) != 0 || len(r.fake.Calls(runtimetest.OpCreateContainer)) != calls {
			t.Error("something happened before the first set")
		}
		r.set(pods...)
		r.settle()
		if of("web").ID != web || status(r.ready("web", true), "app").RestartCount != 0 {
			t.Error("a running container was restarted")
		}
		if got := r.pod("web").Status.StartTime; !got.Equal(start) {
			t.Errorf("start time %v, was %v", got, start)
		}
		s := status(r.ready("dies", true), "app")
		if ended := s.LastTerminationState.Terminated; s.RestartCount != 1 || ended == nil || ended.ExitCode != 42 || !ended.FinishedAt.Time.Equal(at) {
			t.Errorf("exit meanwhile: %+v", s)
		}
		s = status(r.phase("job", corev1.PodFailed), "app")
		if ended := s.State.Terminated; ended == nil || ended.ExitCode != 7 || !ended.FinishedAt.Time.Equal(at) {
			t.Errorf("exit meanwhile: %+v", s)
		}
		if s := status(r.pod("crashy"), "app"); s.State.Waiting == nil || s.State.Waiting.Reason != "CrashLoopBackOff" || s.RestartCount != 1 {
			t.Errorf("back-off forgotten: %+v", s)
		}
		r.pass(6 * time.Second)
		if s := status(r.pod("crashy"), "app"); s.RestartCount != 2 || s.State.Running == nil {
			t.Errorf("back-off not resumed: %+v", s)
		}
		if e, err := r.m.Why("default", "crashy"); err != nil || len(e.Records) < 4 || e.Records[0].Time.After(at) {
			t.Errorf("decisions of the earlier agent are gone: %+v", e.Records)
		}
	})
}

// What nobody wants after a restart ends gracefully, with or without the
// journal; what another agent made is left alone.
func TestOrphansEnd(t *testing.T) {
	for _, lost := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			r := newRig(t, lingers).start()
			r.set(newPod("stays"), newPod("leaves"))
			r.settle()
			r.stop()
			if lost {
				if err := os.Remove(filepath.Join(r.root, "journal")); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := r.fake.RunSandbox(t.Context(), runtimeiface.SandboxSpec{Name: "foreign", Namespace: "x", UID: "y",
				Labels: map[string]string{podlifecycle.LabelAgent: "another"}, LogDirectory: r.root}); err != nil {
				t.Fatal(err)
			}
			r.start()
			r.set(newPod("stays"))
			r.pass(time.Second)
			if e, err := r.m.Why("default", "leaves"); err != nil || len(r.running()) != 2 {
				t.Fatalf("not ending gracefully: %v, running %v: %v", err, r.running(), e)
			}
			r.pass(6 * time.Second)
			st := r.fake.State()
			if len(st.Containers) != 1 || len(st.Sandboxes) != 2 || len(r.m.Pods()) != 1 {
				t.Errorf("left %+v", st)
			}
			r.ready("stays", true)
		})
	}
}

// Nothing ends for its absence until every source has spoken; what takes
// another's place does not wait for that.
func TestPodsStayUntilEverySourceHasSpoken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		r.set(newPod("web"), newPod("late"), newPod("gone"))
		r.settle()
		r.stop()
		r.start()
		other := newPod("web")
		other.UID = "uid-of-the-edited-manifest"
		r.m.Set(source.Set{Pods: []*corev1.Pod{other}, Waiting: []string{"api"}})
		r.pass(time.Minute)
		r.ready("web", true)
		r.ready("late", true)
		r.ready("gone", true)
		if pod := r.pod("web"); pod.UID != other.UID {
			t.Errorf("the edited pod does not run, but %s", pod.UID)
		}
		r.m.Set(source.Set{Pods: []*corev1.Pod{other, newPod("late")}})
		r.pass(time.Minute)
		r.ready("late", true)
		if n := len(r.m.Pods()); n != 2 {
			t.Errorf("%d pods are left, not 2", n)
		}
	})
}

// A pod whose file cannot be read at the restart stays.
func TestPodsOfBrokenFilesStay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		pod := newPod("web", func(p *corev1.Pod) { p.Annotations = map[string]string{source.AnnotationFile: "web.yaml"} })
		r.set(pod, newPod("other"))
		r.settle()
		r.kill()
		r.start()
		r.m.Set(source.Set{Broken: []string{"web.yaml"}})
		r.pass(time.Minute)
		r.ready("web", true)
		if names := r.running(); len(names) != 1 {
			t.Errorf("running %v", names)
		}
		if err := r.fake.Exit(r.container("app").ID, 1); err != nil {
			t.Fatal(err)
		}
		r.settle()
		r.wantRunning("app/1")
	})
}

// The end of the agent is not the end of its pods, and an end that had begun
// goes on with the grace that is left.
func TestEndingGoesOnAfterRestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, runtimetest.FakeImage{Ref: "web:1", Present: true, Program: runtimetest.Program{IgnoreStop: true}}).start()
		pod := newPod("web")
		r.set(pod)
		r.settle()
		r.set()
		r.pass(10 * time.Second)
		r.kill()
		r.start()
		r.set(pod) // wanted again, with the same UID
		r.pass(19 * time.Second)
		r.wantRunning("app/0")
		old := r.container("app").ID
		r.pass(2 * time.Second)
		r.wantRunning("app/0")
		if r.container("app").ID == old {
			t.Error("the old one goes on")
		}
	})
}

// Deletion with no grace kills at once, also when an end is under way.
func TestGraceOnlyShrinks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, runtimetest.FakeImage{Ref: "web:1", Present: true, Program: runtimetest.Program{IgnoreStop: true}}).start()
		r.set(newPod("web"))
		r.settle()
		leaving := func(grace int64) *corev1.Pod {
			return newPod("web", func(p *corev1.Pod) {
				now := r.pod("web").CreationTimestamp
				p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, &grace
			})
		}
		r.set(leaving(20))
		r.pass(time.Second)
		r.set(leaving(60)) // longer counts for nothing
		r.pass(time.Second)
		r.wantRunning("app/0")
		r.set(leaving(0))
		r.settle()
		r.wantRunning()
		graces := []time.Duration{}
		for _, c := range r.fake.Calls(runtimetest.OpStopContainer) {
			graces = append(graces, c.Grace)
		}
		if !slices.Equal(graces, []time.Duration{20 * time.Second, 0}) {
			t.Errorf("stop calls with grace %v", graces)
		}
	})
}

// A sandbox that dies is replaced, with everything in it, and counted on.
func TestSandboxReplaced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		r.set(newPod("web"), newPod("job", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
		r.settle()
		for _, s := range r.fake.State().Sandboxes {
			if err := r.fake.KillShim(s.ID); err != nil {
				t.Fatal(err)
			}
		}
		r.pass(time.Second)
		s := status(r.ready("web", true), "app")
		if s.RestartCount != 1 || s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.ExitCode != 137 {
			t.Errorf("status %+v", s)
		}
		r.phase("job", corev1.PodFailed)
		if err := r.fake.Exit(r.container("app").ID, 0); err != nil {
			t.Fatal(err)
		}
		r.pass(time.Minute)
		for _, s := range r.fake.State().Sandboxes {
			if s.Name == "web" && s.Attempt == 0 {
				t.Errorf("the dead sandbox is kept: %+v", s)
			}
		}
	})
}

// While the runtime does not answer nothing is decided; then all goes on.
func TestRuntimeAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		r.fake.Inject(runtimetest.Fault{Err: runtimeiface.ErrUnavailable})
		r.start()
		r.set(newPod("web"))
		r.pass(time.Minute)
		r.fake.ClearFaults()
		r.pass(10 * time.Second)
		r.ready("web", true)
		r.fake.Inject(runtimetest.Fault{Err: runtimeiface.ErrUnavailable})
		r.pass(time.Minute)
		r.ready("web", true)
		r.fake.ClearFaults()
		if err := r.fake.Exit(r.container("app").ID, 1); err != nil {
			t.Fatal(err)
		}
		r.pass(10 * time.Second)
		r.wantRunning("app/1")
	})
}
