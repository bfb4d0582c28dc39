package podlifecycle_test

import (
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/runtimeiface"
)

var anIP = []netip.Addr{netip.MustParseAddr("10.88.0.2")}

// live plays one world: chaos, checked at each step, then calm, in which the
// pod must come to rest.
func live(t testing.TB, seed uint64, steps int) {
	t.Helper()
	w := newWorld(seed)
	fail := func(err error) {
		t.Helper()
		t.Fatalf("seed %d: %v\n%s", seed, err, strings.Join(w.trace[max(0, len(w.trace)-40):], "\n"))
	}
	for range steps {
		if err := w.step(); err != nil {
			fail(err)
		}
		if w.done {
			return
		}
	}
	if err := w.calmDown(); err != nil {
		fail(err)
	}
}

// Never two instances, never an init container after a main one in a sandbox,
// phases only forward, grace only shrinks, one action in each lane, and
// progress: 3,000 random lives of pods.
func TestPlanProperties(t *testing.T) {
	seeds := 300
	if n, err := strconv.Atoi(os.Getenv("NODEKIT_SIM_SEEDS")); err == nil {
		seeds = n
	}
	for seed := range seeds {
		live(t, uint64(seed), 120)
	}
}

func FuzzPlan(f *testing.F) {
	for seed := range uint64(10) {
		f.Add(seed, uint16(100))
	}
	f.Fuzz(func(t *testing.T, seed uint64, steps uint16) { live(t, seed, int(steps%500)) })
}

// Whatever policies, rules and exit code: a container that ended is restarted or
// the pod ends, never neither, and never both.
func FuzzRestartRules(f *testing.F) {
	f.Add(uint8(0), uint8(0), uint8(0), int32(42), int32(42), int32(0), true)
	f.Add(uint8(2), uint8(3), uint8(1), int32(-1), int32(137), int32(3), false)
	f.Fuzz(func(t *testing.T, policy, own, operator uint8, code, one, two int32, known bool) {
		policies := []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever, "", "Sometimes"}
		operators := []corev1.ContainerRestartRuleOnExitCodesOperator{corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn, ""}
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		pod := newPod("web", func(p *corev1.Pod) {
			p.Spec.RestartPolicy = policies[int(policy)%len(policies)]
			if n := int(own) % (len(policies) + 1); n < len(policies) {
				mine := corev1.ContainerRestartPolicy(policies[n])
				p.Spec.Containers[0].RestartPolicy = &mine
			}
			rule := corev1.ContainerRestartRule{Action: corev1.ContainerRestartRuleActionRestart}
			if known {
				rule.ExitCodes = &corev1.ContainerRestartRuleOnExitCodes{Operator: operators[int(operator)%len(operators)], Values: []int32{one, two}}
			}
			p.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{rule}
		})
		app := pod.Spec.Containers[0]
		d := podlifecycle.Plan(pod, podlifecycle.Observed{Prepared: true,
			Sandboxes: []runtimeiface.Sandbox{{ID: "s", State: runtimeiface.SandboxReady, IPs: anIP}},
			Images:    map[string]podlifecycle.Image{"app": {Ref: "web:1", ID: "sha256:1"}},
			Containers: []runtimeiface.Container{{ID: "c", SandboxID: "s", Name: "app", State: runtimeiface.ContainerExited, ExitCode: code,
				Annotations: map[string]string{podlifecycle.AnnotationHash: podlifecycle.ContainerHash(&app)}, FinishedAt: now}}}, now)
		again := slices.ContainsFunc(d.Actions, func(a podlifecycle.Action) bool { return a.Type == podlifecycle.ActionCreate })
		if again == (d.Ending != nil) {
			t.Errorf("restarts %v, ends %+v: %+v", again, d.Ending, d.Actions)
		}
		if known && operators[int(operator)%len(operators)] == corev1.ContainerRestartRuleOnExitCodesOpIn && (code == one || code == two) && !again {
			t.Error("the rule names the code, and it is not restarted")
		}
	})
}

// Equal arguments give equal decisions, and the arguments stay as they are.
func TestPlanIsPure(t *testing.T) {
	for seed := range uint64(50) {
		w := newWorld(seed)
		for range 60 {
			if err := w.step(); err != nil {
				t.Fatal(err)
			}
			o, same, pod := w.observed(), w.observed(), w.pod.DeepCopy()
			first := podlifecycle.Plan(w.pod, o, w.now)
			for range 3 {
				if again := podlifecycle.Plan(w.pod, o, w.now); !reflect.DeepEqual(first, again) {
					t.Fatalf("seed %d: two decisions:\n%+v\n%+v", seed, first, again)
				}
			}
			if !reflect.DeepEqual(o, same) || !reflect.DeepEqual(w.pod, pod) {
				t.Fatalf("seed %d: Plan changed its arguments", seed)
			}
		}
	}
}

func TestRestartDelay(t *testing.T) {
	for level, want := range []time.Duration{0, 0, 10, 20, 40, 80, 160, 300, 300} {
		if got := podlifecycle.RestartDelay(level); got != want*time.Second {
			t.Errorf("level %d: %v, want %v s", level, got, int(want))
		}
	}
	if got := podlifecycle.PullDelay(1); got != 10*time.Second {
		t.Errorf("first failed pull: %v", got)
	}
}

// What has ended is not begun again, even when nothing else is remembered.
func TestTrap6TerminalPhaseAloneIsEnough(t *testing.T) {
	for _, phase := range []corev1.PodPhase{corev1.PodSucceeded, corev1.PodFailed} {
		d := podlifecycle.Plan(newPod("web"), podlifecycle.Observed{Prior: corev1.PodStatus{Phase: phase}}, time.Now())
		if len(d.Actions) != 1 || d.Actions[0].Type != podlifecycle.ActionPersist || d.Status.Phase != phase {
			t.Errorf("%s: %+v", phase, d)
		}
	}
}

func TestPullPolicy(t *testing.T) {
	for image, want := range map[string]corev1.PullPolicy{
		"web": corev1.PullAlways, "web:latest": corev1.PullAlways, "web:1": corev1.PullIfNotPresent,
		"host:5000/web": corev1.PullAlways, "host:5000/web:1": corev1.PullIfNotPresent,
		"web@sha256:00": corev1.PullIfNotPresent, "web:latest@sha256:00": corev1.PullIfNotPresent,
	} {
		if got := podlifecycle.PullPolicy(&corev1.Container{Image: image}); got != want {
			t.Errorf("%s: %s, want %s", image, got, want)
		}
	}
}

func TestRestartRules(t *testing.T) {
	never := corev1.ContainerRestartPolicyNever
	pod := newPod("web", func(p *corev1.Pod) {
		p.Spec.Containers[0].RestartPolicy = &never
		p.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestart,
			ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
	})
	now := time.Now()
	for code, want := range map[int32]bool{42: true, 1: false, 0: false} {
		d := podlifecycle.Plan(pod, podlifecycle.Observed{Prepared: true,
			Images:    map[string]podlifecycle.Image{"app": {Ref: "web:1", ID: "x"}},
			Sandboxes: []runtimeiface.Sandbox{{ID: "s", State: runtimeiface.SandboxReady, IPs: anIP}},
			Containers: []runtimeiface.Container{{ID: "c", SandboxID: "s", Name: "app", State: runtimeiface.ContainerExited,
				ExitCode: code, StartedAt: now, FinishedAt: now}}}, now)
		if got := len(d.Actions) > 0 && d.Actions[0].Type == podlifecycle.ActionCreate; got != want {
			t.Errorf("exit %d: restarted %v, want %v: %+v", code, got, want, d.Actions)
		}
	}
}
