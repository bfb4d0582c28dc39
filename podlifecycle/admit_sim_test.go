package podlifecycle_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/eviction"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// Whatever comes, goes, is preempted and evicted, and whenever the agent dies:
// what runs never asks for more than the node has, who has failed stays so, a
// critical pod is never evicted, and one pod at most goes for want of memory at
// a time. Left in peace, nobody waits who could run.
func TestRoomOfTheNode(t *testing.T) {
	seeds := 10
	if testing.Short() {
		seeds = 3
	}
	for seed := range uint64(seeds) {
		bubble(t, func(t *testing.T) { roomOfTheNode(t, seed) })
	}
}

func roomOfTheNode(t *testing.T, seed uint64) {
	const cores, places = 4000, 5
	rng := rand.New(rand.NewPCG(seed, 11))
	node := newNode()
	slow := runtimetest.FakeImage{Ref: "web:1", Present: true, Program: runtimetest.Program{StopTakes: 3 * time.Second}}
	r := evicting(newRig(t, slow), node)
	withEviction := r.tune
	r.tune = func(c *podlifecycle.Config) {
		withEviction(c)
		c.Allocatable = corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(cores, resource.DecimalSI), corev1.ResourcePods: *resource.NewQuantity(places, resource.DecimalSI)}
	}
	r.start()
	desired := map[string]*corev1.Pod{}
	var order []string
	apply := func() {
		var pods []*corev1.Pod
		for _, name := range order {
			if pod := desired[name]; pod != nil {
				pods = append(pods, pod)
			}
		}
		r.set(pods...)
	}
	requests, failed := map[string]int64{}, map[string]string{}
	check := func() {
		t.Helper()
		var used, count int64
		ran := map[string]bool{}
		for _, c := range r.fake.State().Containers {
			name := c.Labels[podlifecycle.LabelPodName]
			if c.State == runtimeiface.ContainerRunning && !ran[name] {
				ran[name], count = true, count+1
				used += requests[name]
			}
		}
		if used > cores || count > places {
			t.Fatalf("seed %d: %d of %d and %d of %d places", seed, used, cores, count, places)
		}
		evictedNow := 0
		for _, pod := range r.m.Pods() {
			if was, ok := failed[pod.Name]; ok && was != pod.Status.Reason && pod.DeletionTimestamp == nil {
				t.Fatalf("seed %d: %s was Failed for %s and is %s for %s", seed, pod.Name, was, pod.Status.Phase, pod.Status.Reason)
			}
			if pod.Status.Phase == corev1.PodFailed {
				failed[pod.Name] = pod.Status.Reason
			}
			critical := pod.Spec.Priority != nil && *pod.Spec.Priority >= 2_000_000_000
			if critical && pod.Status.Reason == "Evicted" {
				t.Fatalf("seed %d: critical %s was evicted\n%s", seed, pod.Name, r.why(pod.Name))
			}
			if disruption(pod) != "" && pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil && strings.Contains(r.why(pod.Name), "ending (Evicted") {
				evictedNow++
			}
		}
		if evictedNow > 1 {
			t.Fatalf("seed %d: %d pods are being evicted at once", seed, evictedNow)
		}
	}
	for i := range 60 {
		switch n := rng.IntN(10); {
		case n < 5:
			name, request := fmt.Sprint("p", i), int64(rng.IntN(8)*300)
			pod := newPod(name, cpu(fmt.Sprintf("%dm", request)))
			if rng.IntN(4) == 0 {
				criticalPod(pod)
			}
			desired[name], order = pod, append(order, name)
			requests[name] = request
			node.uses(false, "uid-"+name, rng.Int64N(100<<20))
			apply()
		case n < 7 && len(order) > 0:
			delete(desired, order[rng.IntN(len(order))])
			apply()
		case n < 8:
			node.set(eviction.MemoryAvailable, []int64{50 << 20, 900 << 20, 900 << 20}[rng.IntN(3)])
		case n < 9:
			r.settle()
			r.kill()
			r.start()
			apply()
		}
		r.pass(time.Duration(rng.IntN(6000)) * time.Millisecond)
		check()
	}
	node.set(eviction.MemoryAvailable, 900<<20)
	r.pass(time.Minute)
	check()
	for _, pod := range r.m.Pods() {
		if pod.Status.Phase == corev1.PodPending {
			t.Fatalf("seed %d: %s still waits\n%s", seed, pod.Name, r.why(pod.Name))
		}
	}
}
