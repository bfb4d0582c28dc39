package runtimetest

import (
	"context"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

// maxPending is how many events wait for a slow reader before older ones of
// the same pod are dropped.
const maxPending = 1000

// subscription is guarded by the fake's mu; its pump alone sends.
type subscription struct {
	pending []runtimeiface.Event
	wake    chan struct{} // of capacity 1
	lost    chan struct{}
}

// Subscribe gives events from now on.
func (f *Fake) Subscribe(ctx context.Context) (<-chan runtimeiface.Event, error) {
	out := make(chan runtimeiface.Event)
	err := f.do(ctx, Call{Op: OpSubscribe}, func() error {
		sub := &subscription{wake: make(chan struct{}, 1), lost: make(chan struct{})}
		f.lock()
		f.subs[sub] = struct{}{}
		f.unlock()
		go f.pump(ctx, sub, out)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (f *Fake) pump(ctx context.Context, sub *subscription, out chan<- runtimeiface.Event) {
	defer close(out)
	defer func() {
		f.lock()
		delete(f.subs, sub)
		f.unlock()
	}()
	for {
		event, ok := f.next(sub)
		if !ok {
			select {
			case <-sub.wake:
				continue
			case <-sub.lost:
			case <-ctx.Done():
			}
			return
		}
		select {
		case out <- event:
		case <-sub.lost:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (f *Fake) next(sub *subscription) (runtimeiface.Event, bool) {
	f.lock()
	defer f.unlock()
	if len(sub.pending) == 0 {
		return runtimeiface.Event{}, false
	}
	event := sub.pending[0]
	sub.pending = sub.pending[1:]
	return event, true
}

// publish tells what happened, unless the fake is silent.
func (f *Fake) publish(t runtimeiface.EventType, s *sandbox, containerID string, at time.Time) {
	if !f.silent {
		f.send(runtimeiface.Event{Type: t, PodUID: s.UID, SandboxID: s.ID, ContainerID: containerID, Time: at})
	}
}

func (f *Fake) send(e runtimeiface.Event) {
	for sub := range f.subs {
		sub.pending = append(sub.pending, e)
		if len(sub.pending) > maxPending {
			sub.pending = newestOfEachPod(sub.pending)
		}
		select {
		case sub.wake <- struct{}{}:
		default:
		}
	}
}

func newestOfEachPod(events []runtimeiface.Event) []runtimeiface.Event {
	newest := map[string]int{}
	for i, e := range events {
		newest[e.PodUID] = i
	}
	var kept []runtimeiface.Event
	for i, e := range events {
		if newest[e.PodUID] == i {
			kept = append(kept, e)
		}
	}
	return kept
}

func (f *Fake) loseSubscriptions() {
	for sub := range f.subs {
		close(sub.lost)
		delete(f.subs, sub)
	}
}
