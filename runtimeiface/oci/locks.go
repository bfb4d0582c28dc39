package oci

import (
	"context"
	"sync"
)

// locks are mutexes by name that a context can give up on.
type locks struct {
	mu   sync.Mutex
	held map[string]*namedLock
}

type namedLock struct {
	users int
	token chan struct{}
}

func newLocks() *locks { return &locks{held: map[string]*namedLock{}} }

// lock gives the call that unlocks, or ctx's error.
func (l *locks) lock(ctx context.Context, name string) (func(), error) {
	l.mu.Lock()
	n := l.held[name]
	if n == nil {
		n = &namedLock{token: make(chan struct{}, 1)}
		l.held[name] = n
	}
	n.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if n.users--; n.users == 0 {
			delete(l.held, name)
		}
	}
	if err := ctx.Err(); err != nil {
		leave()
		return nil, err
	}
	select {
	case n.token <- struct{}{}:
		return func() { <-n.token; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
