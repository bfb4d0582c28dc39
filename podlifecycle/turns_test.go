package podlifecycle_test

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/nodekit/nodekit/podlifecycle/probe"
	"github.com/nodekit/nodekit/podlifecycle/volume"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// turns makes the life of a Manager repeatable. Whatever it does to the world
// waits here until nothing else moves, and then one goes on: which one is the
// simulation's choice and so its seed's. What goroutines do between two turns
// is their own and may happen in any order.
type turns struct {
	mu      sync.Mutex
	waiting []*turn
	came    chan struct{}
	// choose gives the index of who goes on, and how.
	choose func(keys []string) (int, lead)
}

type turn struct {
	key string
	on  chan lead
}

// lead is how somebody goes on: later, and an event not at all or twice.
type lead struct {
	after       time.Duration
	drop, twice bool
}

func newTurns(choose func([]string) (int, lead)) *turns {
	return &turns{came: make(chan struct{}, 1), choose: choose}
}

// wait is called by those who act on the world, within its bubble.
func (t *turns) wait(parts ...any) lead {
	me := &turn{key: fmt.Sprint(parts...), on: make(chan lead)}
	for {
		t.mu.Lock()
		t.waiting = append(t.waiting, me)
		t.mu.Unlock()
		select {
		case t.came <- struct{}{}:
		default:
		}
		l := <-me.on
		if l.after == 0 {
			return l
		}
		time.Sleep(l.after)
	}
}

// one lets one go on, and tells whether somebody was there.
func (t *turns) one() bool {
	synctest.Wait()
	t.mu.Lock()
	if len(t.waiting) == 0 {
		t.mu.Unlock()
		return false
	}
	slices.SortStableFunc(t.waiting, func(a, b *turn) int { return cmp.Compare(a.key, b.key) })
	keys := make([]string, len(t.waiting))
	for i, w := range t.waiting {
		keys[i] = w.key
	}
	t.mu.Unlock()
	i, how := t.choose(keys)
	t.mu.Lock()
	next := t.waiting[i : i+1]
	if strings.HasPrefix(keys[i], timerKey) { // alike, and of goroutines that share nothing
		for i > 0 && keys[i-1] == keys[i] {
			i--
		}
		last := i
		for last < len(keys) && keys[last] == keys[i] {
			last++
		}
		next = t.waiting[i:last]
	}
	next = slices.Clone(next)
	t.waiting = slices.DeleteFunc(t.waiting, func(w *turn) bool { return slices.Contains(next, w) })
	t.mu.Unlock()
	for _, w := range next {
		w.on <- how
	}
	return true
}

// pass lets time pass, and everybody go on whose turn comes.
func (t *turns) pass(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	over := false
	for {
		if t.one() {
			continue
		}
		if over {
			return
		}
		select {
		case <-t.came:
		case <-timer.C:
			over = true
		}
	}
}

// turnRuntime is a Fake whose calls and events wait for their turn.
type turnRuntime struct {
	*runtimetest.Fake
	turns *turns
	// arrives is told of each call as it comes.
	arrives func(runtimetest.Call)
}

// gate meets every call of the Fake before it does anything.
func (r *turnRuntime) gate() {
	r.Inject(runtimetest.Fault{Match: func(c runtimetest.Call) bool {
		if c.Op == runtimetest.OpListContainers || c.Op == runtimetest.OpListSandboxes {
			return false // these come with a filter that a Call does not tell
		}
		r.arrives(c)
		r.turns.wait(c.Op, " ", c.PodUID, " ", short(c.SandboxID), " ", c.Container, "/", c.Attempt, " ", short(c.ContainerID), " ", c.Image, " ", c.Command, " ", c.Grace)
		return false
	}})
}

func (r *turnRuntime) ListSandboxes(ctx context.Context, f runtimeiface.SandboxFilter) ([]runtimeiface.Sandbox, error) {
	r.turns.wait(runtimetest.OpListSandboxes, " ", f.UID, " ", f.Labels)
	return r.Fake.ListSandboxes(ctx, f)
}

func (r *turnRuntime) ListContainers(ctx context.Context, f runtimeiface.ContainerFilter) ([]runtimeiface.Container, error) {
	r.turns.wait(runtimetest.OpListContainers, " ", short(f.SandboxID), " ", f.Labels)
	return r.Fake.ListContainers(ctx, f)
}

// What lasts comes back in its turn too, because it may be cancelled.

func (r *turnRuntime) back(parts ...any) { r.turns.wait(append([]any{"back from "}, parts...)...) }

func (r *turnRuntime) RunSandbox(ctx context.Context, spec runtimeiface.SandboxSpec) (string, error) {
	defer r.back("RunSandbox ", spec.UID)
	return r.Fake.RunSandbox(ctx, spec)
}

func (r *turnRuntime) StopSandbox(ctx context.Context, id string) error {
	defer r.back("StopSandbox ", short(id))
	return r.Fake.StopSandbox(ctx, id)
}

func (r *turnRuntime) RemoveSandbox(ctx context.Context, id string) error {
	defer r.back("RemoveSandbox ", short(id))
	return r.Fake.RemoveSandbox(ctx, id)
}

func (r *turnRuntime) CreateContainer(ctx context.Context, id string, spec runtimeiface.ContainerSpec) (string, error) {
	defer r.back("CreateContainer ", short(id), " ", spec.Name)
	return r.Fake.CreateContainer(ctx, id, spec)
}

func (r *turnRuntime) UpdateContainer(ctx context.Context, id string, resources specs.LinuxResources) error {
	defer r.back("UpdateContainer ", short(id))
	return r.Fake.UpdateContainer(ctx, id, resources)
}

func (r *turnRuntime) StartContainer(ctx context.Context, id string) error {
	defer r.back("StartContainer ", short(id))
	return r.Fake.StartContainer(ctx, id)
}

func (r *turnRuntime) RunContainers(ctx context.Context, id string, list []runtimeiface.ContainerSpec) ([]string, error) {
	defer r.back("RunContainers ", short(id))
	return r.Fake.RunContainers(ctx, id, list)
}

func (r *turnRuntime) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	defer r.back("StopContainer ", short(id), " ", grace)
	return r.Fake.StopContainer(ctx, id, grace)
}

func (r *turnRuntime) RemoveContainer(ctx context.Context, id string) error {
	defer r.back("RemoveContainer ", short(id))
	return r.Fake.RemoveContainer(ctx, id)
}

func (r *turnRuntime) PullImage(ctx context.Context, spec runtimeiface.ImageSpec, progress func(runtimeiface.PullProgress)) (runtimeiface.Image, error) {
	defer r.back("PullImage ", spec.Ref)
	return r.Fake.PullImage(ctx, spec, progress)
}

func (r *turnRuntime) ImageStatus(ctx context.Context, ref string) (runtimeiface.Image, error) {
	defer r.back("ImageStatus ", ref)
	return r.Fake.ImageStatus(ctx, ref)
}

func (r *turnRuntime) Exec(ctx context.Context, id string, spec runtimeiface.ExecSpec) (int, error) {
	defer r.back("Exec ", short(id))
	return r.Fake.Exec(ctx, id, spec)
}

func (r *turnRuntime) Subscribe(ctx context.Context) (<-chan runtimeiface.Event, error) {
	in, err := r.Fake.Subscribe(ctx)
	if err != nil {
		return nil, err
	}
	out := make(chan runtimeiface.Event)
	send := func(e runtimeiface.Event) {
		select {
		case out <- e:
		case <-ctx.Done():
		}
	}
	go func() {
		defer close(out)
		for e := range in {
			name := fmt.Sprint(e.PodUID, " ", e.Type, " ", short(e.SandboxID), " ", short(e.ContainerID))
			l := r.turns.wait("event ", name)
			if l.drop {
				continue
			}
			send(e)
			if l.twice { // in a turn of its own: whether one look serves both is chance otherwise
				r.turns.wait("again event ", name)
				send(e)
			}
		}
	}()
	return out, nil
}

func short(id string) string { return id[:min(len(id), 6)] }

type turnProber struct {
	*fakeProber
	turns *turns
}

func (p *turnProber) Probe(ctx context.Context, target probe.Target, spec *corev1.Probe) (probe.Result, string, error) {
	p.turns.wait("probe ", short(target.ContainerID), " ", target.Container.Name, " ", spec.Exec.Command)
	return p.fakeProber.Probe(ctx, target, spec)
}

type turnVolumes struct {
	*fakeVolumes
	turns *turns
}

func (v *turnVolumes) Setup(ctx context.Context, pod *corev1.Pod, objects volume.Objects) error {
	v.turns.wait("set up volumes ", pod.UID)
	return v.fakeVolumes.Setup(ctx, pod, objects)
}

func (v *turnVolumes) Update(ctx context.Context, pod *corev1.Pod, objects volume.Objects) ([]string, error) {
	v.turns.wait("update volumes ", pod.UID)
	return v.fakeVolumes.Update(ctx, pod, objects)
}

func (v *turnVolumes) Teardown(ctx context.Context, uid types.UID) error {
	v.turns.wait("tear down volumes ", uid)
	return v.fakeVolumes.Teardown(ctx, uid)
}

type turnCgroups struct {
	*fakeCgroups
	turns *turns
}

func (c *turnCgroups) Ensure(ctx context.Context, path string, r *specs.LinuxResources) error {
	c.turns.wait("make cgroup ", path)
	return c.fakeCgroups.Ensure(ctx, path, r)
}

func (c *turnCgroups) Remove(ctx context.Context, path string) error {
	c.turns.wait("remove cgroup ", path)
	return c.fakeCgroups.Remove(ctx, path)
}

// MemoryUsage is little, so that every limit can be set.
func (c *turnCgroups) MemoryUsage(context.Context, string) (int64, error) { return 1 << 20, nil }

// settable is a clock that can be set as a node's can: what it shows jumps,
// while timers and the time between two looks at it do not.
type settable struct {
	clock.RealClock
	ahead atomic.Int64 // seconds
}

var _ clock.WithTickerAndDelayedExecution = (*settable)(nil)

func (c *settable) Now() time.Time                  { return reading(time.Now(), c.ahead.Load()) }
func (c *settable) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

// turnClock is a settable clock whose timers and tickers have turns too: of two
// that end at one moment, one is told after the other.
type turnClock struct {
	*settable
	turns *turns
}

const timerKey = "timer "

func (c *turnClock) NewTimer(d time.Duration) clock.Timer {
	t := c.timer(d)
	t.set(d)
	return t
}

func (c *turnClock) NewTicker(d time.Duration) clock.Ticker {
	t := c.timer(d)
	t.period = d
	t.set(d)
	return turnTicker{t}
}

// timer is known by those who made it, and what for.
func (c *turnClock) timer(d time.Duration) *turnTimer {
	var pcs [3]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	key := fmt.Sprint(timerKey, d, " ")
	for more := true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		key += f.Function[strings.LastIndexByte(f.Function, '/')+1:] + " "
	}
	return &turnTimer{turns: c.turns, key: key, out: make(chan time.Time, 1)}
}

type turnTimer struct {
	turns  *turns
	key    string
	period time.Duration // of a ticker
	out    chan time.Time

	mu   sync.Mutex
	real *time.Timer
	life int // what is not of the present one is not told
}

func (t *turnTimer) set(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	life := t.life
	t.real = time.AfterFunc(d, func() { t.end(life) })
}

func (t *turnTimer) end(life int) {
	t.turns.wait(t.key)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.life != life {
		return
	}
	select {
	case t.out <- time.Now():
	default:
	}
	if t.period > 0 {
		t.real = time.AfterFunc(t.period, func() { t.end(life) })
	}
}

func (t *turnTimer) C() <-chan time.Time { return t.out }

func (t *turnTimer) Stop() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.life++
	waits := len(t.out) > 0
	if waits {
		<-t.out
	}
	return t.real.Stop() || waits
}

func (t *turnTimer) Reset(d time.Duration) bool {
	active := t.Stop()
	t.set(d)
	return active
}

type turnTicker struct{ *turnTimer }

func (t turnTicker) Stop() { t.turnTimer.Stop() }

// reading gives what a clock that is ahead by seconds shows at a moment, with
// the monotonic reading that times in a bubble lack. No function of package
// time makes such a value, so its words are put together here: a bit, 33 bits of
// seconds since 1885 and 30 of nanoseconds, then the monotonic nanoseconds.
func reading(t time.Time, seconds int64) time.Time {
	begin := time.Date(1885, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	var shown time.Time
	words := (*[2]uint64)(unsafe.Pointer(&shown))
	words[0] = 1<<63 | uint64(t.Unix()+seconds-begin)<<30 | uint64(t.Nanosecond())
	words[1] = uint64(t.UnixNano())
	return shown
}

func TestSettableClock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := &settable{}
		before := c.Now()
		c.ahead.Store(-7200)
		time.Sleep(time.Second)
		after := c.Now()
		if after.Sub(before) != time.Second || after.Round(0).Sub(before.Round(0)) != time.Second-2*time.Hour || !before.Equal(time.Now().Add(-time.Second)) {
			t.Errorf("%v, then %v", before, after)
		}
	})
}
