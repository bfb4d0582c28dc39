package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

var _ runtimeiface.Runtime = (*Runtime)(nil)

// lockWait is how long Open waits for another agent to let go of Root.
const lockWait = time.Second

// Runtime is a runtimeiface.Runtime without a daemon. It is safe for
// concurrent use; calls for one pod never wait for another pod.
type Runtime struct {
	cfg      Config
	lockFile *os.File
	store    *image.Store
	net      *network
	cgroups  *cgroups
	hub      *hub
	locks    *locks
	shimPath string
	handlers map[string]handler
	ownCaps  map[string]bool
	// userns: the image store is known to serve user namespaces.
	userns atomic.Bool
	// work is what goes on in the background: calls that their callers gave
	// up on, shims that were lost.
	work sync.WaitGroup
	// mourners wait for the end of shims.
	mourners sync.WaitGroup
	closing  chan struct{}
	cold     chan struct{} // wakes keepWarm

	mu         sync.RWMutex
	sandboxes  map[string]*sandbox
	containers map[string]*container
	warm       []*warmShim           // the oldest first
	undone     map[string][]*sandbox // by pod UID: half made, and neither whole nor gone
	seq        uint64
	closed     bool
}

// Open takes the Root for itself, finishes what a killed agent left half-done
// and takes up the pods that are there. ErrLocked: another agent has the Root.
func Open(cfg Config) (*Runtime, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("oci: %w", err)
	}
	r := &Runtime{
		cfg: cfg, hub: newHub(), locks: newLocks(), closing: make(chan struct{}), cold: make(chan struct{}, 1), handlers: map[string]handler{}, ownCaps: ownCapabilities(),
		sandboxes: map[string]*sandbox{}, containers: map[string]*container{}, undone: map[string][]*sandbox{},
	}
	if err := r.open(); err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("oci: open %s: %w", cfg.Root, err)
	}
	return r, nil
}

func (r *Runtime) open() (err error) {
	// First what may well be missing, before anything is made.
	if r.shimPath, err = findShimProgram(r.cfg.ShimPath); err != nil {
		return err
	}
	if r.cgroups, err = readCgroups(); err != nil {
		return err
	}
	if r.cfg.CgroupDriver == systemdDriver {
		if err := openSystemd(); err != nil {
			return err
		}
	}
	for name, program := range r.cfg.RuntimeHandlers {
		if r.handlers[name], err = r.openHandler(name, program); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(r.cfg.Root, 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(r.cfg.Root, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	r.lockFile = lock
	if err := untilUnlocked(func() error { return unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
		return err
	}
	dirs := []string{filepath.Join(r.cfg.Root, sandboxesDir)}
	for _, h := range r.handlers {
		dirs = append(dirs, h.root)
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	faultPoint("root locked")
	if r.net, err = openNetwork(r.cfg.Network, r.cfg.Root, r.cfg.Logger); err != nil {
		return err
	}
	err = untilUnlocked(func() (err error) {
		r.store, err = image.Open(r.cfg.Images)
		return err
	})
	if err != nil {
		return translate(err)
	}
	faultPoint("store opened")
	if err := r.recover(); err != nil {
		return err
	}
	if r.cfg.WarmShims > 0 {
		r.wantWarm()
		r.work.Go(r.keepWarm)
	}
	return nil
}

// untilUnlocked tries f for a moment. A killed agent can leave a child that was
// about to become a shim, and that holds the agent's locks until then.
func untilUnlocked(f func() error) error {
	deadline := time.Now().Add(lockWait)
	for {
		err := f()
		switch {
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, image.ErrLocked):
			return err
		case time.Now().After(deadline):
			return ErrLocked
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// findShimProgram looks beside the running program, then in PATH.
func findShimProgram(path string) (string, error) {
	const name = "nodekit-shim"
	if path == "" {
		if self, err := os.Executable(); err == nil {
			beside := filepath.Join(filepath.Dir(self), name)
			if _, err := os.Stat(beside); err == nil {
				return beside, nil
			}
		}
		path = name
	}
	found, err := exec.LookPath(path)
	if err != nil {
		return "", fmt.Errorf("find shim: %w", err)
	}
	return filepath.Abs(found)
}

// Close lets another agent open the Root. Pods keep running. It waits for what
// is under way in the background.
func (r *Runtime) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	close(r.closing)
	var shims []*shimClient
	for _, s := range r.sandboxes {
		if s.shim != nil {
			shims = append(shims, s.shim)
		}
	}
	r.mu.Unlock()
	r.work.Wait()
	r.dropWarm()
	r.hub.close()
	for _, c := range shims {
		c.close()
		<-c.lost
	}
	r.mourners.Wait()
	var errs []error
	if r.store != nil {
		errs = append(errs, r.store.Close())
	}
	if r.net != nil {
		r.net.close()
	}
	if r.lockFile != nil {
		errs = append(errs, r.lockFile.Close())
	}
	return errors.Join(errs...)
}

// Purge removes every sandbox, the bridge and the rules, and puts back the
// kernel parameters of the node as they were. Images stay. The Runtime can be used on.
func (r *Runtime) Purge(ctx context.Context) error {
	list, err := r.ListSandboxes(ctx, runtimeiface.SandboxFilter{})
	if err != nil {
		return err
	}
	errs := make([]error, len(list)+1)
	var wg sync.WaitGroup
	for i, s := range list {
		wg.Go(func() { errs[i] = r.RemoveSandbox(ctx, s.ID) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("purge: %w", err)
	}
	r.dropWarm()
	// Cgroups that others put below ours stay.
	_ = r.removeCgroupRoot()
	return r.net.purge()
}

// Version tells the default OCI runtime's, as it was at Open.
func (r *Runtime) Version(ctx context.Context) (runtimeiface.Version, error) {
	if err := r.ready(ctx); err != nil {
		return runtimeiface.Version{}, err
	}
	h := r.handlers[""]
	if _, err := os.Stat(h.Path); err != nil {
		return runtimeiface.Version{}, fmt.Errorf("%w: OCI runtime: %w", runtimeiface.ErrUnavailable, err)
	}
	name := filepath.Base(h.Path)
	version := strings.TrimPrefix(h.version, name+" version ")
	return runtimeiface.Version{Name: "oci/" + name, Version: version, Scheme: "nodekit"}, nil
}

// Subscribe gives events from now on.
func (r *Runtime) Subscribe(ctx context.Context) (<-chan runtimeiface.Event, error) {
	if err := r.ready(ctx); err != nil {
		return nil, err
	}
	return r.hub.subscribe(ctx)
}

func (r *Runtime) ready(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.closed {
		return errClosed
	}
	return nil
}

// begin counts a piece of background work, unless the Runtime is closed.
func (r *Runtime) begin() error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.closed {
		return errClosed
	}
	r.work.Add(1)
	return nil
}

// finish runs f under the lock name to its end, whatever becomes of ctx. If
// ctx ends first its error is given, and what f made is undone.
func finish[T any](ctx context.Context, r *Runtime, name string, f func() (T, error), undo func(T)) (T, error) {
	var zero T
	if err := r.begin(); err != nil {
		return zero, err
	}
	unlock, err := r.locks.lock(ctx, name)
	if err != nil {
		r.work.Done()
		return zero, err
	}
	type result struct {
		v   T
		err error
	}
	done := make(chan result)
	go func() {
		defer r.work.Done()
		defer unlock()
		v, err := f()
		select {
		case done <- result{v, err}:
		case <-ctx.Done():
			if err == nil && undo != nil {
				undo(v)
			}
		}
	}()
	select {
	case res := <-done:
		return res.v, res.err
	case <-ctx.Done():
		return zero, ctx.Err()
	}
}

// finishErr is finish for what gives only an error.
func finishErr(ctx context.Context, r *Runtime, name string, f func() error) error {
	_, err := finish(ctx, r, name, func() (struct{}, error) { return struct{}{}, f() }, nil)
	return err
}
