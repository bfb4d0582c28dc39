package runtimetest

import (
	"context"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

func stopCases() []Case {
	return []Case{
		newCase("stop/with grace", "the stop signal reaches the program, and its own exit code is told", stopWithGrace),
		newCase("stop/ignored", "SIGKILL comes once the grace has passed, not before", stopIgnored),
		newCase("stop/without grace", "grace <= 0 kills at once", stopAtOnce),
		newCase("stop/shorter", "a second call with less grace shortens the first", stopShorter),
		newCase("stop/longer", "a second call with more grace does not lengthen the first", stopLonger),
		newCase("stop/created", "a container that did not run yet becomes exited", stopCreated),
		newCase("stop/exited", "an exited container is stopped already, and stays as it ended", stopExited),
		newCase("stop/cancelled", "if ctx ends first, its error is given and the stop goes on", stopCancelled),
		newCase("stop/signal of the image", "without a stop signal the image's is sent", stopSignalOfImage),
		newCase("stop/signal of the container", "a container's stop signal wins", stopSignalOfContainer),
	}
}

// ready starts a program that has done these steps when ready returns.
func (k *kit) ready(sandbox string, steps ...string) string {
	spec := k.container(append(steps, ";", "print", "ready", ";", "forever")...)
	id := k.start(sandbox, spec)
	k.logHas(k.status(id).LogPath, "ready\n")
	return id
}

// stopLater stops in a goroutine of its own.
func (k *kit) stopLater(id string, grace time.Duration) <-chan error {
	done := make(chan error, 1)
	rt, ctx := k.rt, k.ctx
	go func() { done <- rt.StopContainer(ctx, id, grace) }()
	return done
}

func (k *kit) wait(done <-chan error, act string) {
	select {
	case err := <-done:
		k.ok(err, "%s", act)
	case <-time.After(patience):
		k.fail("%s: not within %v", act, patience)
	case <-k.ctx.Done():
		k.fail("%s: %w", act, k.ctx.Err())
	}
}

func stopWithGrace(k *kit) {
	sb := k.pod()
	id := k.ready(sb, "trap", "7", "100ms")
	k.stop(id, patience)
	k.same(k.status(id).State, runtimeiface.ContainerExited, "state on return")
	k.ends(id, 7, runtimeiface.ReasonError)
	clean := k.ready(sb, "trap", "0")
	k.stop(clean, patience)
	k.ends(clean, 0, runtimeiface.ReasonCompleted)
	plain := k.ready(sb)
	k.stop(plain, patience)
	k.ends(plain, 143, runtimeiface.ReasonError)
}

func stopIgnored(k *kit) {
	const grace = time.Second
	id := k.ready(k.pod(), "ignore")
	began := time.Now()
	k.stop(id, grace)
	k.that(time.Since(began) >= grace-50*time.Millisecond, "killed after %v, grace is %v", time.Since(began), grace)
	k.ends(id, 137, runtimeiface.ReasonError)
}

func stopAtOnce(k *kit) {
	sb := k.pod()
	for _, grace := range []time.Duration{0, -time.Second} {
		id := k.ready(sb, "trap", "7")
		k.stop(id, grace)
		k.same(k.status(id).State, runtimeiface.ContainerExited, "state on return")
		k.ends(id, 137, runtimeiface.ReasonError)
	}
}

func stopShorter(k *kit) {
	id := k.ready(k.pod(), "ignore")
	first := k.stopLater(id, time.Hour)
	k.pause(200 * time.Millisecond)
	k.same(k.status(id).State, runtimeiface.ContainerRunning, "state within the grace")
	k.stop(id, 300*time.Millisecond)
	k.wait(first, "the first stop")
	k.ends(id, 137, runtimeiface.ReasonError)
}

func stopLonger(k *kit) {
	id := k.ready(k.pod(), "ignore")
	first := k.stopLater(id, time.Second)
	k.pause(200 * time.Millisecond)
	second := k.stopLater(id, time.Hour)
	k.wait(first, "the first stop")
	k.wait(second, "the second stop")
	k.ends(id, 137, runtimeiface.ReasonError)
}

func stopCreated(k *kit) {
	sb := k.pod()
	for _, grace := range []time.Duration{0, time.Hour} {
		id := k.create(sb, k.container("forever"))
		k.stop(id, grace)
		c := k.status(id)
		k.same(c.State, runtimeiface.ContainerExited, "state")
		k.that(!c.FinishedAt.IsZero(), "FinishedAt is zero")
		k.is(k.rt.StartContainer(k.ctx, id), runtimeiface.ErrNotRunning, "start after the stop")
	}
}

func stopExited(k *kit) {
	before := k.ends(k.prog(k.pod(), "exit", "3"), 3, runtimeiface.ReasonError)
	k.stop(before.ID, time.Hour)
	k.stop(before.ID, 0)
	after := k.ends(before.ID, 3, runtimeiface.ReasonError)
	k.that(after.FinishedAt.Equal(before.FinishedAt), "FinishedAt moved from %v to %v", before.FinishedAt, after.FinishedAt)
}

func stopCancelled(k *kit) {
	id := k.ready(k.pod(), "ignore")
	short, cancel := context.WithTimeout(k.ctx, 200*time.Millisecond)
	defer cancel()
	k.is(k.rt.StopContainer(short, id, 3*time.Second), context.DeadlineExceeded, "stop whose ctx ends")
	k.same(k.status(id).State, runtimeiface.ContainerRunning, "state within the grace")
	k.ends(id, 137, runtimeiface.ReasonError)
}

func stopSignalOfImage(k *kit) {
	spec := k.container("print", "ready", ";", "forever")
	spec.Image = k.image(k.s.Images.Configured)
	id := k.start(k.pod(), spec)
	k.logHas(k.status(id).LogPath, "ready\n")
	k.stop(id, patience)
	k.ends(id, 128+3, runtimeiface.ReasonError)
}

func stopSignalOfContainer(k *kit) {
	spec := k.container("print", "ready", ";", "forever")
	spec.Image, spec.StopSignal = k.image(k.s.Images.Configured), "SIGUSR1"
	id := k.start(k.pod(), spec)
	k.logHas(k.status(id).LogPath, "ready\n")
	k.stop(id, patience)
	k.ends(id, 128+10, runtimeiface.ReasonError)
}
