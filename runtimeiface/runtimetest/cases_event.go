package runtimetest

import (
	"context"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

func eventCases() []Case {
	return []Case{
		newCase("event/order", "a pod's events come in the order in which they happened, its newest for sure", eventOrder),
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

func eventOrder(k *kit) {
	events, cancel := k.subscribe()
	defer cancel()
	sb, spec := k.podSpec()
	id := k.prog(sb, "forever")
	k.stop(id, 0)
	k.ok(k.rt.RemoveContainer(k.ctx, id), "remove container")
	k.ok(k.rt.StopSandbox(k.ctx, sb), "stop sandbox")
	k.ok(k.rt.RemoveSandbox(k.ctx, sb), "remove sandbox")
	order := []runtimeiface.EventType{
		runtimeiface.SandboxStarted, runtimeiface.ContainerMade, runtimeiface.ContainerStarted, runtimeiface.ContainerStopped,
		runtimeiface.ContainerRemoved, runtimeiface.SandboxStopped, runtimeiface.SandboxRemoved,
	}
	at := 0
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
