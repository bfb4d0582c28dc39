package image

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

var errClosed = errors.New("image store is closed")

// A flight is the work on one layer, shared by all pulls that wait for it. It
// is cancelled when the last of them has gone.
type flight struct {
	cancel  context.CancelFunc
	waiters int // guarded by flights.mu
	landed  chan struct{}
	err     error  // set before landed closes
	diffID  string // likewise: what the blob turned out to hold

	phase atomic.Pointer[Phase]
	done  atomic.Int64 // compressed bytes here
}

func (f *flight) setPhase(p Phase) { f.phase.Store(&p) }

// flights coalesces work by key.
type flights struct {
	mu     sync.Mutex
	flying map[string]*flight
	closed bool
	wg     sync.WaitGroup
}

// board joins the flight of key, or starts one that does work. Leave it. A
// flight that is being cancelled is waited for, so that no two ever have the
// same files.
func (fs *flights) board(key string, work func(context.Context, *flight) error) (*flight, error) {
	for {
		fs.mu.Lock()
		if fs.closed {
			fs.mu.Unlock()
			return nil, errClosed
		}
		f := fs.flying[key]
		if f == nil {
			f = fs.start(key, work)
			fs.mu.Unlock()
			return f, nil
		}
		if f.waiters > 0 {
			f.waiters++
			fs.mu.Unlock()
			return f, nil
		}
		fs.mu.Unlock()
		<-f.landed
	}
}

// start is called with mu held.
func (fs *flights) start(key string, work func(context.Context, *flight) error) *flight {
	ctx, cancel := context.WithCancel(context.Background())
	f := &flight{cancel: cancel, waiters: 1, landed: make(chan struct{})}
	f.setPhase(PhaseWaiting)
	if fs.flying == nil {
		fs.flying = map[string]*flight{}
	}
	fs.flying[key] = f
	fs.wg.Go(func() {
		defer cancel()
		f.err = work(ctx, f)
		fs.mu.Lock()
		delete(fs.flying, key)
		fs.mu.Unlock()
		close(f.landed)
	})
	return f
}

// leave ends one pull's interest; the last one to leave cancels the flight
// and waits for its end.
func (fs *flights) leave(f *flight) {
	fs.mu.Lock()
	f.waiters--
	last := f.waiters == 0
	fs.mu.Unlock()
	if last {
		f.cancel()
		<-f.landed
	}
}

// unlessFlying runs f while there is no flight of key, nor can be. After close
// it does nothing: the files may be another process's.
func (fs *flights) unlessFlying(key string, f func()) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if !fs.closed && fs.flying[key] == nil {
		f()
	}
}

// close cancels all flights and waits for them.
func (fs *flights) close() {
	fs.mu.Lock()
	fs.closed = true
	for _, f := range fs.flying {
		f.cancel()
	}
	fs.mu.Unlock()
	fs.wg.Wait()
}

// keyLock is a mutex per key.
type keyLock struct {
	mu   sync.Mutex
	held map[string]*keyState
}

type keyState struct {
	mu    sync.Mutex
	users int
}

// lock locks key and gives its unlock.
func (k *keyLock) lock(key string) func() {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*keyState{}
	}
	st := k.held[key]
	if st == nil {
		st = &keyState{}
		k.held[key] = st
	}
	st.users++
	k.mu.Unlock()
	st.mu.Lock()
	return func() {
		st.mu.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if st.users--; st.users == 0 {
			delete(k.held, key)
		}
	}
}
