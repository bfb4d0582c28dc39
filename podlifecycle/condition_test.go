package podlifecycle_test

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
)

// A readiness gate holds back Ready until somebody sets its condition, which
// outlasts the agent.
func TestReadinessGates(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const gate = corev1.PodConditionType("example.test/balanced")
		r := newRig(t).start()
		gated := newPod("web", func(p *corev1.Pod) { p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: gate}} })
		r.set(gated)
		r.settle()
		r.ready("web", false)
		if e, _ := r.m.Why("default", "web"); !strings.Contains(e.String(), "readiness gate") {
			t.Errorf("why does not tell: %s", e)
		}
		set := func(status corev1.ConditionStatus) {
			t.Helper()
			if err := r.m.SetCondition("default", "web", corev1.PodCondition{Type: gate, Status: status}); err != nil {
				t.Fatal(err)
			}
			r.settle()
		}
		set(corev1.ConditionTrue)
		r.ready("web", true)
		r.kill()
		r.start()
		r.set(gated)
		r.settle()
		r.ready("web", true)
		set(corev1.ConditionFalse)
		r.ready("web", false)
		for _, c := range []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}, {Type: gate, Status: "yes"}} {
			if r.m.SetCondition("default", "web", c) == nil {
				t.Errorf("%v is accepted", c)
			}
		}
		if err := r.m.SetCondition("default", "none", corev1.PodCondition{Type: gate, Status: corev1.ConditionTrue}); !errors.Is(err, podlifecycle.ErrNotFound) {
			t.Errorf("got %v", err)
		}
	})
}
