package podlifecycle_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

func together(names ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Annotations = map[string]string{podlifecycle.AnnotationStartPolicy: podlifecycle.StartAllOrNothing}
		p.Spec.Containers = nil
		for _, name := range names {
			p.Spec.Containers = append(p.Spec.Containers, container(name, name+":1"))
		}
	}
}

func image(name string) runtimetest.FakeImage { return runtimetest.FakeImage{Ref: name + ":1"} }

// No container starts while the image of another is not there, or another
// cannot be created.
func TestAllOrNothingStartsTogether(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slow := image("slow")
		slow.PullTakes = time.Minute
		r := newRig(t, image("fast"), slow).start()
		r.set(newPod("web", together("fast", "slow")))
		r.pass(50 * time.Second)
		if n := len(r.fake.State().Containers); n != 0 {
			t.Fatalf("%d containers are made before all can be", n)
		}
		if e, err := r.m.Why("default", "web"); err != nil || !strings.Contains(e.String(), podlifecycle.RuleAllOrNothing) {
			t.Errorf("why does not tell: %v %v", e, err)
		}
		r.pass(20 * time.Second)
		r.wantRunning("fast/0", "slow/0")
		r.ready("web", true)
	})
}

func TestAllOrNothingRunsNothingIfOneCannotBeCreated(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, image("a"), image("b"))
		r.fake.Inject(runtimetest.Fault{Op: runtimetest.OpRunContainers, Times: 2, Err: runtimeiface.ErrUnavailable})
		r.start()
		r.set(newPod("web", together("a", "b")))
		r.pass(500 * time.Millisecond)
		pod := r.pod("web")
		for _, s := range pod.Status.ContainerStatuses {
			if s.State.Waiting == nil || s.State.Waiting.Reason != "CreateContainerError" {
				t.Errorf("%s: %+v", s.Name, s.State)
			}
		}
		r.wantRunning()
		r.pass(10 * time.Second)
		r.wantRunning("a/0", "b/0")
	})
}

// Of one that crashes later, only it is restarted.
func TestAllOrNothingRestartsOneAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, image("a"), image("b")).start()
		r.set(newPod("web", together("a", "b")))
		r.settle()
		r.fake.Exit(r.container("a").ID, 3)
		r.pass(time.Second)
		r.wantRunning("a/1", "b/0")
	})
}

func replaced(p *corev1.Pod) {
	p.Annotations = map[string]string{podlifecycle.AnnotationFailurePolicy: podlifecycle.FailureReplacePod}
	p.Spec.InitContainers = []corev1.Container{container("setup", "setup:1")}
	p.Spec.Containers = append(p.Spec.Containers, container("other", "web:1"))
}

var setup = runtimetest.FakeImage{Ref: "setup:1", Program: runtimetest.Program{Exit: &runtimetest.Exit{}}}

// A failure ends the sandbox; the next has another address, runs the init
// containers anew, and waits for the back-off of what failed.
func TestReplacePod(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, setup, runtimetest.FakeImage{Ref: "web:1"}).start()
		r.set(newPod("web", replaced))
		r.pass(time.Second)
		for round, wait := range []time.Duration{0, 10 * time.Second, 20 * time.Second} {
			first := r.container("app")
			r.fake.Exit(first.ID, 3)
			if wait > 0 {
				r.pass(wait - time.Second)
				r.wantRunning()
			}
			r.pass(2 * time.Second)
			now := r.pod("web").Status
			if got := r.container("app"); got.SandboxID == first.SandboxID {
				t.Errorf("round %d: %s runs in the old sandbox", round, got.ID)
			}
			if now.ContainerStatuses[0].RestartCount != int32(round+1) || now.ContainerStatuses[1].RestartCount != int32(round+1) {
				t.Errorf("round %d: %+v", round, now.ContainerStatuses)
			}
			if last := now.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 3 {
				t.Errorf("round %d: the failure is forgotten: %+v", round, now.ContainerStatuses[0])
			}
			if now.InitContainerStatuses[0].RestartCount != int32(round+1) {
				t.Errorf("round %d: setup has not run anew: %+v", round, now.InitContainerStatuses)
			}
			r.ready("web", true)
		}
	})
}

// What ends well, or may not be restarted, replaces nothing.
func TestReplacePodOnlyForFailuresThatRestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, setup, runtimetest.FakeImage{Ref: "web:1"}).start()
		r.set(newPod("web", replaced), newPod("once", replaced, func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
		r.pass(time.Second)
		for _, c := range r.fake.State().Containers {
			if c.Name == "app" {
				code := int32(0)
				if c.Labels[podlifecycle.LabelPodName] == "once" {
					code = 1
				}
				r.fake.Exit(c.ID, code)
			}
		}
		r.pass(time.Minute)
		if n := len(r.fake.State().Sandboxes); n != 2 {
			t.Errorf("%d sandboxes", n)
		}
	})
}
