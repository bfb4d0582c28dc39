package podlifecycle_test

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// hour is what pods cost from one look to the next.
type hour struct {
	goroutines    int
	heap, mallocs uint64
	cpu           time.Duration
	probes        int
}

// hours has pods with three probes each run for two spans of simulated time, after
// as much as it takes until all that is kept of them is full. One of 20 crashes
// again and again.
func hours(t *testing.T, pods int, span time.Duration) (first, second hour) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, runtimetest.FakeImage{Ref: "web:1", Present: true},
			runtimetest.FakeImage{Ref: "crash:1", Present: true, Program: runtimetest.Program{Exit: &runtimetest.Exit{After: 7 * time.Second, Code: 1}}})
		r.tune = func(c *podlifecycle.Config) { c.OnStatus, c.Records = nil, 20 }
		r.start()
		var list []*corev1.Pod
		for i := range pods {
			list = append(list, newPod(fmt.Sprintf("web-%04d", i), func(p *corev1.Pod) {
				p.UID = types.UID(fmt.Sprintf("uid-%04d", i))
				p.Spec.Containers[0].ReadinessProbe = execProbe("ready")
				p.Spec.Containers[0].LivenessProbe = execProbe("live")
				p.Spec.Containers[0].StartupProbe = execProbe("up")
				if i%20 == 0 {
					p.Spec.Containers[0].Image = "crash:1"
				}
			}))
		}
		r.set(list...)
		live := func(d time.Duration) (h hour) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			probes, cpu := r.prober.asked(), cpuTime(t)
			for left := d; left > 0; left -= 10 * time.Minute {
				r.pass(min(left, 10*time.Minute))
				r.fake.ForgetCalls()
			}
			h.cpu, h.probes = cpuTime(t)-cpu, r.prober.asked()-probes
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&after)
			h.goroutines, h.heap, h.mallocs = runtime.NumGoroutine(), after.HeapAlloc, after.Mallocs-before.Mallocs
			return h
		}
		live(15 * time.Minute)
		first, second = live(span), live(span)
	})
	return first, second
}

// An hour of pods with probes leaves nothing behind, neither a goroutine nor memory,
// and its second half costs no more than its first; and ten times the pods cost ten
// times as much, and not a hundred. NODEKIT_PODS says how many, make sim has 1,000.
func TestNothingGrows(t *testing.T) {
	pods := 100
	if n, err := strconv.Atoi(os.Getenv("NODEKIT_PODS")); err == nil {
		pods = n
	}
	few, _ := hours(t, pods/10, 30*time.Minute)
	first, second := hours(t, pods, 30*time.Minute)
	t.Logf("%d pods %+v, then %+v; %d pods %+v", pods, first, second, pods/10, few)
	if second.goroutines > first.goroutines+3 { // one may be on its way
		t.Errorf("%d goroutines became %d", first.goroutines, second.goroutines)
	}
	if second.heap > first.heap+first.heap/10 {
		t.Errorf("a heap of %d bytes became %d", first.heap, second.heap)
	}
	if second.mallocs > first.mallocs+first.mallocs/10 {
		t.Errorf("%d allocations in half an hour became %d", first.mallocs, second.mallocs)
	}
	for _, h := range []hour{first, second} {
		if h.probes < pods*2*180*9/10 {
			t.Errorf("only %d probes", h.probes)
		}
		if most := few.mallocs * 10 * 5 / 4; h.mallocs > most {
			t.Errorf("%d allocations of %d pods, %d of a tenth of them", h.mallocs, pods, few.mallocs)
		}
		// Caches, the collector and the machine's other work make it no straight line.
		if few.cpu > 100*time.Millisecond && h.cpu > 40*few.cpu {
			t.Errorf("%d pods took %v of CPU, a tenth of them %v", pods, h.cpu, few.cpu)
		}
	}
}
