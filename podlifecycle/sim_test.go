package podlifecycle_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// Whole lives of a node: the Manager on the fake runtime in virtual time, with
// pods that come, change and go, programs that crash, calls that fail, hang,
// last, overtake each other or have their effect all the same, events that are
// lost, late or told twice, dying shims, reboots, a clock that is set, restarts
// and crashes of the agent, a node that is short of memory, disk or processes, and
// one that goes down or is about to. After each step the invariants must hold;
// at the end, left in peace, everything wanted must run and nothing else must
// be left. NODEKIT_SIM_SEEDS sets how many, NODEKIT_SIM_SEED plays one again,
// to the letter.
func TestSimulation(t *testing.T) {
	seeds, first := 30, 0
	if testing.Short() {
		seeds = 5
	}
	if n, err := strconv.Atoi(os.Getenv("NODEKIT_SIM_SEEDS")); err == nil {
		seeds = n
	}
	if n, err := strconv.Atoi(os.Getenv("NODEKIT_SIM_SEED")); err == nil {
		seeds, first = 1, n
	}
	defer debug.SetGCPercent(debug.SetGCPercent(800)) // lives are short and small
	const together = 1000                             // a million waiting tests would want memory
	for from := first; from < first+seeds; from += together {
		t.Run(fmt.Sprintf("from %d", from), func(t *testing.T) {
			for seed := from; seed < min(from+together, first+seeds); seed++ {
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					t.Parallel()
					bubble(t, func(t *testing.T) {
						if _, err := simulate(t, uint64(seed)); err != nil {
							t.Errorf("%v\nagain with: NODEKIT_SIM_SEED=%d go test -run TestSimulation ./podlifecycle", err, seed)
						}
					})
				})
			}
		})
	}
}

// A seed gives the same life each time, to the letter. NODEKIT_SIM_REPLAYS adds
// so many seeds of chance.
func TestSimulationReplays(t *testing.T) {
	seeds := []uint64{0, 1, 2, 3, 4, 5, 262, 793, 625577, 696683, 3271584606}
	if n, err := strconv.Atoi(os.Getenv("NODEKIT_SIM_REPLAYS")); err == nil {
		for range n {
			seeds = append(seeds, rand.Uint64N(1<<32))
		}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			replay(t, seed)
		})
	}
}

func replay(t *testing.T, seed uint64) {
	var first []string
	for range 2 {
		bubble(t, func(t *testing.T) {
			trace, err := simulate(t, seed)
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = trace
			}
			for i := range max(len(first), len(trace)) {
				if i >= len(first) || i >= len(trace) || first[i] != trace[i] {
					t.Fatalf("step %d of %d and %d differs:\n%s\nwas\n%s", i, len(trace), len(first),
						strings.Join(trace[max(0, i-20):min(len(trace), i+1)], "\n"), first[min(i, len(first)-1)])
				}
			}
		})
	}
	if len(first) < 200 {
		t.Errorf("a trace of %d lines", len(first))
	}
}

type sim struct {
	*rig
	seed      uint64
	rng       *rand.Rand
	turns     *turns
	clock     *settable
	runtime   *turnRuntime
	desired   map[string]*corev1.Pod
	hostPorts map[string]bool // by name, whether pods have the host port
	ranks     map[string]rank // by name
	serial    int
	moments   int
	node      *simNode
	shuts     shuts
	calm      bool // nothing goes wrong any more
	trace     []string
	began     time.Time
	checks
}

// simulate plays one life, and gives everything that was done in it, in order.
func simulate(t *testing.T, seed uint64) (trace []string, err error) {
	s := newSim(t, seed)
	defer func() {
		s.halt()
		trace = s.trace
		if err != nil {
			err = fmt.Errorf("seed %d: %w\n%s", seed, err, strings.Join(trace[max(0, len(trace)-60):], "\n"))
		}
		if os.Getenv("NODEKIT_SIM_SEED") != "" {
			t.Log(strings.Join(trace, "\n"))
		}
	}()
	s.start()
	s.apply()
	for range 60 {
		s.chaos()
		if err := s.pass(time.Duration(s.rng.IntN(8000)) * time.Millisecond); err != nil {
			return nil, err
		}
	}
	s.calmDown()
	if err := s.settles(); err != nil {
		return nil, err
	}
	if err := s.pass(time.Minute); err != nil {
		return nil, err
	}
	if err := s.lastTrial(); err != nil {
		return nil, err
	}
	s.desired = map[string]*corev1.Pod{}
	s.apply()
	var unrest error
	for range 30 {
		if err := s.pass(10 * time.Second); err != nil {
			return nil, err
		}
		if unrest = s.nothingLeft(); unrest == nil {
			break
		}
	}
	return nil, unrest
}

// settles waits until all is as it shall be.
func (s *sim) settles() (unrest error) {
	for range 60 {
		if err := s.pass(20 * time.Second); err != nil {
			return err
		}
		if unrest = s.atRest(); unrest == nil {
			return nil
		}
	}
	return unrest
}

// lastTrial is what happens to the node in the end, or nothing.
func (s *sim) lastTrial() error {
	switch n := s.rng.IntN(6); {
	case n < 2:
		return s.fall()
	case n < 3:
		return s.starve()
	}
	return nil
}

func newSim(t *testing.T, seed uint64) *sim {
	s := &sim{seed: seed, rng: rand.New(rand.NewPCG(seed, 2)), clock: &settable{}, desired: map[string]*corev1.Pod{}, hostPorts: map[string]bool{}, ranks: map[string]rank{}, began: time.Now(), checks: newChecks()}
	s.turns = newTurns(s.choose)
	fake, err := runtimetest.NewFake(runtimetest.FakeConfig{Clock: s.clock, ImageCapacity: simImageDisk})
	if err != nil {
		t.Fatal(err)
	}
	root := scratch(t)
	s.rig = &rig{t: t, fake: fake, root: root, volumes: &fakeVolumes{root: root}, cgroups: &fakeCgroups{paths: map[string]bool{}}, prober: &fakeProber{}}
	s.runtime = &turnRuntime{fake, s.turns, func(call runtimetest.Call) { s.arrives(call); s.stops(call) }}
	s.runtime.gate()
	s.node = newSimNode(s.turns, s.runtime, root)
	s.tune = func(c *podlifecycle.Config) {
		c.Runtime, c.Clock, c.Seed, c.MaxParallelPulls = s.runtime, &turnClock{s.clock, s.turns}, seed, 100
		c.Volumes, c.Cgroups = &turnVolumes{s.volumes, s.turns}, &turnCgroups{s.cgroups, s.turns}
		c.Prober = &turnProber{s.prober, s.turns}
		c.Eviction = s.node.eviction()
		c.OnStatus = func(pod *corev1.Pod) {
			s.turns.wait("status ", pod.UID, " ", pod.Status.Phase, " ready=", isReady(pod))
			if !s.dead.Load() {
				s.reported(pod)
			}
		}
	}
	return s
}

// scratch is a directory in memory if there is one: what is synced there costs
// nothing.
func scratch(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "nodekit-sim-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// choose has one of those who wait go on; in a calm all are quick.
func (s *sim) choose(keys []string) (int, lead) {
	s.inspect(s.fake, s.shuts.begins)
	i := s.rng.IntN(len(keys))
	key, l, word := keys[i], lead{}, ""
	if strings.HasPrefix(key, timerKey) {
		s.note(key)
		return i, l
	}
	event := strings.HasPrefix(key, "event ")
	if !s.calm {
		switch n := s.rng.IntN(400); {
		case n < 6:
			l.after, word = time.Duration(1+s.rng.IntN(5000))*time.Millisecond+s.moment(), " later"
		case n < 7:
			l.after, word = 40*time.Second+s.moment(), " much later"
		case n < 40 && event:
			l.drop, word = true, " lost"
		case n < 60 && event:
			l.twice, word = true, " twice"
		}
	}
	s.acted = s.acted || l.after == 0 && (strings.HasPrefix(key, string(runtimetest.OpStartContainer)) || strings.HasPrefix(key, string(runtimetest.OpRunContainers)))
	s.note(key + word)
	return i, l
}

func (s *sim) note(text string) {
	s.trace = append(s.trace, fmt.Sprintf("%9.3f %s", time.Since(s.began).Seconds(), text))
}

func (s *sim) start() {
	s.note("the agent starts")
	s.staysUp(false) // the one before may have been ending its pods
	s.node.forget()
	s.incarnation()
	s.rig.start()
	synctest.Wait() // or it would begin beside what comes now
}

// halt ends the agent, in order; those who wait go on and find it ending.
func (s *sim) halt() {
	if s.cancel == nil {
		return
	}
	calm := s.calm
	s.calm = true
	s.cancel()
	for ended := false; !ended; {
		s.turns.pass(0)
		select {
		case err := <-s.done:
			if err != nil {
				s.violated("Run: %v", err)
			}
			ended = true
		default:
			s.turns.pass(100 * time.Millisecond)
		}
	}
	s.turns.pass(0) // timers that ended with it
	s.cancel, s.calm = nil, calm
}

// crash ends the agent in the midst of what it does: its last calls have their
// effect, and the journal ends anywhere in what was written of them.
func (s *sim) crash() {
	for range s.rng.IntN(12) {
		s.turns.one()
	}
	synctest.Wait()
	path := filepath.Join(s.root, "journal")
	before, err := os.ReadFile(path)
	if err != nil {
		s.violated("read journal: %v", err)
		return
	}
	s.turns.one()
	synctest.Wait()
	text, err := os.ReadFile(path)
	part := s.rng.Float64()
	if err == nil && bytes.HasPrefix(text, before) {
		text = text[:len(before)+int(part*float64(len(text)-len(before)+1))]
	}
	s.note("the agent crashes")
	s.dead.Store(true)
	s.halt()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		s.violated("write journal: %v", err)
	}
}

// pass lets time pass and everything happen, and checks.
func (s *sim) pass(d time.Duration) error {
	s.fake.ForgetCalls()
	s.turns.pass(d)
	s.acted = true
	s.inspect(s.fake, s.shuts.begins)
	var running []string
	for _, c := range s.fake.State().Containers {
		if c.State == runtimeiface.ContainerRunning {
			running = append(running, fmt.Sprintf("%s.%s/%d", c.Labels[podlifecycle.LabelPodUID], c.Name, c.Attempt))
		}
	}
	s.note(fmt.Sprint("runs: ", running))
	return s.verdict(s.rig)
}

func (s *sim) apply() {
	var pods []*corev1.Pod
	for i := range s.serial {
		if pod := s.desired[fmt.Sprintf("pod%d", i)]; pod != nil {
			pods = append(pods, pod)
			s.specs[pod.UID] = pod
		}
	}
	s.set(pods...)
}

// moment gives a time that no other is equal to: two things that end at one
// moment would come in any order.
func (s *sim) moment() time.Duration {
	s.moments++
	return time.Duration(s.moments) * time.Microsecond
}

// image gives a name of its own to one of simImages for one container, so that
// calls about it are told apart.
func (s *sim) image(pod, container, base string) string {
	for _, image := range simImages() {
		if image.Ref == base {
			image.Content, image.Ref = base, pod+"-"+container+"-"+base
			own := s.moment()
			if image.PullTakes > 0 {
				image.PullTakes += own
			}
			program, choose := image.Program, image.Choose
			image.Choose = func(p runtimetest.Process) runtimetest.Program {
				out := program
				if choose != nil {
					out = choose(p)
				}
				if out.Exit != nil {
					out.Exit = &runtimetest.Exit{After: out.Exit.After + own, Code: out.Exit.Code}
				}
				out.Exec = func(context.Context, runtimetest.Process, []byte) runtimetest.ExecResult {
					return runtimetest.ExecResult{Takes: 2*time.Second + own}
				}
				return out
			}
			if err := s.fake.AddImage(image); err != nil {
				s.violated("add image: %v", err)
			}
			return image.Ref
		}
	}
	panic("no image " + base)
}
