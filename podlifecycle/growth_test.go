package podlifecycle_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// An hour of 60 pods with probes, some of which crash again and again, leaves
// nothing behind: neither a goroutine nor memory.
func TestNothingGrows(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, runtimetest.FakeImage{Ref: "web:1", Present: true},
			runtimetest.FakeImage{Ref: "crash:1", Present: true, Program: runtimetest.Program{Exit: &runtimetest.Exit{After: 7 * time.Second, Code: 1}}})
		r.tune = func(c *podlifecycle.Config) { c.OnStatus = nil }
		r.start()
		var pods []*corev1.Pod
		for i := range 60 {
			pods = append(pods, newPod(fmt.Sprintf("web-%02d", i), func(p *corev1.Pod) {
				p.UID = types.UID(fmt.Sprintf("uid-%02d", i))
				p.Spec.Containers[0].ReadinessProbe = execProbe("ready")
				p.Spec.Containers[0].LivenessProbe = execProbe("live")
				p.Spec.Containers[0].StartupProbe = execProbe("up")
				if i%20 == 0 {
					p.Spec.Containers[0].Image = "crash:1"
				}
			}))
		}
		r.set(pods...)
		// What is kept of each pod is bounded, and full by now.
		measure := func(wait time.Duration) (goroutines int, heap uint64) {
			r.pass(wait)
			r.fake.ForgetCalls()
			r.settle()
			runtime.GC()
			runtime.GC()
			var mem runtime.MemStats
			runtime.ReadMemStats(&mem)
			return runtime.NumGoroutine(), mem.HeapAlloc
		}
		goroutines, heap := measure(2 * time.Hour)
		laterGoroutines, laterHeap := measure(time.Hour)
		t.Logf("%d goroutines and %d KiB, an hour later %d and %d", goroutines, heap>>10, laterGoroutines, laterHeap>>10)
		if laterGoroutines > goroutines+3 { // one may be on its way
			t.Errorf("%d goroutines became %d", goroutines, laterGoroutines)
		}
		if laterHeap > heap+heap/10 {
			t.Errorf("a heap of %d bytes became %d", heap, laterHeap)
		}
		if n := r.prober.count; n < 60*2*360 {
			t.Errorf("only %d probes", n)
		}
	})
}
