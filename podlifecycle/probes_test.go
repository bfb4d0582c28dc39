package podlifecycle_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

func TestLivenessKillsAndRestarts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, runtimetest.FakeImage{Ref: "web:1", Present: true, Program: runtimetest.Program{IgnoreStop: true}}).start()
		grace := int64(5)
		r.set(newPod("web", func(p *corev1.Pod) {
			p.Spec.Containers[0].LivenessProbe = execProbe("alive")
			p.Spec.Containers[0].LivenessProbe.TerminationGracePeriodSeconds = &grace
		}))
		r.pass(15 * time.Second)
		r.ready("web", true)
		r.prober.breaks("alive", true)
		r.pass(28 * time.Second) // three failures, and the grace of the probe has begun
		r.wantRunning("app/0")
		stops := r.fake.Calls(runtimetest.OpStopContainer)
		if len(stops) != 1 || stops[0].Grace != 5*time.Second {
			t.Fatalf("stops %+v\n%s", stops, r.why("web"))
		}
		r.prober.breaks("alive", false)
		r.pass(5 * time.Second)
		r.wantRunning("app/1")
		s := status(r.ready("web", true), "app")
		if s.RestartCount != 1 || s.LastTerminationState.Terminated.ExitCode != 137 {
			t.Errorf("status %+v", s)
		}
		if why := r.why("web"); !strings.Contains(why, "failed liveness probe") || !strings.Contains(why, "alive says no") {
			t.Errorf("why:\n%s", why)
		}
	})
}

func TestStartupProbeHoldsBackTheOthers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		r.prober.breaks("up", true)
		r.set(newPod("web", func(p *corev1.Pod) {
			p.Spec.Containers[0].StartupProbe = execProbe("up")
			p.Spec.Containers[0].StartupProbe.FailureThreshold = 30
			p.Spec.Containers[0].LivenessProbe = execProbe("alive")
			p.Spec.Containers[0].ReadinessProbe = execProbe("ready")
		}))
		r.prober.breaks("alive", true)
		r.pass(time.Minute)
		s := status(r.ready("web", false), "app")
		if s.RestartCount != 0 || s.Started == nil || *s.Started {
			t.Errorf("status %+v", s)
		}
		if e, _ := r.m.Why("default", "web"); !strings.Contains(e.Summary, "up says no") {
			t.Errorf("summary %q", e.Summary)
		}
		r.prober.breaks("up", false)
		r.prober.breaks("alive", false)
		r.pass(11 * time.Second)
		if s := status(r.ready("web", true), "app"); !*s.Started {
			t.Errorf("status %+v", s)
		}
	})
	t.Run("and kills when it fails", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t).start()
			r.prober.breaks("up", true)
			r.set(newPod("web", func(p *corev1.Pod) { p.Spec.Containers[0].StartupProbe = execProbe("up") }))
			r.pass(40 * time.Second)
			if s := status(r.pod("web"), "app"); s.RestartCount != 1 {
				t.Errorf("status %+v\n%s", s, r.why("web"))
			}
		})
	})
}

// A verdict is reported at once, and readiness is probed until the end.
func TestReadinessIsReportedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, lingers)
		var mu sync.Mutex
		var at []time.Time
		r.tune = func(c *podlifecycle.Config) {
			c.OnStatus = func(pod *corev1.Pod) {
				mu.Lock()
				defer mu.Unlock()
				if len(at)%2 == 0 == isReady(pod) {
					at = append(at, time.Now())
				}
			}
		}
		r.start()
		began := time.Now()
		r.set(newPod("web", func(p *corev1.Pod) {
			p.Spec.Containers[0].ReadinessProbe = execProbe("ready")
			p.Spec.Containers[0].ReadinessProbe.FailureThreshold = 1
			p.Spec.Containers[0].ReadinessProbe.PeriodSeconds = 2
		}))
		r.pass(time.Second)
		r.prober.breaks("ready", true)
		r.pass(2 * time.Second)
		r.prober.breaks("ready", false)
		r.pass(2 * time.Second)
		r.ready("web", true)
		mu.Lock()
		if len(at) != 3 || at[1].Sub(began)%(2*time.Second) != 0 || at[2].Sub(at[1]) != 2*time.Second {
			t.Errorf("reported at %v, began %v", at, began)
		}
		mu.Unlock()
		r.m.Set(source.Set{})
		r.prober.breaks("ready", true)
		r.pass(3 * time.Second)
		r.ready("web", false) // while it ends
		r.pass(10 * time.Second)
		if len(r.m.Pods()) != 0 {
			t.Error("still there")
		}
	})
}
