package cri

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/nodekit/nodekit/runtimeiface"
)

// ask is one call that changes nothing: it ends with ctx or Config.Timeout.
func ask[Q, A any](ctx context.Context, r *Runtime, call func(context.Context, Q, ...grpc.CallOption) (A, error), request Q) (A, error) {
	if err := ctx.Err(); err != nil {
		var none A
		return none, err
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	return call(ctx, request)
}

// finish runs f, which changes something, to its end or to the limit. If ctx
// ends first its error is given and f goes on.
func finish[T any](ctx context.Context, r *Runtime, act string, limit time.Duration, f func(context.Context) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if err := r.begin(); err != nil {
		return none, err
	}
	done := make(chan result, 1)
	gone := make(chan struct{})
	go func() {
		defer r.work.Done()
		own, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		value, err := f(own)
		if errors.Is(err, context.DeadlineExceeded) {
			err = errors.Join(runtimeiface.ErrUnavailable, err)
		}
		done <- result{value, err}
		select {
		case <-gone:
			if err != nil && !errors.Is(err, runtimeiface.ErrUnavailable) {
				r.cfg.Logger.Error(err, "call without a caller failed", "act", act)
			}
		default:
		}
	}()
	select {
	case res := <-done:
		return res.value, res.err
	case <-ctx.Done():
		close(gone)
		return none, ctx.Err()
	}
}

// finishErr is finish without a value.
func finishErr(ctx context.Context, r *Runtime, act string, limit time.Duration, f func(context.Context) error) error {
	_, err := finish(ctx, r, act, limit, func(ctx context.Context) (struct{}, error) { return struct{}{}, f(ctx) })
	return err
}

// pause waits before another try.
func (r *Runtime) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.closing:
		return errClosed
	}
}

// keyed is a lock per key. Its zero value is ready.
type keyed struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

func (k *keyed) lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		k.mu.Lock()
		released, taken := k.held[key]
		if !taken {
			if k.held == nil {
				k.held = map[string]chan struct{}{}
			}
			released = make(chan struct{})
			k.held[key] = released
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, key)
				k.mu.Unlock()
				close(released)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-released:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
