package runtimetest

import (
	"fmt"
	"strings"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

func restartCases() []Case {
	return []Case{
		newCase("restart/goes on", "nothing stops because the caller ends; a new one finds everything as it was", restartGoesOn, Restart),
		newCase("restart/exit meanwhile", "an exit while nobody looked is told with its code and time", restartExit, Restart),
		newCase("restart/logs", "no log line is lost while nobody looks", restartLogs, Restart),
		newCase("restart/calls", "what was there before can be run in, stopped, removed and made again", restartCalls, Restart),
		newCase("restart/attach", "what was there before can be attached to, forwarded to and changed", restartAttach, Restart),
		newCase("restart/daemon", "when the daemon crashes calls fail as unavailable or wait, and then all is as it was", restartDaemon, Daemon),
		newCase("restart/daemon's events", "subscriptions end or go on when the daemon crashes, and a new one gives what happens", restartDaemonEvents, Daemon),
		newCase("restart/images", "images are there after a restart", restartImages, Restart),
	}
}

func (k *kit) restart() {
	rt, err := k.s.Restart(k.ctx)
	k.ok(err, "restart")
	k.rt = rt
}

func restartGoesOn(k *kit) {
	sb, spec := k.podSpec(func(s *runtimeiface.SandboxSpec) {
		s.Labels, s.Annotations = map[string]string{"a": "1"}, map[string]string{"b": "2"}
	})
	runs := k.ready(sb)
	made, over := k.create(sb, k.container()), k.prog(sb, "exit", "3")
	k.exited(over)
	stopped := k.pod()
	k.ok(k.rt.StopSandbox(k.ctx, stopped), "stop sandbox")
	before := k.sandbox(sb)
	containers := map[string]runtimeiface.Container{runs: k.status(runs), made: k.status(made), over: k.status(over)}
	k.restart()
	k.same(timeless(k.sandbox(sb)), timeless(before), "sandbox")
	k.same(k.sandbox(stopped).State, runtimeiface.SandboxNotReady, "state of a stopped sandbox")
	for id, want := range containers {
		got := k.status(id)
		for _, t := range [][2]time.Time{
			{got.CreatedAt, want.CreatedAt}, {got.StartedAt, want.StartedAt}, {got.FinishedAt, want.FinishedAt},
		} {
			k.that(t[0].Equal(t[1]), "a time of container %s was %v and is %v", want.Name, t[1], t[0])
		}
		got.CreatedAt, got.StartedAt, got.FinishedAt = want.CreatedAt, want.StartedAt, want.FinishedAt
		k.same(got, want, "container %s", want.Name)
	}
	list, err := k.rt.ListContainers(k.ctx, runtimeiface.ContainerFilter{SandboxID: sb})
	k.ok(err, "list containers")
	k.same(len(list), 3, "containers in the sandbox")
	k.same(k.runPod(spec), sb, "ID of the same identity")
}

// timeless is a sandbox with its time made comparable.
func timeless(s runtimeiface.Sandbox) runtimeiface.Sandbox {
	s.CreatedAt = s.CreatedAt.Round(0).UTC()
	return s
}

func restartExit(k *kit) {
	sb := k.pod()
	began := time.Now().Add(-50 * time.Millisecond)
	id := k.prog(sb, "sleep", "300ms", ";", "print", "last words", ";", "exit", "7")
	k.restart()
	c := k.ends(id, 7, runtimeiface.ReasonError)
	k.that(c.FinishedAt.Sub(began) >= 300*time.Millisecond, "it finished at %v, began at %v", c.FinishedAt, began)
	k.that(!c.FinishedAt.After(time.Now().Add(50*time.Millisecond)), "it finished at %v, now is %v", c.FinishedAt, time.Now())
	k.logHas(c.LogPath, "last words\n")
	k.restart()
	again := k.ends(id, 7, runtimeiface.ReasonError)
	k.that(again.FinishedAt.Equal(c.FinishedAt), "FinishedAt moved from %v to %v", c.FinishedAt, again.FinishedAt)
}

func restartLogs(k *kit) {
	const n = 200
	id := k.prog(k.pod(), "lines", fmt.Sprint(n), "5ms", ";", "print", endMark)
	for range 3 {
		k.pause(100 * time.Millisecond)
		k.restart()
	}
	k.counted(strings.Split(k.untilEnd(k.exited(id).LogPath), "\n"), n)
}

func restartCalls(k *kit) {
	sb := k.pod()
	spec := k.container("trap", "7", ";", "print", "ready", ";", "forever")
	id := k.start(sb, spec)
	k.logHas(k.status(id).LogPath, "ready\n")
	made := k.create(sb, k.container("exit", "5"))
	k.restart()
	events, cancel := k.subscribe()
	defer cancel()
	k.same(k.create(sb, spec), id, "ID of the same identity")
	code, stdout, _ := k.exec(id, "print", "still here", ";", "exit", "4")
	k.same(code, 4, "exit code of exec")
	k.same(stdout, "still here\n", "output of exec")
	k.ok(k.rt.StartContainer(k.ctx, made), "start a container made before")
	k.ends(made, 5, runtimeiface.ReasonError)
	k.ok(k.rt.ReopenLog(k.ctx, id), "reopen log")
	k.stop(id, patience)
	k.ends(id, 7, runtimeiface.ReasonError)
	k.same(k.next(events, k.sandbox(sb).UID).SandboxID, sb, "sandbox of an event")
	k.same(k.output(sb, "print", "new"), "new\n", "output of a new container")
	k.ok(k.rt.RemoveContainer(k.ctx, id), "remove container")
	k.ok(k.rt.RemoveSandbox(k.ctx, sb), "remove sandbox")
}

func restartAttach(k *kit) {
	sb := k.pod()
	spec := k.interactive("stdin", ";", "exit", "4")
	spec.StdinOnce = true
	id := k.start(sb, spec)
	k.serve(sb, listenOn("127.0.0.1"))
	k.restart()
	a := k.attach(id, true)
	k.typeIn(a, "after\n")
	k.says(a, "after\n")
	k.same(k.answer(k.forward(sb, forwardPort), "after"), "after", "answer")
	k.ok(k.rt.UpdateContainer(k.ctx, id, *limited(64<<20, 0)), "update container")
	k.ok(a.typed.Close(), "end Stdin")
	k.wait(a.done, "attach until the end")
	c := k.ends(id, 4, runtimeiface.ReasonError)
	k.logHas(c.LogPath, "after\n")
}

func restartDaemon(k *kit) {
	sb, spec := k.podSpec()
	id := k.ready(sb, "trap", "7")
	over := k.prog(sb, "exit", "3")
	k.exited(over)
	// A daemon that is not there may lose its output and its exit; then it says so.
	meanwhile := k.prog(sb, "sleep", "300ms", ";", "exit", "5")
	before := k.status(id)
	k.ok(k.s.RestartDaemon(k.ctx), "restart the daemon")
	k.eventually("answer of the daemon", func() error {
		_, err := k.rt.Version(k.ctx)
		if err != nil {
			k.is(err, runtimeiface.ErrUnavailable, "version while the daemon starts")
		}
		return err
	})
	after := k.status(id)
	k.same([]any{after.State, after.PID, after.StartedAt.UTC()}, []any{before.State, before.PID, before.StartedAt.UTC()}, "container that runs")
	k.ends(over, 3, runtimeiface.ReasonError)
	if c := k.exited(meanwhile); c.Reason != runtimeiface.ReasonUnknown {
		k.ends(meanwhile, 5, runtimeiface.ReasonError)
	}
	k.same(k.runPod(spec), sb, "ID of the same identity")
	k.same(k.output(sb, "print", "new"), "new\n", "output of a new container")
	k.stop(id, patience)
	k.ends(id, 7, runtimeiface.ReasonError)
}

func restartDaemonEvents(k *kit) {
	old, cancelOld := k.subscribe()
	defer cancelOld()
	k.ok(k.s.RestartDaemon(k.ctx), "restart the daemon")
	events, cancel := k.subscribeSoon()
	defer cancel()
	var sb, uid string
	k.eventually("a sandbox", func() error {
		spec := k.spec()
		id, err := k.rt.RunSandbox(k.ctx, spec)
		if err != nil {
			k.is(err, runtimeiface.ErrUnavailable, "run sandbox while the daemon starts")
			return err
		}
		k.removeLater(id)
		sb, uid = id, spec.UID
		return nil
	})
	k.same(k.next(events, uid).SandboxID, sb, "sandbox of an event after the restart")
	cancelOld()
	limit := time.After(patience)
	for {
		select {
		case _, open := <-old:
			if !open {
				return
			}
		case <-limit:
			k.fail("the old channel is open %v after its ctx ended", patience)
		}
	}
}

// subscribeSoon subscribes once the daemon answers.
func (k *kit) subscribeSoon() (<-chan runtimeiface.Event, func()) {
	k.eventually("answer of the daemon", func() error { _, err := k.rt.Version(k.ctx); return err })
	return k.subscribe()
}

func restartImages(k *kit) {
	img := k.pull(k.s.Images.Prog)
	k.restart()
	got, err := k.rt.ImageStatus(k.ctx, k.s.Images.Prog)
	k.ok(err, "status")
	k.same(got, img, "image")
}
