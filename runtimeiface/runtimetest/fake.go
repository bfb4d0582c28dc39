package runtimetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/nodekit/nodekit/runtimeiface"
)

// FakeConfig is what a Fake is made of. Its zero value is a runtime without
// images, on the real clock, that writes no logs.
type FakeConfig struct {
	// Clock tells and passes time; nil is the real one. A testing clock of
	// k8s.io/utils/clock/testing makes everything wait for its steps; the real
	// one inside a testing/synctest bubble makes it instant.
	Clock clock.WithDelayedExecution
	// Seed goes into the IDs. Equal seeds and equal calls give equal IDs.
	Seed int64
	// Subnet that sandboxes get addresses from, lowest free first, without its
	// first two; the zero Prefix means 10.88.0.0/16. A subnet of 127.0.0.0/8
	// gives addresses on which a test on Linux can listen.
	Subnet netip.Prefix
	// Images that the registry offers, as if given to AddImage.
	Images []FakeImage
	// RuntimeHandlers beside "" that RunSandbox knows; any other is ErrNotSupported.
	RuntimeHandlers []string
	// WriteLogs makes log directories and files on the real file system.
	WriteLogs bool
	// ImageCapacity in bytes of the file system of images; 0 cannot be told.
	ImageCapacity int64
	// Stat says whether the source of a bind mount is there; nil is os.Stat.
	Stat func(path string) error
}

// Fake is a runtime in memory: stateful, without processes, networks or mounts,
// and keeping every promise of runtimeiface that needs no kernel. What its
// containers do is told by the FakeImage that they are made of.
//
// It is the runtime, not a connection to it: an agent's restart is a new agent
// on the same Fake. It is safe for concurrent use and gives copies. Its goroutines
// are one per subscription, which ends with the subscription's ctx, and one per
// Stdin of a call, which ends with the Read that is under way when the call returns.
type Fake struct {
	clock    clock.WithDelayedExecution
	seed     int64
	subnet   netip.Prefix
	handlers []string
	logs     bool
	stat     func(string) error
	capacity int64

	mu         sync.Mutex
	sandboxes  map[string]*sandbox
	containers map[string]*container
	registry   map[string]*image // by full reference with a tag
	images     map[string]*image // on the node, by ID
	made       map[string]int    // how often each identity was made
	seq        int
	due        schedule
	timer      clock.Timer
	timerAt    time.Time
	calls      []*Call
	faults     []*armedFault
	subs       map[*subscription]struct{}
	silent     bool
}

var _ runtimeiface.Runtime = (*Fake)(nil)

// NewFake makes a Fake. It fails when a reference of cfg.Images cannot be
// parsed or cfg.Subnet has no room.
func NewFake(cfg FakeConfig) (*Fake, error) {
	f := &Fake{
		clock: cfg.Clock, seed: cfg.Seed, subnet: cfg.Subnet.Masked(),
		handlers: slices.Clone(cfg.RuntimeHandlers), logs: cfg.WriteLogs, stat: cfg.Stat, capacity: cfg.ImageCapacity,
		sandboxes: map[string]*sandbox{}, containers: map[string]*container{},
		registry: map[string]*image{}, images: map[string]*image{},
		made: map[string]int{},
		subs: map[*subscription]struct{}{},
	}
	if f.clock == nil {
		f.clock = clock.RealClock{}
	}
	if !cfg.Subnet.IsValid() {
		f.subnet = netip.MustParsePrefix("10.88.0.0/16")
	}
	if f.stat == nil {
		f.stat = func(path string) error { _, err := os.Stat(path); return err }
	}
	var errs []error
	if f.subnet.Addr().BitLen()-f.subnet.Bits() < 2 {
		errs = append(errs, fmt.Errorf("subnet %v: %w: no room for a sandbox", cfg.Subnet, runtimeiface.ErrInvalid))
	}
	for _, img := range cfg.Images {
		errs = append(errs, f.AddImage(img))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return f, nil
}

// Version tells "fake", unless a fault on OpVersion says otherwise.
func (f *Fake) Version(ctx context.Context) (runtimeiface.Version, error) {
	err := f.do(ctx, Call{Op: OpVersion}, func() error { return nil })
	if err != nil {
		return runtimeiface.Version{}, err
	}
	return runtimeiface.Version{Name: "fake", Version: "1", Scheme: "fake"}, nil
}

// lock takes mu and does everything that is due.
func (f *Fake) lock() time.Time {
	f.mu.Lock()
	now := f.now()
	f.runDue(now)
	return now
}

// unlock does what became due meanwhile, sees to it that somebody wakes for
// the next, and gives mu back.
func (f *Fake) unlock() {
	f.runDue(f.now())
	f.rearm()
	f.mu.Unlock()
}

func (f *Fake) now() time.Time { return f.clock.Now().Round(0).UTC() }

// sleep waits on the fake's clock.
func (f *Fake) sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := f.clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// newID is deterministic whatever the order of concurrent calls: it depends on
// the identity and on how often that identity was made before.
func (f *Fake) newID(identity ...any) string {
	key := fmt.Sprintf("%d %q", f.seed, identity)
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", key, f.made[key]))
	f.made[key]++
	return hex.EncodeToString(sum[:])
}

// nextSeq orders what was made at the same moment.
func (f *Fake) nextSeq() int { f.seq++; return f.seq }
