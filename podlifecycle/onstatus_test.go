package podlifecycle_test

import (
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// Who listens hears of other labels and of the begin of the end at once, and
// of a pod that is gone once Pods has it no more.
func TestOnStatusTellsOfThePodItself(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, runtimetest.FakeImage{Ref: "web:1", Present: true, Program: runtimetest.Program{StopTakes: 5 * time.Second}})
		type news struct {
			pod  *corev1.Pod
			left int
		}
		var last atomic.Pointer[news]
		r.tune = func(c *podlifecycle.Config) {
			c.OnStatus = func(pod *corev1.Pod) { last.Store(&news{pod, len(r.m.Pods())}) }
		}
		r.start()
		pod := newPod("web")
		r.set(pod)
		r.settle()
		edited := pod.DeepCopy()
		edited.Labels = map[string]string{"app": "web"}
		r.set(edited)
		r.settle()
		told := last.Load().pod
		if told.Labels["app"] != "web" || told.Status.Phase != corev1.PodRunning {
			t.Errorf("told %+v", told)
		}
		r.set()
		r.settle()
		if n := last.Load(); n.pod.DeletionTimestamp == nil || n.left != 1 {
			t.Errorf("told %+v", n)
		}
		r.pass(6 * time.Second)
		if n := last.Load(); n.pod.Status.Phase != corev1.PodFailed || n.left != 0 {
			t.Errorf("told %s with %d pods left", n.pod.Status.Phase, n.left)
		}
	})
}
