package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

const (
	// quiet is how long a stream without an event must last to be believed in:
	// a runtime that has none says so only then.
	quiet = 2 * time.Second
	// maxQueue is how many events wait for a slow reader before only the newest
	// of each pod are kept.
	maxQueue = 1024
)

// watcher knows the subscriptions.
type watcher struct {
	r    *Runtime
	mu   sync.Mutex
	subs map[*subscription]struct{}
}

func (w *watcher) init(r *Runtime) { w.r, w.subs = r, map[*subscription]struct{}{} }

// stopped tells that a container that never ran will not.
func (w *watcher) stopped(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for s := range w.subs {
		select {
		case s.local <- id:
		default: // a hint too many
		}
	}
}

// subscription has a model of its own of what there is, fed by the runtime's
// events and by lists, and tells each change of it once.
type subscription struct {
	r      *Runtime
	model  *model
	queue  []runtimeiface.Event
	events chan *api.ContainerEventResponse
	lists  chan snapshot
	local  chan string
	kick   chan struct{} // list now
	live   atomic.Bool   // the runtime tells events
	began  time.Time
}

// Subscribe lists once, so that later differences are events. The channel
// outlives a restart of the runtime; it is closed when ctx or the Runtime ends.
func (r *Runtime) Subscribe(ctx context.Context) (<-chan runtimeiface.Event, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	began := time.Now()
	first, err := r.snapshot(ctx)
	if err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	if err := r.begin(); err != nil {
		return nil, err
	}
	s := &subscription{
		r: r, model: newModel(first), began: began, events: make(chan *api.ContainerEventResponse), lists: make(chan snapshot),
		local: make(chan string, 64), kick: make(chan struct{}, 1),
	}
	r.events.mu.Lock()
	r.events.subs[s] = struct{}{}
	r.events.mu.Unlock()
	out := make(chan runtimeiface.Event)
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer r.work.Done()
		defer close(out)
		var wg sync.WaitGroup
		wg.Go(func() { s.stream(ctx) })
		wg.Go(func() { s.list(ctx) })
		s.deliver(ctx, out)
		cancel()
		wg.Wait()
		r.events.mu.Lock()
		delete(r.events.subs, s)
		r.events.mu.Unlock()
	}()
	return out, nil
}

// deliver owns model and queue.
func (s *subscription) deliver(ctx context.Context, out chan<- runtimeiface.Event) {
	for {
		var next runtimeiface.Event
		var to chan<- runtimeiface.Event
		if len(s.queue) > 0 {
			next, to = s.queue[0], out
		}
		select {
		case to <- next:
			s.queue = s.queue[1:]
			continue
		case event := <-s.events:
			s.queue = append(s.queue, s.model.event(event)...)
		case list := <-s.lists:
			s.queue = append(s.queue, s.model.compare(list)...)
		case id := <-s.local:
			s.queue = append(s.queue, s.model.container(id, "", rankExited, time.Now())...)
		case <-ctx.Done():
			return
		case <-s.r.closing:
			return
		}
		if len(s.queue) > maxQueue {
			s.queue = newestOfEachPod(s.queue)
		}
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

// stream reads the runtime's events for as long as it offers them.
func (s *subscription) stream(ctx context.Context) {
	for ctx.Err() == nil {
		began := time.Now()
		err := s.read(ctx)
		s.live.Store(false)
		if status.Code(err) == codes.Unimplemented {
			return
		}
		wait := tryAgain * 4
		if errors.Is(err, io.EOF) && time.Since(began) < quiet {
			wait = s.r.cfg.RelistPeriod // CRI-O v1.37 without enable_pod_events ends at once
		}
		if s.r.pause(ctx, wait) != nil {
			return
		}
	}
}

func (s *subscription) read(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.r.rs.GetContainerEvents(ctx, &api.GetEventsRequest{})
	if err != nil {
		return err
	}
	s.look() // what happened while nobody told
	believed := time.AfterFunc(quiet, func() {
		s.live.Store(true)
		s.look() // what happened before the runtime had heard us
	})
	defer believed.Stop()
	for {
		event, err := stream.Recv()
		if err != nil {
			return err
		}
		if at(event.CreatedAt).Before(s.began) {
			continue // kept by the runtime for whoever comes
		}
		select {
		case s.events <- event:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *subscription) look() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// list compares from time to time.
func (s *subscription) list(ctx context.Context) {
	for {
		period := s.r.cfg.PollPeriod
		if s.live.Load() {
			period = s.r.cfg.RelistPeriod
		}
		timer := time.NewTimer(period)
		select {
		case <-timer.C:
		case <-s.kick:
		case <-ctx.Done():
		case <-s.r.closing:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
		list, err := s.r.snapshot(ctx)
		if err != nil {
			select {
			case <-s.r.closing:
				return
			default:
				continue // down, and seen again later
			}
		}
		select {
		case s.lists <- list:
		case <-ctx.Done():
			return
		case <-s.r.closing:
			return
		}
	}
}

// snapshot is all that there is.
type snapshot struct {
	began      time.Time
	sandboxes  []*api.PodSandbox
	containers []*api.Container
}

func (r *Runtime) snapshot(ctx context.Context) (snapshot, error) {
	out := snapshot{began: time.Now()}
	// Containers first: their sandboxes are then in the list that follows.
	containers, err := ask(ctx, r, r.rs.ListContainers, &api.ListContainersRequest{})
	if err != nil {
		return snapshot{}, translate(ctx, err, "list containers")
	}
	sandboxes, err := ask(ctx, r, r.rs.ListPodSandbox, &api.ListPodSandboxRequest{})
	if err != nil {
		return snapshot{}, translate(ctx, err, "list sandboxes")
	}
	out.containers, out.sandboxes = containers.Containers, sandboxes.Items
	there := map[string]bool{}
	for _, c := range out.containers {
		there[c.Id] = true
	}
	for _, s := range out.sandboxes {
		there[s.Id] = true
	}
	r.known.prune(there)
	return out, nil
}
