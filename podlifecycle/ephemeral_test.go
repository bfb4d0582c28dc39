package podlifecycle_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// targetRuntime remembers whose processes containers see.
type targetRuntime struct {
	*runtimetest.Fake
	mu      sync.Mutex
	targets map[string]string // container ID by name
}

func (r *targetRuntime) CreateContainer(ctx context.Context, sandbox string, spec runtimeiface.ContainerSpec) (string, error) {
	r.mu.Lock()
	r.targets[spec.Name] = spec.PIDTarget
	r.mu.Unlock()
	return r.Fake.CreateContainer(ctx, sandbox, spec)
}

func debugged(name, target, image string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, corev1.EphemeralContainer{
			TargetContainerName:      target,
			EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: name, Image: image, ImagePullPolicy: corev1.PullIfNotPresent},
		})
	}
}

// An ephemeral container joins a running pod, sees its target's processes, runs
// once, and changes nothing else: not across its end, restarts of its target and
// of the agent, nor a restart of all containers.
func TestEphemeralContainers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, append(simImages(), runtimetest.FakeImage{Ref: "tool:1"})...)
		rt := &targetRuntime{Fake: r.fake, targets: map[string]string{}}
		r.tune = func(c *podlifecycle.Config) { c.Runtime = rt }
		r.start()
		rules := func(p *corev1.Pod) {
			always := corev1.ContainerRestartPolicyAlways
			p.Spec.Containers[0].RestartPolicy, p.Spec.Containers[0].RestartPolicyRules = &always, allOn(42)
		}
		r.set(newPod("web", rules))
		r.pass(10 * time.Second)
		r.wantRunning("app/0")
		app := r.container("app").ID

		pod := newPod("web", rules, debugged("debug", "app", "tool:1"), debugged("late", "gone", "tool:1"))
		r.set(pod)
		r.pass(10 * time.Second)
		r.wantRunning("app/0", "debug/0")
		if rt.targets["debug"] != app {
			t.Errorf("target %q, want %q", rt.targets["debug"], app)
		}
		got := r.ready("web", true).Status.EphemeralContainerStatuses
		if len(got) != 2 || got[0].State.Running == nil || got[0].Ready || got[0].Started != nil || got[1].State.Waiting == nil {
			t.Errorf("statuses %+v", got)
		}
		r.wantEvents("web", "Normal Started spec.ephemeralContainers{debug} x1", "Normal Started spec.containers{app} x1")
		if why := r.why("web"); !strings.Contains(why, "container gone, whose processes it is to see, does not run") {
			t.Errorf("why:\n%s", why)
		}
		if code, err := r.m.Exec(t.Context(), "default", "web", "debug", runtimeiface.ExecSpec{Command: []string{"ls"}}); code != 0 || err != nil {
			t.Errorf("exec: %d, %v", code, err)
		}
		if err := r.fake.Exit(app, 1); err != nil { // its target is restarted
			t.Fatal(err)
		}
		r.pass(time.Second)
		r.wantRunning("app/1", "debug/0")
		if err := r.fake.Exit(r.container("app").ID, 42); err != nil { // all are, but for it
			t.Fatal(err)
		}
		r.pass(10 * time.Second)
		r.wantRunning("app/2", "debug/0")
		if err := r.fake.Exit(r.container("debug").ID, 3); err != nil {
			t.Fatal(err)
		}
		r.pass(time.Minute)
		r.wantRunning("app/2")
		r.kill()
		r.start()
		r.set(pod)
		r.pass(time.Minute)
		r.wantRunning("app/2")
		s := r.ready("web", true).Status.EphemeralContainerStatuses[0]
		if end := s.State.Terminated; end == nil || end.ExitCode != 3 || s.RestartCount != 0 {
			t.Errorf("status %+v", s)
		}
		for _, s := range r.fake.State().Sandboxes { // its sandbox is lost, and its end with it
			if err := r.fake.StopSandbox(t.Context(), s.ID); err != nil {
				t.Fatal(err)
			}
		}
		r.pass(time.Minute)
		r.wantRunning("app/3")
		r.set()
		r.pass(time.Minute)
		if st := r.fake.State(); len(st.Containers)+len(st.Sandboxes) != 0 {
			t.Errorf("left %+v", st)
		}
	})
}

// A pod is over when its own containers are, whatever an ephemeral one does.
func TestEphemeralContainersDoNotKeepAPod(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, append(simImages(), runtimetest.FakeImage{Ref: "tool:1"})...).start()
		r.set(newPod("job", func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			p.Spec.Containers[0].Image = "job:1"
			p.Spec.InitContainers = []corev1.Container{container("stuck", "web:1")}
		}, debugged("debug", "", "tool:1")))
		r.pass(10 * time.Second)
		r.wantRunning("debug/0", "stuck/0") // it does not wait for init containers
		if err := r.fake.Exit(r.container("stuck").ID, 0); err != nil {
			t.Fatal(err)
		}
		r.pass(3 * time.Minute)
		r.phase("job", corev1.PodSucceeded)
		r.wantRunning()
	})
}
