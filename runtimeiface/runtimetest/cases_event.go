package runtimetest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

func eventCases() []Case {
	return []Case{
		newCase("event/order", "a pod's events come in the order in which they happened, its newest for sure", eventOrder),
		newCase("event/pods at once", "each pod's events come in order, whatever others do", eventPods),
		newCase("event/exit", "an exit by itself is told", eventExit),
		newCase("event/end", "the channel is closed when ctx ends", eventEnd),
		newCase("event/two readers", "each subscription gets the events", eventTwoReaders),
	}
}

func (k *kit) subscribe() (events <-chan runtimeiface.Event, cancel func()) {
	ctx, cancel := context.WithCancel(k.ctx)
	events, err := k.rt.Subscribe(ctx)
	if err != nil {
		cancel()
	}
	k.ok(err, "subscribe")
	return events, cancel
}

// next gives the next event of a pod.
func (k *kit) next(events <-chan runtimeiface.Event, uid string) runtimeiface.Event {
	limit := time.After(patience)
	for {
		select {
		case e, open := <-events:
			k.that(open, "the channel was closed")
			if e.PodUID == uid {
				return e
			}
		case <-limit:
			k.fail("no event of pod %s within %v", uid, patience)
		case <-k.ctx.Done():
			k.fail("%w", k.ctx.Err())
		}
	}
}

// eventTypes of a pod's life, in order.
var eventTypes = []runtimeiface.EventType{
	runtimeiface.SandboxStarted, runtimeiface.ContainerMade, runtimeiface.ContainerStarted, runtimeiface.ContainerStopped,
	runtimeiface.ContainerRemoved, runtimeiface.SandboxStopped, runtimeiface.SandboxRemoved,
}

func eventPods(k *kit) {
	const n = 8
	events, cancel := k.subscribe()
	defer cancel()
	pods, containers, at := make([]runtimeiface.SandboxSpec, n), make([]runtimeiface.ContainerSpec, n), map[string]int{}
	for i := range n {
		pods[i], containers[i] = k.spec(), k.container("forever")
		at[pods[i].UID] = 0
	}
	rt, ctx := k.rt, k.ctx
	done := make(chan error, n)
	var lives sync.WaitGroup
	k.later(lives.Wait)
	for i := range n {
		lives.Go(func() { done <- podLife(ctx, rt, pods[i], containers[i]) })
	}
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for over := 0; over < n; {
		select {
		case e, open := <-events:
			k.that(open, "the channel was closed")
			now, ours := at[e.PodUID]
			if !ours {
				continue
			}
			for now < len(eventTypes) && eventTypes[now] != e.Type {
				now++ // merged or lost, which may be
			}
			k.that(now < len(eventTypes), "event %s of pod %s came out of order", e.Type, e.PodUID)
			at[e.PodUID] = now
			limit.Reset(patience)
			if e.Type == runtimeiface.SandboxRemoved {
				over++
			}
		case <-limit.C:
			k.fail("no event came for %v, and the last one of %d pods is missing", patience, n-over)
		case <-k.ctx.Done():
			k.fail("%w", k.ctx.Err())
		}
	}
	for range n {
		k.ok(<-done, "life of a pod")
	}
}

func podLife(ctx context.Context, rt runtimeiface.Runtime, pod runtimeiface.SandboxSpec, spec runtimeiface.ContainerSpec) error {
	sb, err := rt.RunSandbox(ctx, pod)
	if err != nil {
		return err
	}
	id, err := rt.CreateContainer(ctx, sb, spec)
	if err == nil {
		err = errors.Join(rt.StartContainer(ctx, id), rt.StopContainer(ctx, id, 0), rt.RemoveContainer(ctx, id))
	}
	return errors.Join(err, rt.StopSandbox(ctx, sb), rt.RemoveSandbox(ctx, sb))
}

func eventOrder(k *kit) {
	events, cancel := k.subscribe()
	defer cancel()
	sb, spec := k.podSpec()
	id := k.prog(sb, "forever")
	k.stop(id, 0)
	k.ok(k.rt.RemoveContainer(k.ctx, id), "remove container")
	k.ok(k.rt.StopSandbox(k.ctx, sb), "stop sandbox")
	k.ok(k.rt.RemoveSandbox(k.ctx, sb), "remove sandbox")
	order, at := eventTypes, 0
	var last time.Time
	for {
		e := k.next(events, spec.UID)
		k.same(e.SandboxID, sb, "sandbox of %s", e.Type)
		for at < len(order) && order[at] != e.Type {
			at++ // merged or lost, which may be
		}
		k.that(at < len(order), "event %s came out of order", e.Type)
		want := ""
		switch e.Type {
		case runtimeiface.ContainerMade, runtimeiface.ContainerStarted, runtimeiface.ContainerStopped, runtimeiface.ContainerRemoved:
			want = id
		}
		k.same(e.ContainerID, want, "container of %s", e.Type)
		k.that(!e.Time.Before(last), "%s is of %v, the one before of %v", e.Type, e.Time, last)
		last = e.Time
		if e.Type == runtimeiface.SandboxRemoved {
			return
		}
	}
}

func eventExit(k *kit) {
	events, cancel := k.subscribe()
	defer cancel()
	sb, spec := k.podSpec()
	id := k.prog(sb, "sleep", "200ms", ";", "exit", "3")
	for {
		e := k.next(events, spec.UID)
		if e.Type == runtimeiface.ContainerStopped {
			k.same(e.ContainerID, id, "container")
			break
		}
	}
	c := k.status(id)
	k.same(c.State, runtimeiface.ContainerExited, "state when the event came")
	k.same(c.ExitCode, int32(3), "exit code when the event came")
}

func eventEnd(k *kit) {
	events, cancel := k.subscribe()
	cancel()
	limit := time.After(patience)
	for {
		select {
		case _, open := <-events:
			if !open {
				return
			}
		case <-limit:
			k.fail("it is open %v later", patience)
		}
	}
}

func eventTwoReaders(k *kit) {
	one, cancelOne := k.subscribe()
	defer cancelOne()
	two, cancelTwo := k.subscribe()
	defer cancelTwo()
	sb, spec := k.podSpec()
	for _, events := range []<-chan runtimeiface.Event{one, two} {
		k.same(k.next(events, spec.UID).SandboxID, sb, "sandbox")
	}
	cancelOne()
	k.ok(k.rt.RemoveSandbox(k.ctx, sb), "remove sandbox")
	for k.next(two, spec.UID).Type != runtimeiface.SandboxRemoved {
		continue
	}
}
