package podlifecycle_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/shutdown"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// stubborn is a program that hears no signal.
var stubborn = runtimetest.FakeImage{Ref: "stubborn:1", Present: true, Program: runtimetest.Program{IgnoreStop: true}}

// shutRig has pods that end at once and pods that do not.
func shutRig(t *testing.T) *rig {
	return newRig(t, runtimetest.FakeImage{Ref: "web:1", Present: true}, stubborn)
}

func from(kind string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations = map[string]string{source.AnnotationSource: kind} }
}

func prio(n int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = &n } }

func runs(ref string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Image = ref }
}

func policy(policy corev1.RestartPolicy) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.RestartPolicy = policy }
}

// ends gives when each pod's container was told to stop, and when it had ended,
// since at.
func (r *rig) ends(at time.Time) map[string][2]time.Duration {
	out := map[string][2]time.Duration{}
	for _, call := range r.fake.Calls(runtimetest.OpStopContainer) {
		for _, c := range r.fake.State().Containers {
			if c.ID == call.ContainerID {
				out[c.Labels[podlifecycle.LabelPodName]] = [2]time.Duration{call.At.Sub(at).Round(time.Second), c.FinishedAt.Sub(at).Round(time.Second)}
			}
		}
	}
	return out
}

var threePeriods = []shutdown.Period{{Priority: 0, Grace: 10 * time.Second}, {Priority: 100, Grace: 20 * time.Second}, {Priority: 2_000_000_000, Grace: 5 * time.Second}}

// Pods end by priority, the lowest first, with the lesser of their own and their
// period's time; a period that is over early or has no pods holds up nobody.
func TestShutdownOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := shutRig(t).start()
		brief := int64(3)
		r.set(newPod("low"), newPod("low-stubborn", runs("stubborn:1")),
			newPod("mid", prio(100), runs("stubborn:1"), func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = &brief }),
			newPod("high", prio(2_000_001_000), runs("stubborn:1")))
		r.settle()
		at := time.Now()
		if err := r.m.Shutdown(t.Context(), threePeriods); err != nil {
			t.Fatal(err)
		}
		r.settle() // the last one was killed as its period ended
		want := map[string][2]time.Duration{"low": {0, 0}, "low-stubborn": {0, 10 * time.Second},
			"mid": {10 * time.Second, 13 * time.Second}, "high": {13 * time.Second, 18 * time.Second}}
		got := r.ends(at)
		for name, w := range want {
			if got[name] != w {
				t.Errorf("%s ended at %v, want %v", name, got[name], w)
			}
		}
		for _, name := range []string{"low", "mid", "high"} {
			pod := r.phase(name, corev1.PodFailed)
			if pod.Status.Reason != "Terminated" || pod.Status.Message != "Pod was terminated in response to imminent node shutdown." {
				t.Errorf("%s: %s: %s", name, pod.Status.Reason, pod.Status.Message)
			}
			i := slices.IndexFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.DisruptionTarget })
			if i < 0 || pod.Status.Conditions[i].Status != corev1.ConditionTrue || pod.Status.Conditions[i].Reason != "TerminationByKubelet" ||
				pod.Status.Conditions[i].Message != pod.Status.Message {
				t.Errorf("%s: conditions %+v", name, pod.Status.Conditions)
			}
			if !strings.Contains(r.why(name), "Terminated") {
				t.Errorf("%s: %s", name, r.why(name))
			}
		}
		groups := 0
		for _, rec := range r.m.Records() {
			if rec.Rule == podlifecycle.RuleShutdown && strings.HasPrefix(rec.Input, "priority ") {
				groups++
			}
		}
		if groups != 3 {
			t.Errorf("records %v", r.m.Records())
		}
	})
}

// A pod that takes longer than its period, here because its volumes do, holds up the
// next one no longer; one that had ended before stays what it was.
func TestShutdownOverdue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := shutRig(t).start()
		r.set(newPod("web"), newPod("high", prio(100)), newPod("done", policy(corev1.RestartPolicyNever)))
		r.settle()
		for _, c := range r.fake.State().Containers {
			if c.Labels[podlifecycle.LabelPodName] == "done" {
				if err := r.fake.Exit(c.ID, 0); err != nil {
					t.Fatal(err)
				}
			}
		}
		r.pass(time.Second)
		r.volumes.fail(errBroken)
		at := time.Now()
		if err := r.m.Shutdown(t.Context(), threePeriods); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(at).Round(time.Second); took != 30*time.Second {
			t.Errorf("it took %v", took)
		}
		if got := r.ends(at)["high"][0]; got != 10*time.Second {
			t.Errorf("the next period began at %v", got)
		}
		if !slices.ContainsFunc(r.m.Records(), func(rec podlifecycle.Record) bool {
			return rec.Rule == podlifecycle.RuleShutdown && rec.Error == "1 pods took longer"
		}) {
			t.Errorf("records %v", r.m.Records())
		}
		r.phase("done", corev1.PodSucceeded)
	})
}

// No pod starts while the node goes down. After the boot the pods of files run
// again, as new instances that count on; those of an API server and those that may
// not restart stay what they are.
func TestShutdownAndBoot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := shutRig(t).start()
		pods := []*corev1.Pod{newPod("file", from("file")), newPod("http", from("http"), policy(corev1.RestartPolicyOnFailure)),
			newPod("api", from("api")), newPod("plain"), newPod("never", from("file"), policy(corev1.RestartPolicyNever))}
		r.set(pods...)
		r.settle()
		if err := r.m.Shutdown(t.Context(), threePeriods); err != nil {
			t.Fatal(err)
		}
		late := newPod("late", from("file"))
		r.set(append(pods, late)...)
		r.pass(time.Minute)
		if pod := r.phase("late", corev1.PodPending); pod.Status.Reason != "NodeShutdown" || pod.Status.Message != "Pod was rejected as the node is shutting down." {
			t.Errorf("status %+v", pod.Status)
		}
		r.wantRunning()

		r.kill()
		r.start()
		r.set(append(pods, late)...)
		r.pass(time.Second)
		r.wantRunning("app/0", "app/1", "app/1")
		for _, name := range []string{"file", "http", "late"} {
			r.ready(name, true)
		}
		if s := status(r.pod("file"), "app"); s.RestartCount != 1 || s.LastTerminationState.Terminated == nil {
			t.Errorf("status %+v", s)
		}
		for _, name := range []string{"api", "plain", "never"} {
			if pod := r.phase(name, corev1.PodFailed); pod.Status.Reason != "Terminated" {
				t.Errorf("%s: %s", name, pod.Status.Reason)
			}
		}
	})
}

// An agent that is killed in the midst of it has ended nobody for good.
func TestShutdownKilled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := shutRig(t).start()
		r.set(newPod("web", from("file"), runs("stubborn:1")))
		r.settle()
		go func() { _ = r.m.Shutdown(t.Context(), threePeriods) }()
		r.pass(2 * time.Second)
		r.kill()
		r.start()
		r.set(newPod("web", from("file"), runs("stubborn:1")))
		r.pass(time.Minute)
		r.ready("web", true)
	})
}

// A shutdown that is called off gives back the pods that may restart, also one that
// was still ending.
func TestShutdownCalledOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := shutRig(t).start()
		pods := []*corev1.Pod{newPod("web", from("file")), newPod("slow", from("file"), runs("stubborn:1")), newPod("high", from("file"), prio(100)), newPod("api", from("api"))}
		r.set(pods...)
		r.settle()
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- r.m.Shutdown(ctx, threePeriods) }()
		r.pass(5 * time.Second)
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("Shutdown: %v", err)
		}
		r.m.Resume()
		r.pass(time.Minute)
		for _, name := range []string{"web", "slow", "high"} {
			r.ready(name, true)
		}
		r.phase("api", corev1.PodFailed)
		if c := status(r.pod("high"), "app"); c.RestartCount != 0 {
			t.Error("a pod of a later period was touched")
		}
		if c := status(r.pod("web"), "app"); c.RestartCount != 1 {
			t.Errorf("status %+v", c)
		}
		// It is all as before: it can end, and a new one starts.
		r.set(append(pods[1:], newPod("new"))...)
		r.pass(time.Minute)
		r.ready("new", true)
		if _, err := r.m.Pod("default", "web"); !errors.Is(err, podlifecycle.ErrNotFound) {
			t.Errorf("a pod that nobody wants: %v", err)
		}
	})
}

// A shutdown that comes while pods of one called off still end keeps them ended, until
// it is called off too.
func TestShutdownAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := shutRig(t).start()
		r.set(newPod("slow", from("file"), runs("stubborn:1")))
		r.settle()
		var results []error
		shut := func() context.CancelFunc {
			ctx, cancel := context.WithCancel(t.Context())
			go func() { results = append(results, r.m.Shutdown(ctx, threePeriods)) }()
			r.pass(4 * time.Second)
			return cancel
		}
		shut()()
		r.m.Resume()
		r.settle()
		shut()
		r.pass(time.Minute)
		if pod := r.phase("slow", corev1.PodFailed); pod.Status.Reason != "Terminated" {
			t.Errorf("reason %q\n%s", pod.Status.Reason, r.why("slow"))
		}
		if len(results) != 2 || !errors.Is(results[0], context.Canceled) || results[1] != nil {
			t.Errorf("the shutdowns gave %v", results)
		}
		r.m.Resume()
		r.pass(time.Minute)
		r.ready("slow", true)
	})
}

// What a pod had before the shutdown is nobody's any more: a pod that waits for its
// port since does not have it back, because something stopped of it is still there,
// when the agent starts anew.
func TestShutdownAndPlaceTaken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		port := func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080}}
		}
		r := shutRig(t).start()
		first, second := newPod("first", from("file"), port), newPod("second", from("file"), port)
		r.set(first)
		r.settle()
		if err := r.m.Shutdown(t.Context(), threePeriods); err != nil {
			t.Fatal(err)
		}
		r.set(second, first)
		r.settle()
		r.m.Resume()
		r.pass(time.Second)
		r.ready("second", true)
		r.phase("first", corev1.PodPending)
		r.kill()
		r.start()
		r.set(first, second)
		r.pass(time.Second)
		r.ready("second", true)
		if pod := r.phase("first", corev1.PodPending); pod.Status.Reason != "NodePorts" {
			t.Errorf("reason %q\n%s", pod.Status.Reason, r.why("first"))
		}
	})
}

func TestShutdownErrors(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := shutRig(t)
		m, err := podlifecycle.New(podlifecycle.Config{Runtime: r.fake, Root: r.root, Volumes: r.volumes})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Shutdown(t.Context(), threePeriods); !errors.Is(err, podlifecycle.ErrEnded) {
			t.Errorf("without Run: %v", err)
		}
		if err := m.Shutdown(t.Context(), []shutdown.Period{{Grace: -1}}); err == nil {
			t.Error("a bad period is taken")
		}
		r.start()
		r.set(newPod("web"))
		r.settle()
		if err := r.m.Shutdown(t.Context(), nil); err != nil || !slices.Equal(r.running(), []string{"app/0"}) {
			t.Errorf("without periods nothing is done: %v, %v", err, r.running())
		}
	})
}
