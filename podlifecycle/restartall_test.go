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

// allOn restarts all containers on an exit code.
func allOn(code int32) []corev1.ContainerRestartRule {
	return []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{code}}}}
}

func restartAllPod() *corev1.Pod {
	return newPod("web", func(p *corev1.Pod) {
		never := corev1.ContainerRestartPolicyNever
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.InitContainers = []corev1.Container{container("setup", "init:1"), sidecar("side", "web:1")}
		p.Spec.Containers = []corev1.Container{container("main", "deaf:1"), container("watch", "web:1")}
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 20}}}
		p.Spec.Containers[1].RestartPolicy, p.Spec.Containers[1].RestartPolicyRules = &never, allOn(42)
	})
}

// An exit code that a rule names ends all containers at once, without grace and
// hooks, and starts the pod anew in the same sandbox, init containers first.
func TestRestartAllContainers(t *testing.T) {
	for _, restart := range []string{"", "agent in between", "agent in between, the cause forgotten"} {
		t.Run(restart, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, simImages()...).start()
				pod := restartAllPod()
				r.set(pod)
				r.pass(time.Minute)
				r.wantRunning("main/0", "side/0", "watch/0")
				sandbox, ip := r.container("main").SandboxID, r.ready("web", true).Status.PodIP
				r.pass(time.Minute)
				remove := func() {}
				// What cannot be removed before the agent is killed.
				if stays := map[string]string{"agent in between": "side", "agent in between, the cause forgotten": "setup"}[restart]; stays != "" {
					remove = r.fake.Inject(runtimetest.Fault{Op: runtimetest.OpRemoveContainer,
						Match: func(c runtimetest.Call) bool { return c.Container == stays }, Hang: true})
				}
				if err := r.fake.Exit(r.container("watch").ID, 42); err != nil {
					t.Fatal(err)
				}
				r.settle()
				if restart != "" {
					got := r.pod("web")
					if c := condition(got, corev1.AllContainersRestarting); c == nil || c.Status != corev1.ConditionTrue || c.Reason != "RestartAllContainersStarted" {
						t.Errorf("condition %+v", c)
					}
					if s := status(got, "main"); s.State.Waiting == nil || s.State.Waiting.Reason != "RestartingAllContainers" {
						t.Errorf("status %+v", s)
					}
					r.kill()
					remove()
					if restart != "agent in between" { // what says that all restart is only the condition
						if err := r.fake.RemoveContainer(t.Context(), r.container("watch").ID); err != nil {
							t.Fatal(err)
						}
					}
					r.start()
					r.set(pod)
				}
				r.pass(10 * time.Second)
				r.wantRunning("main/1", "side/1", "watch/1")
				got := r.ready("web", true)
				if r.container("main").SandboxID != sandbox || got.Status.PodIP != ip {
					t.Error("another sandbox")
				}
				if c := condition(got, corev1.AllContainersRestarting); c == nil || c.Status != corev1.ConditionFalse {
					t.Errorf("condition %+v", c)
				}
				if r.container("setup").Attempt != 1 {
					t.Error("the init container did not run again")
				}
				for name, want := range map[string]string{"main": "RestartingAllContainers", "watch": "Error"} {
					s := status(got, name)
					if last := s.LastTerminationState.Terminated; s.RestartCount != 1 || last == nil || last.Reason != want {
						t.Errorf("%s: %+v", name, s)
					}
				}
				for _, call := range r.fake.Calls(runtimetest.OpStopContainer) {
					if call.Grace != 0 {
						t.Errorf("%s had grace %v", call.Container, call.Grace)
					}
				}
				if why := r.why("web"); !strings.Contains(why, "[restart-all]") || !strings.Contains(why, "container watch exited with 42") {
					t.Errorf("why:\n%s", why)
				}
			})
		})
	}
}

// A rule that is met for ever goes round once a second, not faster.
func TestRestartAllDoesNotSpin(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, simImages()...).start()
		r.set(newPod("web", func(p *corev1.Pod) {
			always := corev1.ContainerRestartPolicyAlways
			p.Spec.Containers[0].Image, p.Spec.Containers[0].RestartPolicy = "flaky:1", &always
			p.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestartAllContainers,
				ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpNotIn, Values: []int32{0}}}}
		}))
		r.pass(30 * time.Second)
		r.wantRunning("app/3")
		starts := r.fake.Calls(runtimetest.OpStartContainer)
		for i := 1; i < len(starts); i++ {
			if gap := starts[i].At.Sub(starts[i-1].At); gap < time.Second || gap > 3*time.Second {
				t.Errorf("restart %d after %v", i, gap)
			}
		}
	})
}

// The first rule that knows the code counts.
func TestRestartRulesInOrder(t *testing.T) {
	never := corev1.ContainerRestartPolicyNever
	pod := newPod("web", func(p *corev1.Pod) {
		p.Spec.Containers[0].RestartPolicy = &never
		p.Spec.Containers[0].RestartPolicyRules = append([]corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestart,
			ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{1, 2}}}}, allOn(2)...)
	})
	now := time.Now()
	for code, want := range map[int32]podlifecycle.ActionType{2: podlifecycle.ActionCreate, 3: ""} {
		d := podlifecycle.Plan(pod, podlifecycle.Observed{Prepared: true,
			Images:    map[string]podlifecycle.Image{"app": {Ref: "web:1", ID: "x"}},
			Sandboxes: []runtimeiface.Sandbox{{ID: "s", State: runtimeiface.SandboxReady, IPs: anIP}},
			Containers: []runtimeiface.Container{{ID: "c", SandboxID: "s", Name: "app", State: runtimeiface.ContainerExited,
				ExitCode: code, StartedAt: now, FinishedAt: now}}}, now)
		got := podlifecycle.ActionType("")
		for _, a := range d.Actions {
			if a.Container == "app" {
				got = a.Type
			}
		}
		if got != want {
			t.Errorf("exit %d: %q, want %q: %+v", code, got, want, d.Actions)
		}
	}
}
