package podlifecycle_test

import (
	"bytes"
	"context"
	"errors"
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
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// Whole lives of a node: the Manager on the fake runtime in virtual time, with
// pods that come, change and go, programs that crash, calls that fail, hang,
// last, overtake each other or have their effect all the same, events that are
// lost, late or told twice, dying shims, reboots, a clock that is set, and
// restarts and crashes of the agent. After each step the invariants must hold;
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

// A seed gives the same life each time, to the letter.
func TestSimulationReplays(t *testing.T) {
	for seed := range uint64(6) {
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
						t.Fatalf("seed %d: step %d of %d and %d differs:\n%s\nwas\n%s", seed, i, len(trace), len(first),
							strings.Join(trace[max(0, i-20):min(len(trace), i+1)], "\n"), first[min(i, len(first)-1)])
					}
				}
			})
		}
		if len(first) < 200 {
			t.Errorf("seed %d: a trace of %d lines", seed, len(first))
		}
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
	serial    int
	moments   int
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
	var unrest error
	for range 60 {
		if err := s.pass(20 * time.Second); err != nil {
			return nil, err
		}
		if unrest = s.atRest(); unrest == nil {
			break
		}
	}
	if unrest != nil {
		return nil, unrest
	}
	if err := s.pass(time.Minute); err != nil {
		return nil, err
	}
	s.desired = map[string]*corev1.Pod{}
	s.apply()
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

func newSim(t *testing.T, seed uint64) *sim {
	s := &sim{seed: seed, rng: rand.New(rand.NewPCG(seed, 2)), clock: &settable{}, desired: map[string]*corev1.Pod{}, hostPorts: map[string]bool{}, began: time.Now(), checks: newChecks()}
	s.turns = newTurns(s.choose)
	fake, err := runtimetest.NewFake(runtimetest.FakeConfig{Clock: s.clock})
	if err != nil {
		t.Fatal(err)
	}
	root := scratch(t)
	s.rig = &rig{t: t, fake: fake, root: root, volumes: &fakeVolumes{root: root}, cgroups: &fakeCgroups{paths: map[string]bool{}}, prober: &fakeProber{}}
	s.runtime = &turnRuntime{fake, s.turns, s.arrives}
	s.runtime.gate()
	s.tune = func(c *podlifecycle.Config) {
		c.Runtime, c.Clock, c.Seed, c.MaxParallelPulls = s.runtime, s.clock, seed, 100
		c.Volumes, c.Cgroups = &turnVolumes{s.volumes, s.turns}, &turnCgroups{s.cgroups, s.turns}
		c.Prober = &turnProber{s.prober, s.turns}
		c.OnStatus = func(pod *corev1.Pod) {
			s.turns.wait("status ", pod.UID, " ", pod.Status.Phase, " ready=", isReady(pod))
			s.reported(pod)
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
	s.inspect(s.fake)
	i := s.rng.IntN(len(keys))
	key, l, word := keys[i], lead{}, ""
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
	s.inspect(s.fake)
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

func (s *sim) one(list ...string) string { return list[s.rng.IntN(len(list))] }

func (s *sim) some() string { return fmt.Sprintf("pod%d", s.rng.IntN(s.serial)) }

// chaos does one thing that nobody asked for, or that somebody does ask for.
func (s *sim) chaos() {
	st := s.fake.State()
	n := s.rng.IntN(100)
	s.note(fmt.Sprint("chaos ", n))
	switch {
	case n < 20 || len(s.desired) == 0:
		name := fmt.Sprintf("pod%d", s.serial)
		s.serial++
		s.desired[name] = s.randomPod(name)
		s.apply()
	case n < 30:
		delete(s.desired, s.some())
		s.apply()
	case n < 36: // changed in place
		if pod := s.desired[s.some()]; pod != nil {
			pod = pod.DeepCopy()
			for i := range pod.Spec.Containers {
				if c := &pod.Spec.Containers[i]; c.Resources.Limits != nil {
					c.Resources = s.size()
				}
			}
			if s.rng.IntN(2) == 0 {
				pod.Spec.Containers[0].Image = s.image(pod.Name, "main0", s.one("web:1", "web:2", "flaky:1"))
			}
			s.desired[pod.Name] = pod
			s.apply()
		}
	case n < 41:
		s.replace(s.some())
	case n < 50 && len(st.Containers) > 0:
		_ = s.fake.Exit(st.Containers[s.rng.IntN(len(st.Containers))].ID, int32(s.rng.IntN(4)))
	case n < 54 && len(st.Sandboxes) > 0:
		_ = s.fake.KillShim(st.Sandboxes[s.rng.IntN(len(st.Sandboxes))].ID)
	case n < 56:
		s.fake.Reboot(s.rng.IntN(2) == 0)
	case n < 58:
		s.fake.LoseEvents()
	case n < 60:
		s.fake.Silence(s.rng.IntN(2) == 0)
	case n < 63:
		s.setClock()
	case n < 71:
		s.restart()
	case n < 75:
		s.prober.breaks(s.one("ready", "live", "up"), s.rng.IntN(2) == 0)
	case n < 80:
		s.heal()
	case n < 96:
		ops := []runtimetest.Op{"", runtimetest.OpRunSandbox, runtimetest.OpStopSandbox, runtimetest.OpRemoveSandbox, runtimetest.OpCreateContainer,
			runtimetest.OpRunContainers, runtimetest.OpStartContainer, runtimetest.OpStopContainer, runtimetest.OpRemoveContainer, runtimetest.OpListContainers,
			runtimetest.OpListSandboxes, runtimetest.OpPullImage, runtimetest.OpImageStatus, runtimetest.OpExec, runtimetest.OpSubscribe,
			runtimetest.OpContainerStatus, runtimetest.OpVersion, runtimetest.OpUpdateContainer}
		hang := s.rng.IntN(6) == 0
		s.fake.Inject(runtimetest.Fault{Op: ops[s.rng.IntN(len(ops))], Times: 1 + s.rng.IntN(4), Hang: hang, AfterEffect: s.rng.IntN(2) == 0,
			Err: []error{nil, errors.New("by chance"), runtimeiface.ErrUnavailable}[s.rng.IntN(3)],
			// A hook that hangs may, for ever.
			Match: func(c runtimetest.Call) bool { return !hang || c.Op != runtimetest.OpExec }})
	}
}

// heal ends all faults but the turns.
func (s *sim) heal() {
	s.fake.ClearFaults()
	s.runtime.gate()
}

func (s *sim) setClock() {
	seconds := int64(s.rng.IntN(6*3600)) - 3*3600
	if seconds < 0 {
		s.setBack()
	}
	s.clock.ahead.Add(seconds)
	s.fake.ClockStepped(time.Duration(seconds) * time.Second)
}

// replace puts another pod in the place of one, of the same name and perhaps
// of the same UID.
func (s *sim) replace(name string) {
	if s.desired[name] == nil {
		return
	}
	if s.rng.IntN(2) == 0 {
		delete(s.desired, name)
		s.apply()
		s.turns.pass(0)
	}
	pod := s.randomPod(name)
	if s.rng.IntN(2) == 0 {
		pod.UID += "x"
	}
	s.desired[name] = pod
	if old, err := s.m.Pod("default", name); err == nil && old.UID == pod.UID && old.DeletionTimestamp == nil {
		delete(s.desired, name) // a source would have given it another UID
	}
	s.apply()
}

// restart ends the agent, in order or not, and begins it anew.
func (s *sim) restart() {
	if s.rng.IntN(2) == 0 {
		s.note("the agent stops")
		s.halt()
	} else {
		delete(s.desired, s.some())
		s.apply()
		s.crash()
	}
	s.turns.pass(time.Duration(s.rng.IntN(20)) * time.Second)
	if s.rng.IntN(8) == 0 {
		s.setClock()
	}
	s.start()
	if s.rng.IntN(2) == 0 { // a source has not spoken yet
		var some []*corev1.Pod
		for i := range s.serial {
			if pod := s.desired[fmt.Sprintf("pod%d", i)]; pod != nil && s.rng.IntN(2) == 0 {
				some = append(some, pod)
			}
		}
		s.m.Set(source.Set{Pods: some, Waiting: []string{"late"}})
		s.turns.pass(time.Duration(s.rng.IntN(5000)) * time.Millisecond)
	}
	s.apply()
}

func (s *sim) calmDown() {
	s.note("calm")
	s.calm = true
	s.heal()
	s.fake.Silence(false)
	for _, probe := range []string{"ready", "live", "up"} {
		s.prober.breaks(probe, false)
	}
	s.apply()
}
