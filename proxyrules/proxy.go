package proxyrules

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/clock"
)

// ErrStarted is what a second call of Run gives.
var ErrStarted = errors.New("proxy was run before")

// Dialect writes tables into a kernel. Its methods are never called at the
// same time by one Proxy.
type Dialect interface {
	// Load tells what an earlier run left, as far as it can be read: it is
	// only used to give endpoints the index they have there. Nil: nothing.
	Load(ctx context.Context) (*Table, error)
	// Sync makes the kernel hold table, in one transaction: all of it, or an
	// error and nothing of it. It repairs what others changed since the last
	// call.
	Sync(ctx context.Context, table *Table) (SyncStats, error)
	// Cleanup removes all that any run made. Nothing there is no error.
	Cleanup(ctx context.Context) error
}

// SyncStats is what one Sync did.
type SyncStats struct {
	Elements int // set elements added and removed in the kernel
	Flows    int // UDP flows forgotten because their endpoint left
	// FlowsDuration is how long conntrack was looked through; 0: it was not.
	FlowsDuration time.Duration
	// Full says that the kernel's state was read and compared: the first time,
	// after an error, and when another program changed rules.
	Full bool
}

// Config says what a Proxy works on.
type Config struct {
	Dialect Dialect // required
	// Node holds the facts of the machine. The zero value: no node ports and
	// no masquerade but hairpin.
	Node Node
	// Logger's zero value discards.
	Logger logr.Logger
	// Clock is nil for the real one.
	Clock clock.Clock
	// CheckEvery is how often the kernel is asked whether another program
	// changed rules. 0: 10 seconds. Negative: only at the next Set.
	CheckEvery time.Duration
	// MinGap is how long after the end of a sync the next one begins at the
	// soonest, so that a burst comes to few syncs; the first after a longer rest
	// waits for nothing. 0: none waits.
	MinGap time.Duration
	// Watch tells of another program's changes as they happen, until ctx ends;
	// then it returns nil. Program, PID and Lost of the Drift are read. Nil: they
	// are found by CheckEvery alone.
	Watch func(ctx context.Context, notice func(Drift)) error
	// MinRetry and MaxRetry bound the wait after a failed sync, which doubles
	// each time. 0: 100 ms and 30 s.
	MinRetry, MaxRetry time.Duration
}

// Proxy keeps a node's rules as its Services want them. All methods may be
// called at the same time, and at any time.
type Proxy struct {
	dialect    Dialect
	log        logr.Logger
	clock      clock.Clock
	checkEvery time.Duration
	minGap     time.Duration
	watch      func(ctx context.Context, notice func(Drift)) error
	minRetry   time.Duration
	maxRetry   time.Duration
	wake       chan struct{}

	applying sync.Mutex // held around calls of dialect

	mu       sync.Mutex
	started  bool
	node     Node
	known    bool // Set was called
	services list[corev1.Service]
	slices   list[discoveryv1.EndpointSlice]
	setAt    time.Time
	version  uint64                  // of what was set; 0: nothing yet
	built    uint64                  // version that table was built from
	synced   uint64                  // version that the kernel holds
	loaded   bool                    // Load was done
	table    *Table                  // last built
	applied  *Table                  // in the kernel
	failing  time.Time               // since when syncs have failed; zero: the last one worked
	drift    *Drift                  // told of, and not repaired yet
	repairs  [stormRepairs]time.Time // ends of the last ones, oldest first
	status   Status
	records  records
}

// New checks config and makes a Proxy. It does no I/O.
func New(config Config) (*Proxy, error) {
	var errs []error
	if config.Dialect == nil {
		errs = append(errs, errors.New("field Dialect is required"))
	}
	if err := config.Node.check(); err != nil {
		errs = append(errs, err)
	}
	if config.MinRetry < 0 || config.MaxRetry < 0 || config.MinGap < 0 {
		errs = append(errs, errors.New("fields MinGap, MinRetry and MaxRetry must not be negative"))
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("proxy config: %w", errors.Join(errs...))
	}
	p := &Proxy{
		dialect: config.Dialect, log: config.Logger, clock: config.Clock, node: config.Node.clone(),
		checkEvery: config.CheckEvery, minGap: config.MinGap, watch: config.Watch, minRetry: config.MinRetry, maxRetry: config.MaxRetry,
		wake: make(chan struct{}, 1),
	}
	if p.clock == nil {
		p.clock = clock.RealClock{}
	}
	if p.checkEvery == 0 {
		p.checkEvery = 10 * time.Second
	}
	if p.minRetry == 0 {
		p.minRetry = 100 * time.Millisecond
	}
	if p.maxRetry == 0 {
		p.maxRetry = 30 * time.Second
	}
	p.maxRetry = max(p.maxRetry, p.minRetry)
	return p, nil
}

// Set says which Services and EndpointSlices there are: all of them. It
// returns at once; Run applies the last set, so bursts are folded. The objects
// must not be changed afterwards; the slices may.
func (p *Proxy) Set(services []*corev1.Service, endpointSlices []*discoveryv1.EndpointSlice) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.services, p.slices, p.known = newList(p.services, services), newList(p.slices, endpointSlices), true
	p.changed()
}

// SetNode says what the node is like from now on, such as another zone or more
// addresses. The error names all bad fields; then nothing is changed.
func (p *Proxy) SetNode(node Node) error {
	if err := node.check(); err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	node = node.clone()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.node.Equal(node) {
		return nil
	}
	p.node = node
	if p.known {
		p.changed()
	}
	return nil
}

// changed wakes Run; mu is held.
func (p *Proxy) changed() {
	p.status.Queued = p.clock.Now()
	if p.synced == p.version {
		p.setAt = p.status.Queued
	}
	p.version++
	p.poke()
}

func (p *Proxy) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run applies what is set until ctx ends, and then returns nil and leaves the
// rules in place. It touches nothing before the first Set. A second call gives
// ErrStarted.
func (p *Proxy) Run(ctx context.Context) error {
	p.mu.Lock()
	started := p.started
	p.started = true
	p.mu.Unlock()
	if started {
		return ErrStarted
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	if p.watch != nil {
		watching.Go(func() { p.watchDrift(ctx) })
	}
	var retry time.Duration
	for {
		next := p.checkEvery
		if retry > 0 {
			next = retry
		}
		if !p.wait(ctx, p.wake, next) {
			return nil
		}
		if calm := max(p.calm(), p.gap()); calm > 0 && !p.wait(ctx, nil, calm) {
			return nil
		}
		switch err := p.sync(ctx); {
		case err == nil:
			retry = 0
		case ctx.Err() != nil:
			return nil
		default:
			retry = min(max(2*retry, p.minRetry), p.maxRetry)
			p.log.Error(err, "rules not applied", "retryAfter", retry)
		}
	}
}

// gap is how long to wait for more of a burst.
func (p *Proxy) gap() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.minGap - p.clock.Since(p.status.Synced)
}

// wait returns false when ctx has ended.
func (p *Proxy) wait(ctx context.Context, wake <-chan struct{}, timeout time.Duration) bool {
	var expired <-chan time.Time
	if timeout > 0 {
		timer := p.clock.NewTimer(timeout)
		defer timer.Stop()
		expired = timer.C()
	}
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-expired:
	}
	return ctx.Err() == nil
}

func (p *Proxy) sync(ctx context.Context) error {
	p.applying.Lock()
	defer p.applying.Unlock()
	p.mu.Lock()
	version, services, endpointSlices, node := p.version, p.services, p.slices, p.node
	table, built, problems := p.table, p.built, p.status.Problems
	loaded, setAt := p.loaded, p.setAt
	record := SyncRecord{Cause: p.cause(), Queued: setAt}
	drift := p.drift
	p.drift = nil // another may come while this one is seen to
	p.mu.Unlock()
	if version == 0 {
		return nil
	}

	begin := p.clock.Now()
	record.Began = begin
	switch record.Cause {
	case CauseDrift:
		record.Queued = drift.Noticed
	case CauseCheck, CauseRetry:
		record.Queued = begin
	}
	var stats SyncStats
	var err error
	if !loaded {
		table, err = p.dialect.Load(ctx)
	}
	before := table
	if err == nil && (built != version || table == nil) {
		table = build(services, endpointSlices, node, table)
		p.tell(problems, table.problems)
		problems = table.problems
	}
	if err == nil {
		stats, err = p.dialect.Sync(ctx, table)
	}
	end := p.clock.Now()

	p.mu.Lock()
	defer p.mu.Unlock()
	if table != nil {
		p.status.Problems = problems
	}
	record.Ended, record.Stats, record.Err = end, stats, err
	if table != nil {
		record.Fronts = table.Len()
		if table != before {
			record.Services, record.EndpointSlices, record.Triggers = changedObjects(before, table)
		}
	}
	right := p.synced == version && loaded && p.failing.IsZero() // then only another program can have made a difference
	p.status.LastError = err
	if err != nil {
		p.status.Failures++
		if p.failing.IsZero() {
			p.failing = begin
		}
		p.records.add(record)
		if p.drift == nil {
			p.drift = drift
		}
		return err
	}
	p.failing = time.Time{}
	record.Drift = p.repaired(drift, right, stats, end)
	if record.Cause != CauseCheck || record.Drift != nil {
		p.records.add(record)
	}
	p.loaded, p.table, p.built, p.applied = true, table, version, table
	p.status.Syncs++
	p.status.Synced = end
	p.status.Fronts = table.Len()
	if p.synced != version {
		p.status.Latency = end.Sub(setAt)
	}
	if p.synced != version || stats.Elements > 0 {
		p.status.Stats, p.status.Duration = stats, end.Sub(begin)
	}
	p.synced = version
	if p.version != version {
		p.setAt = end // waiting again, from now at the latest
	}
	level := 4
	if stats.Full && stats.Elements > 0 {
		level = 0
	}
	p.log.V(level).Info("rules applied", "fronts", table.Len(), "elements", stats.Elements,
		"flows", stats.Flows, "full", stats.Full, "duration", end.Sub(begin))
	return nil
}

// tell logs the problems that are new.
func (p *Proxy) tell(old, new []Problem) {
	if len(new) == 0 || len(old) == len(new) && &old[0] == &new[0] {
		return
	}
	known := make(map[Problem]bool, len(old))
	for _, problem := range old {
		known[problem] = true
	}
	for _, problem := range new {
		if !known[problem] {
			p.log.Info("service not done as asked", "service", problem.Service, "field", problem.Field, "reason", problem.Reason)
		}
	}
}

// Table is what the kernel holds since the last sync; nil before the first.
func (p *Proxy) Table() *Table {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.applied
}

// Trace says what the applied rules do to a packet.
func (p *Proxy) Trace(packet Packet) Explanation { return Trace(p.Table(), packet) }

// Cleanup removes all rules that this or an earlier run made. Call it after
// Run has returned, or the next sync makes them anew.
func (p *Proxy) Cleanup(ctx context.Context) error {
	p.applying.Lock()
	defer p.applying.Unlock()
	err := p.dialect.Cleanup(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.status.CleanupFailures++
		return fmt.Errorf("clean up rules: %w", err)
	}
	p.applied, p.table, p.loaded, p.built = nil, nil, false, 0
	return nil
}
