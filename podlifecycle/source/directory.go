package source

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/clock"
)

const (
	defaultReread = 20 * time.Second
	// How long the end of writing is waited for.
	settleAtMost = 200 * time.Millisecond
	// explainAtMost is how long a change waits for the kernel to tell of it. On
	// file systems of other machines it never does.
	explainAtMost = 100 * time.Millisecond
	// How often a directory that cannot be watched is looked at.
	retry = time.Second
)

var _ Source = (*Directory)(nil)

// Config of a Directory.
type Config struct {
	// Path of the directory; required. It need not exist yet.
	Path string
	// NodeName is appended to the names of pods, as "-name", and is their
	// spec.nodeName and part of their UID; "" leaves names as they are.
	NodeName string
	// VolumePlugins are the names, in JSON, of volume sources for which the agent has
	// a plug-in; see podlifecycle.Config. Pods with others are refused.
	VolumePlugins []string
	// Reread is how often all is read again, should a notification be lost; 0 means 20 s.
	Reread time.Duration
	// Clock; nil means the real one.
	Clock clock.WithTicker
	// Logger; the zero value discards.
	Logger logr.Logger
}

// Directory reads manifests from a directory, again at each change. Its methods
// may be used concurrently; Run only once.
type Directory struct {
	config Config
	origin origin
	root   string // Path, absolute
	// lastSeen is how often something had happened when Run last read.
	lastSeen uint64

	mu    sync.Mutex
	files map[string]*file
	// dirProblem is why the directory could not be read, nil if it was.
	dirProblem error
	spoken     bool // it was read, or not there, at least once
}

// New checks config; it reads nothing.
func New(config Config) (*Directory, error) {
	var errs []error
	if config.Path == "" {
		errs = append(errs, errors.New("a Path is required"))
	}
	errs = append(errs, checkNode(config.NodeName)...)
	if config.Reread < 0 {
		errs = append(errs, errors.New("negative Reread"))
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("source config: %w", errors.Join(errs...))
	}
	if config.Reread == 0 {
		config.Reread = defaultReread
	}
	if config.Clock == nil {
		config.Clock = clock.RealClock{}
	}
	root, err := filepath.Abs(config.Path)
	if err != nil {
		root = config.Path // no working directory: better a UID than none
	}
	return &Directory{config: config, root: root, origin: origin{"file", config.NodeName, config.VolumePlugins}, files: map[string]*file{}}, nil
}

func checkNode(name string) (errs []error) {
	if name == "" {
		return nil
	}
	for _, message := range validation.IsDNS1123Subdomain(name) {
		errs = append(errs, fmt.Errorf("NodeName %q: %s", name, message))
	}
	return errs
}

// Run calls update with the whole set, at once and whenever the set became
// another, from one goroutine, until ctx ends. It gives nil then.
func (d *Directory) Run(ctx context.Context, update func(Set)) error {
	watcher, err := newWatch()
	if err != nil {
		// Often a limit of the user's. Reading still works.
		d.config.Logger.Error(err, "directory is not watched, only read again", "path", d.config.Path, "interval", retry)
	} else {
		defer watcher.close()
	}
	watched := false
	var told Set
	for first := true; ; first = false {
		if watcher != nil && !watched {
			// Before reading, so that no change falls between.
			watched = watcher.add(d.config.Path)
		}
		set, changed := d.readWhole(ctx, watcher, watched && !first, told)
		if ctx.Err() != nil && !first {
			return nil
		}
		if changed || first {
			update(set)
			told = set
		}
		wait := d.config.Reread
		if !watched {
			wait = min(wait, retry)
		}
		var woken <-chan struct{}
		if watcher != nil {
			woken = watcher.woken()
		}
		timer := d.config.Clock.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C():
			// A directory that was replaced is no longer the one watched.
			watched = watcher != nil && watcher.add(d.config.Path)
		case <-woken:
			watched = watched && !watcher.lost()
		}
		timer.Stop()
	}
}

// readWhole reads when no file is being written, and again if anything happened
// meanwhile: half a manifest may be a valid one. Who writes without end is read
// as he stands. It tells whether the set is another than the one told of.
func (d *Directory) readWhole(ctx context.Context, watcher *watch, watched bool, told Set) (Set, bool) {
	if watcher == nil {
		return d.read()
	}
	end := d.config.Clock.NewTimer(settleAtMost)
	defer end.Stop()
	anything, unexplained := false, watched
	for again := false; ; again = true {
		late := d.settle(ctx, watcher, end.C())
		before, _ := watcher.seen()
		set, changed := d.read()
		anything = anything || changed
		after, _ := watcher.seen()
		if changed && unexplained && after == d.lastSeen {
			// A file is empty some time before the kernel tells of it.
			unexplained = false
			d.await(ctx, watcher, after)
			continue
		}
		if late {
			watcher.poke() // it is not over
		}
		if after == before || late || ctx.Err() != nil {
			d.lastSeen = after
			// What was seen halfway may have become again what it was.
			return set, anything && !(again && reflect.DeepEqual(set, told))
		}
	}
}

// await returns when more than before has happened, or soon.
func (d *Directory) await(ctx context.Context, watcher *watch, before uint64) {
	timer := d.config.Clock.NewTimer(explainAtMost)
	defer timer.Stop()
	for {
		if now, _ := watcher.seen(); now != before {
			return
		}
		select {
		case <-watcher.woken():
		case <-ctx.Done():
			return
		case <-timer.C():
			return
		}
	}
}

// settle returns when every file that was opened for writing is closed. It tells
// whether end came before.
func (d *Directory) settle(ctx context.Context, watcher *watch, end <-chan time.Time) (late bool) {
	for {
		if _, writing := watcher.seen(); !writing {
			return false
		}
		select {
		case <-watcher.woken():
			continue
		case <-ctx.Done():
		case <-end:
		}
		watcher.settled() // one file that is never closed must not hold up the others again
		return true
	}
}

// Read reads the directory once and gives the whole set; what earlier reads
// found in files that are broken now is kept.
func (d *Directory) Read() Set {
	set, _ := d.read()
	return set
}
