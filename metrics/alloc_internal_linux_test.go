package metrics

// In the package itself: only here can a round be made without what surrounds
// it, which is the caller's to pay.

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/nodekit/nodekit/internal/kerneltest"
)

// sameTargets gives the same slice each time.
type sameTargets []Target

func (s sameTargets) Targets(context.Context) ([]Target, error) { return s, nil }

// runningMeter is one that behaves as within Run, without its loop.
func runningMeter(tb testing.TB, cfg Config) *Meter {
	tb.Helper()
	m, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	m.turn <- struct{}{}
	if err := m.open(); err != nil {
		tb.Fatal(err)
	}
	m.running, m.reader.keep = true, true
	m.reader.keepRoots()
	m.give()
	tb.Cleanup(m.stop)
	for range 2 { // learn, and give both samples of a target their room
		if err := m.round(context.Background(), true); err != nil {
			tb.Fatal(err)
		}
	}
	return m
}

func fixtureConfig() Config {
	return Config{
		CgroupRoot: "testdata/v2/cgroup", ProcRoot: "testdata/v2/proc", SysRoot: "testdata/v2/sys",
		LimitsInterval: time.Hour,
		Targets: sameTargets{
			{Cgroup: "/kubepods/pod1", Namespace: "default", Pod: "web", PodUID: "u1", PID: 101},
			{Cgroup: "/kubepods/pod1/c1", Namespace: "default", Pod: "web", PodUID: "u1", Container: "app", ID: "c1"},
			{Cgroup: "/kubepods/pod1/c2", Namespace: "default", Pod: "web", PodUID: "u1", Container: "sidecar", ID: "c2"},
			{Cgroup: "/kubepods/pod1/gone", Namespace: "default", Pod: "web", PodUID: "u1", Container: "gone", ID: "c3"},
		},
	}
}

func expectNoAllocs(t *testing.T, m *Meter) {
	t.Helper()
	ctx := context.Background()
	if n := testing.AllocsPerRun(20, func() {
		if err := m.round(ctx, true); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("a round of %d targets makes %v allocations", len(m.order), n)
	}
}

func TestRoundAllocatesNothing(t *testing.T) {
	for name, budget := range map[string]int{"kept": 0, "hot only": 20, "openat": -1, "some": 4} {
		t.Run(name, func(t *testing.T) {
			cfg := fixtureConfig()
			cfg.Descriptors = budget
			expectNoAllocs(t, runningMeter(t, cfg))
		})
	}
}

func TestRoundOfTheMachineAllocatesNothing(t *testing.T) {
	kerneltest.Require(t, kerneltest.Root, kerneltest.Cgroup)
	cfg := Config{LimitsInterval: time.Hour, Targets: idleCgroups(t, 10)}
	expectNoAllocs(t, runningMeter(t, cfg))
	cfg.Descriptors = -1
	expectNoAllocs(t, runningMeter(t, cfg))
}

func TestLinksAllocateNothing(t *testing.T) {
	var l links
	defer l.close()
	dump := func() {
		if err := l.dump(); err != nil {
			t.Fatal(err)
		}
	}
	dump() // makes room
	if _, ok := l.of(1); !ok {
		t.Error("there is no link 1, which is lo")
	}
	if n := testing.AllocsPerRun(20, dump); n != 0 {
		t.Errorf("a dump of %d links makes %v allocations", len(l.stats), n)
	}
}

func TestTextAllocatesLittle(t *testing.T) {
	m := runningMeter(t, fixtureConfig())
	ctx := context.Background()
	if n := testing.AllocsPerRun(100, func() {
		if err := m.WriteCAdvisor(ctx, io.Discard); err != nil {
			t.Fatal(err)
		}
	}); n > 40 { // of some 300 lines; the race detector makes pools forget
		t.Errorf("a scrape makes %v allocations", n)
	}
}
