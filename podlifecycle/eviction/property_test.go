package eviction_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit/nodekit/podlifecycle/eviction"
	"github.com/nodekit/nodekit/podlifecycle/qos"
)

// Whatever the pods use, the victim is one that no other had to go before.
func TestPickProperties(t *testing.T) {
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 3))
		var pods []eviction.Pod
		for i := range rng.IntN(8) {
			edits := []func(*corev1.Pod){requests(corev1.ResourceMemory, fmt.Sprintf("%dMi", rng.IntN(4)*100)), priority(int32(rng.IntN(3)))}
			if rng.IntN(4) == 0 {
				edits = append(edits, static)
			}
			pods = append(pods, using(newPod(fmt.Sprint("p", i), edits...), int64(rng.IntN(5))*100*mi))
		}
		before := slices.Clone(pods)
		victim, _ := policy(t, eviction.Config{}).Pick(starved(t, eviction.MemoryAvailable), pods, false)
		if !reflect.DeepEqual(before, pods) {
			t.Fatalf("seed %d: the arguments were changed", seed)
		}
		above := func(p eviction.Pod) int64 {
			requests := qos.Requests(p.Pod)
			return p.Usage.Memory - requests.Memory().Value()
		}
		for _, p := range pods {
			if qos.Critical(p.Pod) {
				continue
			}
			if victim == nil {
				t.Fatalf("seed %d: %s could go and nobody did", seed, p.Pod.Name)
			}
			var v eviction.Pod
			for _, one := range pods {
				if one.Pod == victim.Pod {
					v = one
				}
			}
			same := (above(v) > 0) == (above(p) > 0)
			switch {
			case qos.Critical(v.Pod), above(p) > 0 && above(v) <= 0, same && *p.Pod.Spec.Priority < *v.Pod.Spec.Priority,
				same && *p.Pod.Spec.Priority == *v.Pod.Spec.Priority && above(p) > above(v):
				t.Fatalf("seed %d: %s went, %s should have", seed, v.Pod.Name, p.Pod.Name)
			}
		}
	}
}

// Whatever is read: no soft threshold is acted on before its grace, a condition
// stays for the transition and not longer, and equal arguments decide equally.
func TestAssessProperties(t *testing.T) {
	thresholds := []eviction.Threshold{
		{Signal: eviction.MemoryAvailable, Below: eviction.Value{Amount: 100}},
		{Signal: eviction.MemoryAvailable, Below: eviction.Value{Amount: 300}, Grace: 45 * time.Second, Reclaim: eviction.Value{Amount: 50}},
		{Signal: eviction.PIDAvailable, Below: eviction.Value{Part: 0.2}},
	}
	p := policy(t, eviction.Config{Thresholds: thresholds, PressureTransition: 2 * time.Minute})
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 4))
		state, now := eviction.State{}, start
		var softSince, memoryLow time.Time
		for range 60 {
			now = now.Add(time.Duration(1+rng.IntN(30)) * time.Second)
			memory := int64(rng.IntN(600))
			r := reading(eviction.MemoryAvailable, memory, 1000)
			r.Signals[eviction.PIDAvailable] = eviction.Observation{Available: int64(rng.IntN(100)), Capacity: 100}
			a := p.Assess(state, r, now)
			if again := p.Assess(state, r, now); !reflect.DeepEqual(a, again) {
				t.Fatalf("seed %d: %+v and %+v", seed, a, again)
			}
			state = a.State
			if memory < 300 {
				memoryLow = now
			}
			if memory >= 350 {
				softSince = time.Time{}
			} else if memory < 300 && softSince.IsZero() {
				softSince = now
			}
			if s := a.Starved; s != nil && s.Grace > 0 && now.Sub(softSince) < s.Grace {
				t.Fatalf("seed %d: soft threshold acted on after %v", seed, now.Sub(softSince))
			}
			if memory < 100 && (a.Starved == nil || a.Starved.Signal != eviction.MemoryAvailable) {
				t.Fatalf("seed %d: %d left and nothing done", seed, memory)
			}
			has := slices.Contains(a.Conditions, corev1.NodeMemoryPressure)
			recent := !memoryLow.IsZero() && now.Sub(memoryLow) < 2*time.Minute
			if recent && !has {
				t.Fatalf("seed %d: the condition went after %v", seed, now.Sub(memoryLow))
			}
			if !a.Next.IsZero() && !a.Next.After(now) {
				t.Fatalf("seed %d: next look at %v, which is past", seed, a.Next)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("memory.available", "100Mi", "10%")
	f.Add("nodefs.available", "5%", "1e3")
	f.Fuzz(func(t *testing.T, signal, hard, reclaim string) {
		got, err := eviction.Parse(map[string]string{signal: hard}, nil, nil, map[string]string{signal: reclaim})
		if err != nil {
			return
		}
		if _, err := eviction.New(eviction.Config{Thresholds: append([]eviction.Threshold{}, got...)}); err != nil {
			t.Errorf("Parse gave what New refuses: %v", err)
		}
	})
}

func ExamplePolicy() {
	policy, err := eviction.New(eviction.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	reading := eviction.Reading{Signals: map[eviction.Signal]eviction.Observation{
		eviction.MemoryAvailable: {Available: 60 << 20, Capacity: 4 << 30, Time: now},
	}}
	a := policy.Assess(eviction.State{}, reading, now)
	fmt.Println(a.Conditions, a.Starved)
	pod := func(name string, memory int64) eviction.Pod {
		return eviction.Pod{Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}, Usage: &eviction.Usage{Memory: memory}}
	}
	victim, _ := policy.Pick(*a.Starved, []eviction.Pod{pod("web", 200<<20), pod("batch", 900<<20)}, false)
	fmt.Println(victim.Pod.Name, victim.Grace, strings.TrimSpace(victim.Message))
	// Output:
	// [MemoryPressure] memory.available is 60Mi, below 100Mi
	// batch 1s The node was low on resource: memory. Threshold quantity: 100Mi, available: 60Mi.
}
