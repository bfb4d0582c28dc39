package nftables

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/nodekit/nodekit/proxyrules"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

var _ proxyrules.Dialect = (*Dialect)(nil)

var errClosed = errors.New("nftables: closed")

// Dialect keeps one table of rules in one network namespace. Its methods may
// be called at the same time; they wait for each other.
type Dialect struct {
	config Config
	sets   [len(families)]*[setCount]*set

	mu     sync.Mutex
	socket *socket
	flows  *netlink.Handle // nil with KeepUDPFlows
	watch  *watcher
	closed bool

	readable   uint32            // see the constant
	begun      bool              // a Sync worked
	applied    *proxyrules.Table // nil: unknown
	generation uint32            // after our last transaction
	state      [len(families)]*familyState
	loaded     *snapshot // from Load, for the first Sync
	// rules are what the kernel told of our rules after the last full sync;
	// nil: not known.
	rules [len(families)]map[string]string
	node  proxyrules.Node // that they were made for
}

// Open connects to the kernel. It changes nothing. The error wraps
// ErrNotSupported if the kernel has no nf_tables.
func Open(config Config) (*Dialect, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	d := &Dialect{config: config, readable: readable}
	for i, f := range families {
		sets := f.sets()
		d.sets[i] = &sets
	}
	if config.NetNS == 0 {
		// Both sockets come from the namespace of this thread.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open network namespace: %w", err)
		}
		defer func() { _ = unix.Close(own) }()
		config.NetNS = own
	}
	var err error
	if d.socket, err = openSocket(config.NetNS); err != nil {
		return nil, translate(err)
	}
	if _, err = d.socket.generation(); err != nil {
		_ = d.socket.close()
		return nil, translate(err)
	}
	if d.watch, err = openWatcher(config.NetNS, config.Table, d.socket.port); err != nil {
		_ = d.socket.close()
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	if !config.KeepUDPFlows {
		if d.flows, err = netlink.NewHandleAt(netns.NsHandle(config.NetNS), unix.NETLINK_NETFILTER); err != nil {
			_ = d.watch.file.Close()
			_ = d.socket.close()
			return nil, fmt.Errorf("open conntrack: %w", err)
		}
	}
	return d, nil
}

func translate(err error) error {
	for _, errno := range []unix.Errno{unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EINVAL, unix.EOPNOTSUPP} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w: %w", ErrNotSupported, err)
		}
	}
	return fmt.Errorf("open nftables: %w", err)
}

// Close releases the sockets and leaves all rules in place.
func (d *Dialect) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	if d.flows != nil {
		d.flows.Close()
	}
	return errors.Join(d.watch.file.Close(), d.socket.close())
}

// Load reads the endpoints that the table in the kernel holds.
func (d *Dialect) Load(ctx context.Context) (*proxyrules.Table, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(ctx); err != nil {
		return nil, err
	}
	s, err := d.read()
	if err != nil {
		return nil, err
	}
	d.loaded = s
	return s.table(), nil
}

func (d *Dialect) usable(ctx context.Context) error {
	if d.closed {
		return errClosed
	}
	return ctx.Err()
}

// Sync makes the kernel hold table, which must not be nil. The error is a *TransactionError if the
// kernel refused; then nothing was changed.
func (d *Dialect) Sync(ctx context.Context, table *proxyrules.Table) (proxyrules.SyncStats, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var stats proxyrules.SyncStats
	if err := d.usable(ctx); err != nil {
		return stats, err
	}
	if d.applied != nil {
		changes := proxyrules.Diff(d.applied, table)
		err := d.change(&changes, table, &stats)
		if err == nil {
			return stats, nil
		}
		if !errors.Is(err, errChanged) {
			d.config.Logger.V(4).Info("change refused, reading all rules", "table", d.config.Table, "reason", err.Error())
		}
	}
	d.applied = nil
	err := d.full(ctx, table, &stats)
	return stats, err
}

// change applies exact differences. errChanged asks for a full sync.
func (d *Dialect) change(changes *proxyrules.Changes, table *proxyrules.Table, stats *proxyrules.SyncStats) error {
	if changes.Node {
		return errChanged
	}
	d.generation = d.watch.catchUp(d.generation)
	if changes.Empty() && !d.overdue() {
		generation, err := d.socket.generation()
		if err == nil && generation != d.generation {
			err = errChanged
		}
		if err == nil {
			d.applied = table
		}
		return err
	}
	var plans [len(families)]*plan // nil: nothing to do
	planOf := func(i int) *plan {
		if plans[i] == nil {
			plans[i] = newPlan(families[i], d.config.MasqueradeMark, d.state[i])
		}
		return plans[i]
	}
	for i := range changes.Fronts {
		change := &changes.Fronts[i]
		n := familyIndex(change)
		if !d.state[n].present {
			return errChanged
		}
		p := planOf(n)
		p.change(change)
		if p.err != nil {
			return errChanged // without what was there before, there may be room
		}
	}
	now := time.Now()
	for i, state := range d.state {
		if state.overdue(now) {
			planOf(i)
		}
	}
	if err := d.prepare(&plans); err != nil {
		return err
	}
	b := newBatch(d.config.Table, d.generation)
	elements := 0
	for i, p := range plans {
		if p == nil {
			continue
		}
		p.finish()
		if len(p.made) > 0 {
			d.rules[0] = nil
		}
		b.apply(p, d.sets[i])
		elements += p.elements
	}
	if !b.empty() {
		b.close()
		if err := d.commit(b); err != nil {
			return err
		}
		d.advance(d.generation)
	}
	stats.Elements = elements
	d.applied = table
	d.forgetFlows(changes, stats)
	return nil
}

func (d *Dialect) overdue() bool {
	now := time.Now()
	return d.state[0].overdue(now) || d.state[1].overdue(now)
}

// prepare makes the chains of source ranges that a change needs, in a transaction
// of its own: a packet on its way while one becomes visible would find it empty,
// and go where it may not.
func (d *Dialect) prepare(plans *[len(families)]*plan) error {
	b := newBatch(d.config.Table, d.generation)
	for _, p := range plans {
		if p != nil {
			b.sources(p)
		}
	}
	if b.empty() {
		return nil
	}
	b.close()
	if err := d.commit(b); err != nil {
		return err
	}
	d.advance(d.generation)
	d.rules[0] = nil
	return nil
}

func familyIndex(c *proxyrules.FrontChange) int {
	if c.Key().Addr.Is4() {
		return 0
	}
	return 1
}

// advance counts our own transaction. The kernel never uses 0.
func (d *Dialect) advance(from uint32) {
	d.generation = from + 1
	if d.generation == 0 {
		d.generation = 1
	}
}

// Cleanup removes the tables of both families, whoever made them.
func (d *Dialect) Cleanup(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(ctx); err != nil {
		return err
	}
	d.applied, d.loaded = nil, nil
	for range 20 {
		d.watch.reading()
		generation, err := d.socket.generation()
		if err != nil {
			return err
		}
		b := newBatch(d.config.Table, generation)
		for _, f := range families {
			var s familySnapshot
			if err := d.readTable(f, &s); err != nil {
				return fmt.Errorf("read table %s %s: %w", f.name, d.config.Table, err)
			}
			if s.present {
				b.delTable(f)
			}
		}
		if b.empty() {
			return nil
		}
		b.close()
		if err := d.commit(b); !errors.Is(err, errChanged) {
			return err
		}
	}
	return fmt.Errorf("remove table %s: %w", d.config.Table, errChanged)
}
