package oci

import (
	"context"
	"sync"

	"github.com/nodekit/nodekit/runtimeiface"
)

// maxQueue is how many events wait for a slow reader before only the newest of
// each pod are kept.
const maxQueue = 1024

// hub hands each event to all subscribers.
type hub struct {
	mu     sync.Mutex
	subs   map[*subscriber]struct{}
	closed bool
}

type subscriber struct {
	mu     sync.Mutex
	queue  []runtimeiface.Event
	wake   chan struct{}
	closed chan struct{}
}

func newHub() *hub { return &hub{subs: map[*subscriber]struct{}{}} }

// subscribe gives a channel that is closed when ctx or the hub ends.
func (h *hub) subscribe(ctx context.Context) (<-chan runtimeiface.Event, error) {
	s := &subscriber{wake: make(chan struct{}, 1), closed: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, errClosed
	}
	h.subs[s] = struct{}{}
	out := make(chan runtimeiface.Event)
	go func() {
		defer close(out)
		s.deliver(ctx, out)
		h.mu.Lock()
		delete(h.subs, s)
		h.mu.Unlock()
	}()
	return out, nil
}

func (h *hub) publish(e runtimeiface.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		s.push(e)
	}
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	h.closed = true
	for s := range h.subs {
		close(s.closed)
	}
}

func (s *subscriber) push(e runtimeiface.Event) {
	s.mu.Lock()
	s.queue = append(s.queue, e)
	if len(s.queue) > maxQueue {
		s.queue = newestOfEachPod(s.queue)
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// newestOfEachPod keeps the order. With more than maxQueue pods it grows.
func newestOfEachPod(queue []runtimeiface.Event) []runtimeiface.Event {
	newest := map[string]int{}
	for i, e := range queue {
		newest[e.PodUID] = i
	}
	var kept []runtimeiface.Event
	for i, e := range queue {
		if newest[e.PodUID] == i {
			kept = append(kept, e)
		}
	}
	return kept
}

func (s *subscriber) deliver(ctx context.Context, out chan<- runtimeiface.Event) {
	for {
		s.mu.Lock()
		var next runtimeiface.Event
		some := len(s.queue) > 0
		if some {
			next = s.queue[0]
			s.queue = s.queue[1:]
		}
		s.mu.Unlock()
		var to chan<- runtimeiface.Event
		if some {
			to = out
		}
		select {
		case to <- next:
		case <-s.wakeIf(!some):
		case <-ctx.Done():
			return
		case <-s.closed:
			return
		}
	}
}

// wakeIf is nil while there is an event to hand over.
func (s *subscriber) wakeIf(idle bool) <-chan struct{} {
	if idle {
		return s.wake
	}
	return nil
}
