package podlifecycle_test

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nodekit/nodekit/podlifecycle"
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
	seeds := uint64(3000)
	if testing.Short() {
		seeds = 300
	}
	for seed := range seeds {
		live(t, seed, 120)
	}
}

func FuzzPlan(f *testing.F) {
	for seed := range uint64(10) {
		f.Add(seed, uint16(100))
	}
	f.Fuzz(func(t *testing.T, seed uint64, steps uint16) { live(t, seed, int(steps%500)) })
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
