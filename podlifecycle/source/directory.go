package source

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/clock"
)

const (
	defaultReread = 20 * time.Second
	// How long a changed directory must be quiet before it is read, and how
	// long it is waited for that.
	settle, settleAtMost = 10 * time.Millisecond, 200 * time.Millisecond
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
	return &Directory{config: config, root: root, origin: origin{"file", config.NodeName}, files: map[string]*file{}}, nil
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
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		// Often a limit of the user's. Reading still works.
		d.config.Logger.Error(err, "directory is not watched, only read again", "path", d.config.Path, "interval", retry)
		watcher = &fsnotify.Watcher{}
	} else {
		defer func() {
			_ = watcher.Close()
			for range watcher.Events { // closed when its goroutine has ended
			}
		}()
	}
	watched := false
	for first := true; ; first = false {
		if err == nil && !watched {
			// Before reading, so that no change falls between.
			watched = watcher.Add(d.config.Path) == nil
		}
		if set, changed := d.read(); changed || first {
			update(set)
		}
		wait := d.config.Reread
		if !watched {
			wait = min(wait, retry)
		}
		timer := d.config.Clock.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C():
			// A directory that was replaced is no longer the one watched.
			watched = err == nil && watcher.Add(d.config.Path) == nil
		case event := <-watcher.Events:
			if event.Has(fsnotify.Remove|fsnotify.Rename) && filepath.Clean(event.Name) == filepath.Clean(d.config.Path) {
				watched = false
			}
			d.settle(ctx, watcher)
		case <-watcher.Errors:
			// Most likely an overflow: read all again.
		}
		timer.Stop()
	}
}

// settle returns when no event came for a while.
func (d *Directory) settle(ctx context.Context, watcher *fsnotify.Watcher) {
	end := d.config.Clock.NewTimer(settleAtMost)
	defer end.Stop()
	for {
		quiet := d.config.Clock.NewTimer(settle)
		select {
		case <-ctx.Done():
		case <-end.C():
		case <-quiet.C():
		case _, ok := <-watcher.Events:
			quiet.Stop()
			if ok {
				continue
			}
		}
		quiet.Stop()
		return
	}
}

// Read reads the directory once and gives the whole set; what earlier reads
// found in files that are broken now is kept.
func (d *Directory) Read() Set {
	set, _ := d.read()
	return set
}
