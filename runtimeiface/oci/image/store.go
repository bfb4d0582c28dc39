package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// A Store is the images of one directory. Safe for concurrent use. Content is
// added by Pull, and goes by Remove and Collect; see the package comment for
// what is kept across a kill.
type Store struct {
	cfg       Config
	lock      *os.File
	transport http.RoundTripper
	slots     *semaphore.Weighted // one per layer being worked on
	flights   flights
	busy      keyLock // one Mount, Unmount at a time per container
	discarded atomic.Uint64

	mu         sync.Mutex
	closed     bool
	images     map[string]*Image    // by ID
	unsaved    bool                 // images.json has some that are gone
	layers     map[string]layer     // whole layers on disk, by diff ID
	pins       map[string]int       // diff IDs that running pulls need
	containers map[string]*record   // by container ID; every entry of containers/
	used       map[string]time.Time // last use by image ID; a missing one is its pull
}

// Open makes or opens the store of cfg.Root, for this process alone
// (ErrLocked), and removes what killed pulls, mounts and removals left, save
// containers, which are [Store.Reap]'s. Close it.
func Open(cfg Config) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Store{
		cfg:        cfg,
		transport:  cfg.Transport,
		slots:      semaphore.NewWeighted(int64(cfg.MaxParallel)),
		images:     map[string]*Image{},
		layers:     map[string]layer{},
		pins:       map[string]int{},
		containers: map[string]*record{},
		used:       map[string]time.Time{},
	}
	if s.transport == nil {
		own := http.DefaultTransport.(*http.Transport).Clone()
		own.ResponseHeaderTimeout = cfg.StallTimeout
		s.transport = own
	}
	if err := s.makeDirs(); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	if s.lock, err = lockFile(s.path("lock")); err != nil {
		return nil, fmt.Errorf("open image store %s: %w", cfg.Root, err)
	}
	if err := s.load(); err != nil {
		_ = s.lock.Close()
		return nil, fmt.Errorf("open image store %s: %w", cfg.Root, err)
	}
	return s, nil
}

// Close lets another process open the store. Mounts stay. Pulls under way are
// cancelled and waited for.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.flights.close()
	if own, ok := s.transport.(*http.Transport); ok && s.cfg.Transport == nil {
		own.CloseIdleConnections()
	}
	return s.lock.Close()
}

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.cfg.Root}, parts...)...)
}

// makeDirs: layers are for root alone, or host users could run the setuid
// programs in them; containers can be passed through, since the roots of
// containers with user namespaces must be reachable.
func (s *Store) makeDirs() error {
	if err := os.MkdirAll(s.cfg.Root, 0o711); err != nil {
		return err
	}
	for dir, mode := range map[string]os.FileMode{
		"layers": 0o700, "ingest": 0o700, "tmp": 0o700, "used": 0o700, "containers": 0o711,
	} {
		if err := os.MkdirAll(s.path(dir), mode); err != nil {
			return err
		}
		if err := os.Chmod(s.path(dir), mode); err != nil {
			return err
		}
	}
	return nil
}

// load reads what is on disk and clears what was left half-done.
func (s *Store) load() error {
	if err := s.emptyTmp(); err != nil {
		return fmt.Errorf("clear leftovers: %w", err)
	}
	if err := s.loadContainers(); err != nil {
		return err
	}
	if err := s.loadLayers(); err != nil {
		return err
	}
	if err := s.loadImages(); err != nil {
		return err
	}
	if err := s.loadUsed(); err != nil {
		return err
	}
	old := time.Now().Add(-leftoverLife)
	if _, err := s.sweepIngest(old); err != nil {
		return fmt.Errorf("clear downloads: %w", err)
	}
	_, err := s.sweepLayers(context.Background(), func(l layer) bool { return l.made.Before(old) })
	return err
}

func (s *Store) emptyTmp() error {
	entries, err := os.ReadDir(s.path("tmp"))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(s.path("tmp", e.Name())))
	}
	return errors.Join(errs...)
}

// sweepIngest removes downloads that nobody has added to since old, and tells
// how many bytes they had.
func (s *Store) sweepIngest(old time.Time) (int64, error) {
	var freed int64
	err := s.eachDownload(func(path string, size int64, added time.Time) error {
		if added.After(old) {
			return nil
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		freed += size
		return nil
	})
	return freed, err
}

// eachDownload calls f for each download that no pull is at.
func (s *Store) eachDownload(f func(path string, size int64, added time.Time) error) error {
	entries, err := os.ReadDir(s.path("ingest"))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		s.flights.unlessFlying(digestName(e.Name()), func() {
			if info, err := e.Info(); err == nil {
				errs = append(errs, f(s.path("ingest", e.Name()), info.Size(), info.ModTime()))
			}
		})
	}
	return errors.Join(errs...)
}

// neededLayers are those of images, containers and pulls. Called with mu held.
func (s *Store) neededLayers() map[string]bool {
	needed := map[string]bool{}
	for _, img := range s.images {
		for _, id := range img.Layers {
			needed[id] = true
		}
	}
	for _, r := range s.containers {
		for _, id := range r.Layers {
			needed[id] = true
		}
	}
	for id := range s.pins {
		needed[id] = true
	}
	return needed
}

// sweepLayers removes the layers that old tells and nobody needs, one after the
// other until ctx ends, and tells how many bytes they had. Each leaves layers/
// under the lock, in one step, and goes at leisure.
func (s *Store) sweepLayers(ctx context.Context, old func(layer) bool) (int64, error) {
	s.mu.Lock()
	var list []string
	for id, l := range s.layers {
		if old(l) {
			list = append(list, id)
		}
	}
	s.mu.Unlock()
	slices.Sort(list)
	var freed int64
	var errs []error
	for _, id := range list {
		if err := ctx.Err(); err != nil {
			return freed, errors.Join(append(errs, err)...)
		}
		l, tmp, err := s.dropLayer(id)
		if err == nil && tmp != "" {
			err = os.RemoveAll(tmp)
		}
		errs = append(errs, err)
		freed += l.Bytes
	}
	return freed, errors.Join(errs...)
}

// dropLayer takes a layer that nobody needs from its place; "" if one does.
func (s *Store) dropLayer(id string) (layer, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.layers[id]
	if !ok || s.closed || s.neededLayers()[id] {
		return layer{}, "", nil
	}
	tmp, err := s.discard(s.path("layers", dirName(id)))
	if err != nil {
		return layer{}, "", err
	}
	delete(s.layers, id)
	return l, tmp, nil
}

// discard moves a file or directory to tmp in one step, for removal at leisure.
// A kill between the two leaves it to the next Open.
func (s *Store) discard(path string) (string, error) {
	// Nobody else makes names here: Open has emptied tmp and holds the lock.
	tmp := s.path("tmp", "gone-"+strconv.FormatUint(s.discarded.Add(1), 10))
	return tmp, os.Rename(path, tmp)
}
