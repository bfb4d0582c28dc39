package discovery

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/utils/clock"

	"github.com/nodekit/nodekit/metrics"
)

// ErrRunning: Run was called twice.
var ErrRunning = errors.New("the discovery was already run")

// Method is a way to hear of cgroups.
type Method uint8

// The methods, the best first.
const (
	// Fanotify has one mark for each hierarchy.
	Fanotify Method = iota
	// Inotify has one watch for each cgroup and hierarchy.
	Inotify
	// Rescan reads the tree again and again.
	Rescan
	numMethods
)

// String gives the name in lower case.
func (m Method) String() string {
	if m >= numMethods {
		return "unknown"
	}
	return [...]string{"fanotify", "inotify", "rescan"}[m]
}

// Config configures a Discovery.
type Config struct {
	// Below is the path below which cgroups are looked for, itself not
	// included. Empty means "/": all of them.
	Below string
	// Describe names a cgroup, given its path; false leaves it out. It is
	// called by Targets and must not block. Nil names each by its path, as a
	// system container. A StartedAt that it leaves zero is when the cgroup was
	// heard of: the kernel keeps no such time.
	Describe func(cgroup string) (metrics.Target, bool)
	// OnChange is called by Run when cgroups came or went, and with the paths
	// of those whose last process has ended. It must not block;
	// metrics.Meter.Refresh does not. Nil means that nobody is told.
	OnChange func(emptied ...string)
	// First is the method to begin with; where it cannot be had, the next is
	// taken. The zero value is Fanotify.
	First Method
	// Rescan is the time from one reading of the tree to the next. 0 means a
	// minute, and 5 s where nothing tells of changes.
	Rescan time.Duration
	// Max is how many cgroups are kept at most; what is beyond is counted in
	// Stats.Ignored and logged. 0 means 20000.
	Max int
	// CgroupRoot and ProcRoot are as in metrics.Config.
	CgroupRoot, ProcRoot string
	// Clock tells the time. Nil means the real one.
	Clock clock.WithTicker
	// Logger tells of the method and of what is beyond Max. The zero value discards.
	Logger logr.Logger
}

func (c *Config) defaults() error {
	var errs []error
	if c.First >= numMethods {
		errs = append(errs, fmt.Errorf("discovery: Config.First is unknown: %d", c.First))
	}
	if c.Rescan < 0 {
		errs = append(errs, fmt.Errorf("discovery: Config.Rescan is negative: %s", c.Rescan))
	}
	if c.Max < 0 {
		errs = append(errs, fmt.Errorf("discovery: Config.Max is negative: %d", c.Max))
	}
	if c.Below != "" && !path.IsAbs(c.Below) {
		errs = append(errs, fmt.Errorf("discovery: Config.Below is not absolute: %q", c.Below))
	}
	c.Below = path.Clean("/" + c.Below)
	if c.Max == 0 {
		c.Max = 20000
	}
	if c.ProcRoot == "" {
		c.ProcRoot = "/proc"
	}
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	if c.Describe == nil {
		c.Describe = func(cgroup string) (metrics.Target, bool) { return metrics.Target{Container: cgroup}, true }
	}
	if c.OnChange == nil {
		c.OnChange = func(...string) {}
	}
	return errors.Join(errs...)
}

// Stats are counters of a Discovery, since New.
type Stats struct {
	// Method is the one in use; Rescan before Run.
	Method Method
	// Cgroups are known now, and Ignored of the last reading were beyond Max.
	Cgroups, Ignored int
	// Events told of a cgroup that came, went or emptied; Scans are readings of
	// the whole tree, Overflows of them because events were lost.
	Events, Scans, Overflows uint64
	// Watches of inotify are held now.
	Watches int
}

// Discovery finds cgroups. It is safe for concurrent use.
type Discovery struct {
	cfg     Config
	started atomic.Bool

	mu      sync.Mutex
	roots   []string            // a cgroup must be in each
	unified string              // tells of cgroups that empty
	all     uint8               // a bit for each root
	found   map[string]presence // by cgroup
	list    []metrics.Target    // what Targets gives; nil when it must be made anew
	stats   Stats
	// While a scan goes on, events are kept to be applied to what it found.
	scanning bool
	during   []event
	orphaned bool // events came whose cgroup has no path any more
}

var _ metrics.Targets = (*Discovery)(nil)

// presence tells of a cgroup which roots have it, and since when it is found;
// zero for one that was there before anybody listened.
type presence struct {
	in    uint8
	since time.Time
}

// New checks cfg. It reads nothing and starts nothing.
func New(cfg Config) (*Discovery, error) {
	if err := cfg.defaults(); err != nil {
		return nil, err
	}
	return &Discovery{cfg: cfg, found: map[string]presence{}, stats: Stats{Method: Rescan}}, nil
}

// Stats returns the counters.
func (d *Discovery) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.stats
	s.Cgroups = len(d.found)
	return s
}

// Rename has the next Targets ask Describe again for all cgroups.
func (d *Discovery) Rename() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list = nil
}

// Targets gives the cgroups there are, in no order. The slice is shared: do not
// change it. Without Run it reads the tree each time.
func (d *Discovery) Targets(ctx context.Context) ([]metrics.Target, error) {
	if !d.started.Load() || d.Stats().Scans == 0 {
		if err := d.scan(ctx); err != nil {
			return nil, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.list == nil {
		d.list = make([]metrics.Target, 0, len(d.found))
		for cgroup, at := range d.found {
			if at.in != d.all {
				continue
			}
			if t, ok := d.cfg.Describe(cgroup); ok {
				t.Cgroup = cgroup
				if t.StartedAt.IsZero() {
					t.StartedAt = at.since
				}
				d.list = append(d.list, t)
			}
		}
	}
	return d.list, nil
}

// Run hears of changes until ctx ends. A second call returns ErrRunning. It
// returns an error at once if no cgroup hierarchy is found.
func (d *Discovery) Run(ctx context.Context) error {
	if !d.started.CompareAndSwap(false, true) {
		return ErrRunning
	}
	if err := d.locate(); err != nil {
		return err
	}
	watch, stop := d.watch(ctx)
	defer stop()
	period := d.cfg.Rescan
	if period == 0 {
		period = time.Minute
		if watch == nil {
			period = 5 * time.Second
		}
	}
	ticker := d.cfg.Clock.NewTicker(period)
	defer ticker.Stop()
	rescan := true
	for {
		if rescan {
			if err := d.scan(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
			rescan = true
		case lost := <-watch:
			rescan = lost
			if lost {
				d.mu.Lock()
				d.stats.Overflows++
				d.mu.Unlock()
			}
		}
	}
}

// locate finds the hierarchies, once.
func (d *Discovery) locate() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.roots != nil {
		return nil
	}
	roots, unified, err := metrics.Hierarchies(d.cfg.ProcRoot, d.cfg.CgroupRoot)
	if err != nil {
		return err
	}
	d.roots, d.unified, d.all = roots, unified, 1<<len(roots)-1
	return nil
}

// scan reads the whole tree and takes it for the truth.
func (d *Discovery) scan(ctx context.Context) error {
	if err := d.locate(); err != nil {
		return err
	}
	d.mu.Lock()
	d.scanning = true
	d.mu.Unlock()
	found, ignored, err := d.read(ctx)
	d.mu.Lock()
	during := d.during
	d.scanning, d.during = false, nil
	if err != nil {
		d.mu.Unlock()
		return err
	}
	changed := d.stats.Scans == 0 || len(found) != len(d.found)
	for cgroup, at := range found {
		was := d.found[cgroup]
		changed = changed || was.in != at.in
		at.since = was.since
		found[cgroup] = at
	}
	if ignored > 0 && d.stats.Ignored == 0 {
		d.cfg.Logger.Info("more cgroups than are kept", "kept", d.cfg.Max, "ignored", ignored)
	}
	d.found, d.stats.Ignored, d.orphaned = found, ignored, false
	d.stats.Scans++
	for _, e := range during {
		changed = d.apply(e) || changed
	}
	if changed {
		d.list = nil
	}
	d.mu.Unlock()
	if changed {
		d.cfg.OnChange()
	}
	return nil
}

// read walks the roots.
func (d *Discovery) read(ctx context.Context) (found map[string]presence, ignored int, err error) {
	found = map[string]presence{}
	for i, root := range d.roots {
		err := walk(ctx, root, d.cfg.Below, func(cgroup string) {
			if at, ok := found[cgroup]; ok || len(found) < d.cfg.Max {
				at.in |= 1 << i
				found[cgroup] = at
			} else {
				ignored++
			}
		})
		if err != nil {
			return nil, 0, fmt.Errorf("look for cgroups: %w", err)
		}
	}
	if d.unified != "" {
		for cgroup := range found {
			listenTo(path.Join(d.unified, cgroup))
		}
	}
	return found, ignored, nil
}

// event is what a watch tells.
type event struct {
	root   int    // index into roots
	cgroup string // absolute below the root
	kind   kind
	time   time.Time // when it was heard
}

type kind uint8

const (
	made kind = iota
	removed
	emptied
	orphan // something changed in a cgroup that is no more
)

// take applies events in their order.
func (d *Discovery) take(events []event) {
	changed := false
	var ended []string
	now := d.cfg.Clock.Now()
	d.mu.Lock()
	for _, e := range events {
		e.time = now
		if e.kind != orphan && !isBelow(e.cgroup, d.cfg.Below) {
			continue
		}
		d.stats.Events++
		if e.kind == emptied {
			ended = append(ended, e.cgroup)
			continue
		}
		if d.scanning {
			d.during = append(d.during, e)
		}
		changed = d.apply(e) || changed
	}
	if changed {
		d.list = nil
	}
	d.mu.Unlock()
	if changed || len(ended) > 0 {
		d.cfg.OnChange(ended...)
	}
}

// apply says whether what Targets gives has changed. It needs mu.
func (d *Discovery) apply(e event) (changed bool) {
	switch e.kind {
	case orphan:
		d.orphaned = true
	case made:
		at, known := d.found[e.cgroup]
		if !known && len(d.found) >= d.cfg.Max {
			if d.stats.Ignored++; d.stats.Ignored == 1 {
				d.cfg.Logger.Info("more cgroups than are kept", "kept", d.cfg.Max)
			}
			return false
		}
		was := at.in
		if at.in |= 1 << e.root; !known {
			at.since = e.time
		}
		d.found[e.cgroup] = at
		return was != d.all && at.in == d.all
	case removed:
		changed = d.drop(e.root, e.cgroup)
		// What lay below it went before. If that was told too late, it had no
		// path any more: it goes with the first that has one.
		if d.orphaned {
			for name := range d.found {
				if strings.HasPrefix(name, e.cgroup+"/") {
					changed = d.drop(e.root, name) || changed
				}
			}
		}
	}
	return changed
}

// drop takes a cgroup out of a root. It needs mu.
func (d *Discovery) drop(root int, cgroup string) (changed bool) {
	at, known := d.found[cgroup]
	if !known || at.in&(1<<root) == 0 {
		return false
	}
	was := at.in
	if at.in &^= 1 << root; at.in == 0 {
		delete(d.found, cgroup)
	} else {
		d.found[cgroup] = at
	}
	return was == d.all
}

func isBelow(cgroup, parent string) bool {
	if parent == "/" {
		return cgroup != "/"
	}
	return strings.HasPrefix(cgroup, parent+"/")
}
