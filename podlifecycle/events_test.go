package podlifecycle_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// eventsOf gives type, reason, place, and count of each event of a pod.
func (r *rig) eventsOf(name string) []string {
	r.t.Helper()
	list, err := r.m.Events("default", name)
	if err != nil {
		r.t.Fatal(err)
	}
	var out []string
	for _, e := range list {
		if e.InvolvedObject.Name != name || e.Namespace != "default" || e.Name == "" || e.LastTimestamp.Before(&e.FirstTimestamp) {
			r.t.Errorf("event %+v", e)
		}
		out = append(out, fmt.Sprintf("%s %s %s x%d", e.Type, e.Reason, e.InvolvedObject.FieldPath, e.Count))
	}
	return out
}

func (r *rig) wantEvents(name string, want ...string) {
	r.t.Helper()
	got := strings.Join(r.eventsOf(name), "\n")
	for _, one := range want {
		if !strings.Contains(got, one) {
			r.t.Errorf("events of %s:\n%s\nlack %q", name, got, one)
		}
	}
}

// What an operator would ask about becomes an event, as the kubelet words it.
func TestEvents(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, runtimetest.FakeImage{Ref: "web:1"}, runtimetest.FakeImage{Ref: "none:1", PullErr: errors.New("gone")},
			runtimetest.FakeImage{Ref: "crash:1", Present: true, Program: runtimetest.Program{Exit: &runtimetest.Exit{After: time.Second, Code: 1}}})
		var mu sync.Mutex
		told := map[string]int{}
		r.tune = func(c *podlifecycle.Config) {
			c.OnEvent = func(e *corev1.Event) {
				mu.Lock()
				defer mu.Unlock()
				told[e.InvolvedObject.Name]++
			}
		}
		r.start()
		image := func(ref string) func(*corev1.Pod) {
			return func(p *corev1.Pod) { p.Spec.Containers[0].Image = ref }
		}
		port := func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
		}
		sick := newPod("sick", func(p *corev1.Pod) {
			p.Spec.Containers[0].LivenessProbe, p.Spec.Containers[0].ReadinessProbe = execProbe("live"), execProbe("ready")
		})
		r.set(newPod("web", port), newPod("late", port), newPod("crash", image("crash:1")), newPod("none", image("none:1")), sick)
		r.pass(time.Minute)
		r.wantEvents("web", "Normal Pulled spec.containers{app} x1", "Normal Started spec.containers{app} x1")
		r.wantEvents("late", "Warning NodePorts  x1")
		r.wantEvents("crash", "Normal Started spec.containers{app} x4", "Warning BackOff spec.containers{app} x3")
		r.wantEvents("none", "Warning Failed spec.containers{app} x3", "Normal BackOff spec.containers{app} x3")
		r.prober.breaks("ready", true)
		r.prober.breaks("live", true)
		r.pass(time.Minute)
		r.wantEvents("sick", "Warning Unhealthy spec.containers{app}", "Normal Killing spec.containers{app}")
		r.volumes.fail(errors.New("no such ConfigMap"))
		r.fake.Inject(runtimetest.Fault{Op: runtimetest.OpRunSandbox, Times: 2, Err: errors.New("no address")})
		r.set(newPod("web"), newPod("unlucky"))
		r.pass(10 * time.Second)
		r.volumes.fail(nil)
		r.pass(time.Minute)
		r.wantEvents("unlucky", "Warning FailedMount", "Warning FailedCreatePodSandBox", "Normal Started")

		// A flood is kept short, and told only so far.
		flood := newPod("flood", func(p *corev1.Pod) {
			p.Spec.Containers = nil
			for i := range 60 {
				p.Spec.Containers = append(p.Spec.Containers, container(fmt.Sprintf("c%d", i), "crash:1"))
			}
		})
		r.set(flood)
		r.pass(500 * time.Millisecond)
		mu.Lock()
		if n := told["flood"]; n != 25 {
			t.Errorf("%d events were told at once", n)
		}
		mu.Unlock()
		r.pass(20 * time.Minute)
		mu.Lock()
		if n := told["flood"]; n < 28 || n > 29 {
			t.Errorf("%d events were told within 20 min", n)
		}
		mu.Unlock()
		if n := len(r.eventsOf("flood")); n != 32 {
			t.Errorf("%d events are kept", n)
		}
		if _, err := r.m.Events("default", "nobody"); !errors.Is(err, podlifecycle.ErrNotFound) {
			t.Errorf("events of nobody: %v", err)
		}
	})
}

// What comes next, and when, is told to the moment, and what has no time is
// told too.
func TestWhyTellsWhatComes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, runtimetest.FakeImage{Ref: "web:1", Present: true}, runtimetest.FakeImage{Ref: "slow:1", PullTakes: time.Hour},
			runtimetest.FakeImage{Ref: "none:1", PullErr: errors.New("gone")},
			runtimetest.FakeImage{Ref: "deaf:1", Present: true, Program: runtimetest.Program{IgnoreStop: true}},
			runtimetest.FakeImage{Ref: "crash:1", Present: true, Program: runtimetest.Program{Exit: &runtimetest.Exit{After: time.Second, Code: 1}}})
		r.prober.breaks("ready", true)
		r.start()
		image := func(ref string) func(*corev1.Pod) {
			return func(p *corev1.Pod) { p.Spec.Containers[0].Image = ref }
		}
		probed := newPod("probed", func(p *corev1.Pod) {
			p.Spec.Containers[0].ReadinessProbe = execProbe("ready")
			p.Spec.Containers[0].ReadinessProbe.InitialDelaySeconds = 4
		})
		pods := []*corev1.Pod{newPod("crash", image("crash:1")), newPod("none", image("none:1")), newPod("slow", image("slow:1")), probed, newPod("deaf", image("deaf:1"))}
		began := time.Now()
		r.set(pods...)
		want := func(name, action string, at time.Duration) {
			t.Helper()
			e, err := r.m.Why("default", name)
			if err != nil {
				t.Fatal(err)
			}
			for i, next := range e.Coming {
				if !strings.HasPrefix(next.Action, action) {
					continue
				}
				if got := next.At.Sub(began); at >= 0 && got != at || at < 0 && !next.At.IsZero() || next.Reason == "" {
					t.Errorf("%s: %s at %v, want %v (%s)", name, action, got, at, next.Reason)
				}
				if i == 0 && at >= 0 && (e.Next == nil || !e.Next.At.Equal(next.At)) || !strings.Contains(e.String(), next.Action) {
					t.Errorf("%s: next is %+v\n%s", name, e.Next, e)
				}
				return
			}
			t.Errorf("%s: nothing of %q in %+v", name, action, e.Coming)
		}
		r.pass(2500 * time.Millisecond)
		want("probed", "readiness probe of container app", 4*time.Second)
		want("crash", "restart app", 12*time.Second) // it ran from 0 s and from 1 s on
		want("none", "pull none:1", 10*time.Second)
		want("slow", "pull the image of container app", -1)
		r.pass(2 * time.Second)
		want("probed", "readiness probe of container app", 14*time.Second)
		if e, _ := r.m.Why("default", "probed"); !strings.Contains(e.Summary, "ready says no") {
			t.Errorf("summary %q", e.Summary)
		}
		r.set(pods[:4]...)
		r.pass(time.Second)
		want("deaf", "SIGKILL container app", 34500*time.Millisecond)
		r.stop()
		r.start()
		r.m.Set(source.Set{Pods: pods[:3], Waiting: []string{"url"}})
		r.pass(time.Second)
		want("probed", "end the pod unless", -1)
		if text := r.why("probed"); !strings.Contains(text, "waits: end the pod unless one of them wants it (sources that have not spoken yet: url)") {
			t.Errorf("why: %s", text)
		}
	})
}
