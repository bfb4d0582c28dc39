package metrics

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/utils/clock"
)

// Targets tells what to meter: the whole set each time, in any order. A target
// that is no longer in it is forgotten, but for its last sample in Exited. It is called once
// a round, from the goroutine of the round, which waits for it: answer from
// memory, not from a runtime that may hang.
type Targets interface {
	Targets(ctx context.Context) ([]Target, error)
}

// Labels chooses what /metrics/cadvisor says.
type Labels uint8

const (
	// Compat has the families and labels of the kubelet: container, id, image,
	// name, namespace, pod.
	Compat Labels = iota
	// Lean has container, namespace and pod.
	Lean
)

// Config configures a Meter.
type Config struct {
	// Targets are the cgroups to meter beside the node. Nil means none.
	Targets Targets
	// Interval is the time from one round to the next. 0 means 10 s.
	Interval time.Duration
	// ColdInterval is how often threads, I/O, network and pressure are read; CPU
	// and memory are read each round. 0 means each round.
	ColdInterval time.Duration
	// LimitsInterval is how often limits are read, with the peak and failures of
	// memory, processes and their open files, huge pages and file systems; and
	// files that were absent looked for again. 0 means 30 s.
	LimitsInterval time.Duration
	// Window is the time over which CPURate is taken. 0 means the last two
	// rounds.
	Window time.Duration
	// History is the number of points kept of each target, one a round, of
	// about 110 bytes. 0 means 60.
	History int
	// Descriptors is how many files may be kept open for speed, each with about
	// 4.4 KiB of kernel memory. While it lasts for all that is read of all
	// cgroups (some thirteen files each) all are kept, else three of each, and
	// cgroups beyond that are read all the same, at more than twice the cost.
	// 0 means 4096; negative means none. Run keeps one more for each hierarchy.
	Descriptors int
	// Exited is how many last samples of targets that are no longer listed are
	// kept. 0 means 100; negative means none.
	Exited int
	// OnDisk tells what a container has in its writable layer and its logs, or a
	// pod of its own beside those of its containers, which their runtime knows or
	// a quota: a Meter walks no directories. It is called as often as limits are
	// read, from the goroutine of the round, which waits for it: answer from
	// memory. Nil, and a DiskUse whose At is zero: it is not known.
	OnDisk func(Target) (written, logs DiskUse)
	// Sockets has open sockets counted as often as limits are read, at the price
	// of a readlink for every open file, of at most 10,000 a container.
	Sockets bool
	// Labels chooses what WriteCAdvisor says. The zero value is Compat.
	Labels Labels
	// Timestamps puts the time of reading on each series of WriteCAdvisor.
	Timestamps bool
	// CgroupRoot is where to look for hierarchies in place of this process's
	// mounts: a v2 hierarchy, or a directory of v1 ones. Empty means the mounts.
	CgroupRoot string
	// ProcRoot is where procfs is mounted. Empty means /proc.
	ProcRoot string
	// SysRoot is where sysfs is mounted. Empty means /sys.
	SysRoot string
	// Clock tells the time. Nil means the real one.
	Clock clock.WithTicker
	// Logger tells of hierarchies found and targets lost. The zero value discards.
	Logger logr.Logger
}

func (c *Config) defaults() error {
	var errs []error
	for name, d := range map[string]*time.Duration{
		"Interval": &c.Interval, "ColdInterval": &c.ColdInterval,
		"LimitsInterval": &c.LimitsInterval, "Window": &c.Window,
	} {
		if *d < 0 {
			errs = append(errs, fmt.Errorf("metrics: Config.%s is negative: %s", name, *d))
		}
	}
	if c.History < 0 || c.History == 1 {
		errs = append(errs, fmt.Errorf("metrics: Config.History is %d: a rate needs two points", c.History))
	}
	if c.Labels > Lean {
		errs = append(errs, fmt.Errorf("metrics: Config.Labels is unknown: %d", c.Labels))
	}
	if c.Interval == 0 {
		c.Interval = 10 * time.Second
	}
	if c.LimitsInterval == 0 {
		c.LimitsInterval = 30 * time.Second
	}
	if c.History == 0 {
		c.History = 60
	}
	if c.Exited == 0 {
		c.Exited = 100
	}
	if c.Descriptors == 0 {
		c.Descriptors = 4096
	}
	if c.ProcRoot == "" {
		c.ProcRoot = "/proc"
	}
	if c.SysRoot == "" {
		c.SysRoot = "/sys"
	}
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	return errors.Join(errs...)
}

// A Meter samples cgroups and the node. All methods are safe for concurrent use.
type Meter struct {
	cfg     Config
	started atomic.Bool
	poke    chan struct{}

	// turn is held by who samples; it guards the next block.
	turn    chan struct{}
	reader  *reader
	work    *Sample // what a round writes to, before it is published
	running bool
	// networks says that a target has a network of its own.
	networks bool
	above    map[string]*above    // cgroups with several targets right below, by path
	oom      map[string]*oomCount // by pod UID
	cold     time.Time            // last read of the cold groups
	limits   time.Time
	failing  bool   // Targets fails; told once
	mark     uint64 // number of the round

	mu     sync.RWMutex
	node   *state
	states map[string]*state // by cgroup
	order  []*state          // sorted by namespace, pod, container, cgroup; never changed in place
	exited []Sample          // oldest first, at most Config.Exited
	asked  []string          // cgroups that Refresh named
	begun  time.Time         // when the last whole round began
	stats  Stats
}

const maxAsked = 4096

// Stats are counters of the meter itself, since New.
type Stats struct {
	// Rounds were made, and Coalesced requests shared a round of another.
	// Glances were looks at new targets only.
	Rounds, Coalesced, Glances uint64
	// Busy is the time that all rounds took, LastRound the last one.
	Busy, LastRound time.Duration
	// ReadErrors counts files that gave no figures though the kernel offers them.
	ReadErrors uint64
	// TargetErrors counts rounds that Targets failed; they kept the old set.
	TargetErrors uint64
	// Targets are metered now, and Gone of them have no cgroup.
	Targets, Gone int
	// Descriptors are kept open now.
	Descriptors int
	// Linked pods had their network read by one dump of the node's interfaces.
	Linked int
	// Reads of files of cgroups were made, and Spared were not, for the file
	// would have told what it told before; see the package's comment.
	Reads, Spared uint64
}

// New checks cfg. It reads nothing and starts nothing.
func New(cfg Config) (*Meter, error) {
	if err := cfg.defaults(); err != nil {
		return nil, err
	}
	m := &Meter{
		cfg: cfg, poke: make(chan struct{}, 1), turn: make(chan struct{}, 1),
		work: new(Sample), oom: map[string]*oomCount{}, states: map[string]*state{},
	}
	m.node = newState(Target{Cgroup: "/"}, cfg.History)
	return m, nil
}

// Run samples every Config.Interval until ctx ends, and then closes what it
// kept open. A second call returns ErrRunning. It returns an error at once if
// no cgroup hierarchy is found.
func (m *Meter) Run(ctx context.Context) error {
	if !m.started.CompareAndSwap(false, true) {
		return ErrRunning
	}
	if err := m.take(ctx); err != nil {
		return nil
	}
	if err := m.open(); err != nil {
		m.give()
		return err
	}
	m.running, m.reader.keep = true, true
	m.reader.keepRoots()
	m.give()
	defer m.stop()

	ticker := m.cfg.Clock.NewTicker(m.cfg.Interval)
	defer ticker.Stop()
	scheduled := true
	for {
		if err := m.take(ctx); err != nil {
			return nil
		}
		var err error
		if scheduled {
			err = m.round(ctx, true)
		} else {
			err = m.glance(ctx)
		}
		m.give()
		if err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
			scheduled = true
		case <-m.poke:
			scheduled = false
		}
	}
}

// Refresh asks Run to look soon, for a target has come or gone. It does not
// wait, and many calls may lead to one look. Read are the targets that were not
// read yet, and those whose cgroups are given: say those whose processes have
// ended and that will be removed. Others wait for their round, so that a look
// costs what is new.
func (m *Meter) Refresh(cgroups ...string) {
	if len(cgroups) > 0 {
		m.mu.Lock()
		if len(m.asked) < maxAsked { // beyond it they wait for their round too
			m.asked = append(m.asked, cgroups...)
		}
		m.mu.Unlock()
	}
	select {
	case m.poke <- struct{}{}:
	default:
	}
}

// Exited returns the last samples of targets that are no longer listed, the
// newest last; those that were never read are not among them. The samples are
// copies.
func (m *Meter) Exited() []Sample {
	m.mu.RLock()
	defer m.mu.RUnlock()
	samples := make([]Sample, 0, len(m.exited))
	for i := range m.exited {
		samples = append(samples, m.exited[i].clone())
	}
	return samples
}

// Stats returns the meter's own counters.
func (m *Meter) Stats() Stats {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.stats
}

// Sample returns the newest sample of the target with that cgroup, or of the
// node for "/". It is at most maxAge old, or begun no sooner than the call if
// maxAge is 0: whoever asks for a sample that is too old makes a round, and all
// who ask in the meantime share it. It works without Run too, but then keeps no
// descriptors. An unknown cgroup gives ErrUnknownTarget.
func (m *Meter) Sample(ctx context.Context, cgroup string, maxAge time.Duration) (Sample, error) {
	if err := m.fresh(ctx, maxAge); err != nil {
		return Sample{}, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	st := m.lookup(cgroup)
	if st == nil {
		return Sample{}, fmt.Errorf("sample %s: %w", cgroup, ErrUnknownTarget)
	}
	return st.last.clone(), nil
}

// Samples returns the newest samples of the node, which comes first, and of
// all targets, sorted by namespace, pod, container, start and cgroup, so that
// a pod stands before its containers. maxAge is as for Sample. The samples are copies.
func (m *Meter) Samples(ctx context.Context, maxAge time.Duration) ([]Sample, error) {
	if err := m.fresh(ctx, maxAge); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	samples := make([]Sample, 0, 1+len(m.order))
	samples = append(samples, m.node.last.clone())
	for _, st := range m.order {
		samples = append(samples, st.last.clone())
	}
	return samples, nil
}

// History returns the points kept of a target, oldest first; of the node for
// "/". An unknown cgroup gives ErrUnknownTarget.
func (m *Meter) History(cgroup string) ([]Point, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	st := m.lookup(cgroup)
	if st == nil {
		return nil, fmt.Errorf("history of %s: %w", cgroup, ErrUnknownTarget)
	}
	return st.ring.appendTo(make([]Point, 0, st.ring.len())), nil
}

// lookup needs mu.
func (m *Meter) lookup(cgroup string) *state {
	cgroup = cleanCgroup(cgroup)
	if cgroup == "/" {
		return m.node
	}
	return m.states[cgroup]
}

// fresh returns when the last round is at most maxAge old.
func (m *Meter) fresh(ctx context.Context, maxAge time.Duration) error {
	asked := m.cfg.Clock.Now()
	if m.youngerThan(asked.Add(-maxAge)) {
		return nil
	}
	if err := m.take(ctx); err != nil {
		return err
	}
	defer m.give()
	// A round that began after the question answers it.
	if m.youngerThan(asked.Add(-maxAge)) {
		m.mu.Lock()
		m.stats.Coalesced++
		m.mu.Unlock()
		return nil
	}
	if err := m.open(); err != nil {
		return err
	}
	return m.round(ctx, !m.running)
}

func (m *Meter) youngerThan(t time.Time) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return !m.begun.IsZero() && !m.begun.Before(t)
}

// take waits for the turn.
func (m *Meter) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case m.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *Meter) give() { <-m.turn }

// open finds the hierarchies, once. It needs the turn.
func (m *Meter) open() error {
	if m.reader != nil {
		return nil
	}
	if !supported {
		return ErrNotSupported
	}
	l, err := findLayout(m.cfg.ProcRoot, m.cfg.CgroupRoot)
	if err != nil {
		return err
	}
	m.reader = newReader(m.cfg.ProcRoot, m.cfg.SysRoot, l, m.cfg.Descriptors, m.cfg.Clock.Now)
	m.reader.countsSockets = m.cfg.Sockets
	if text, err := os.ReadFile(m.cfg.ProcRoot + "/stat"); err == nil {
		m.mu.Lock()
		m.node.label(Target{Cgroup: "/", StartedAt: bootTime(text)})
		m.mu.Unlock()
	}
	m.cfg.Logger.Info("cgroup hierarchies found", "cpu", l[controllerCPUAcct].version,
		"memory", l[controllerMemory].version, "pids", l[controllerPids].version,
		"io", l[controllerIO].version, "pressure", l[controllerPressure].version)
	return nil
}

// stop closes what Run kept.
func (m *Meter) stop() {
	m.turn <- struct{}{}
	defer m.give()
	m.running, m.reader.keep = false, false
	m.reader.links.close()
	m.reader.releaseRoots()
	m.reader.release(&m.node.handle)
	for _, st := range m.states {
		m.reader.release(&st.handle)
	}
	for _, a := range m.above {
		m.reader.leaveAbove(a)
	}
	m.mu.Lock()
	m.stats.Descriptors = m.reader.kept
	m.mu.Unlock()
}
