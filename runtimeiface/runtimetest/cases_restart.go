package runtimetest

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

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
		newCase("keeper/killed", "a sandbox whose keeper is killed is not ready, and what ran in it has ended", keeperKilled, Keeper),
		newCase("keeper/exits before", "exits that were seen before are told as they were", keeperExits, Keeper),
		newCase("keeper/nothing runs", "no process of a sandbox outlives its keeper once that is noticed", keeperNothingRuns, Keeper, Kernel),
		newCase("keeper/killed while nobody looks", "a keeper that is killed while the caller is away is noticed", keeperRestart, Keeper, Restart),
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
	meanwhile := k.prog(sb, "sleep", "300ms", ";", "print", "last words", ";", "exit", "5")
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
	c := k.ends(meanwhile, 5, runtimeiface.ReasonError)
	k.logHas(c.LogPath, "last words\n")
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

// killKeeper kills and waits until that is noticed.
func (k *kit) killKeeper(sandbox string) {
	k.ok(k.s.KillKeeper(k.ctx, sandbox), "kill the keeper")
	k.noticed(sandbox)
}

// removed removes a sandbox without a keeper, of which the runtime may still be
// picking up the pieces.
func (k *kit) removed(sandbox string) {
	k.eventually("removal of a sandbox without a keeper", func() error { return k.rt.RemoveSandbox(k.ctx, sandbox) })
}

func (k *kit) noticed(sandbox string) {
	k.eventually("a sandbox that is not ready", func() error {
		if s := k.sandbox(sandbox); s.State != runtimeiface.SandboxNotReady {
			return fmt.Errorf("its state is %s", s.State)
		}
		return nil
	})
}

// unseen wants a container to have ended without anybody seeing how, or killed.
func (k *kit) unseen(id string) {
	c := k.exited(id)
	k.that(c.ExitCode == runtimeiface.ExitCodeUnknown, "exit code of container %s is %d (%s %s)", id, c.ExitCode, c.Reason, c.Message)
	k.that(c.Reason == runtimeiface.ReasonUnknown || c.Reason == runtimeiface.ReasonError, "reason is %s", c.Reason)
	k.that(!c.FinishedAt.IsZero(), "FinishedAt is zero")
}

func keeperKilled(k *kit) {
	sb, spec := k.podSpec()
	other := k.pod()
	runs, made, neighbour := k.ready(sb), k.create(sb, k.container()), k.ready(other)
	k.killKeeper(sb)
	k.unseen(runs)
	k.same(k.exited(made).State, runtimeiface.ContainerExited, "state of a container that did not run")
	k.same(len(k.sandbox(sb).IPs), 0, "addresses")
	_, err := k.rt.RunSandbox(k.ctx, spec)
	k.is(err, runtimeiface.ErrInUse, "run the same identity again")
	_, err = k.rt.CreateContainer(k.ctx, sb, k.container())
	k.is(err, runtimeiface.ErrNotRunning, "create a container in it")
	_, err = k.rt.Exec(k.ctx, runs, runtimeiface.ExecSpec{Command: []string{"/prog", "exit", "0"}})
	k.is(err, runtimeiface.ErrNotRunning, "exec in a container of it")
	k.same(k.sandbox(other).State, runtimeiface.SandboxReady, "state of another sandbox")
	k.same(k.status(neighbour).State, runtimeiface.ContainerRunning, "state of a container in another sandbox")
	k.ok(k.rt.StopContainer(k.ctx, runs, 0), "stop a container of it")
	k.ok(k.rt.StopSandbox(k.ctx, sb), "stop it")
	spec.Attempt++
	next := k.runPod(spec)
	k.same(k.output(next, "print", "next"), "next\n", "output in the next attempt")
	k.removed(sb)
	k.same(k.sandbox(next).State, runtimeiface.SandboxReady, "state of the next attempt")
}

func keeperExits(k *kit) {
	sb := k.pod()
	over := k.ends(k.prog(sb, "print", "seen", ";", "exit", "3"), 3, runtimeiface.ReasonError)
	k.killKeeper(sb)
	after := k.ends(over.ID, 3, runtimeiface.ReasonError)
	k.that(after.FinishedAt.Equal(over.FinishedAt), "FinishedAt moved from %v to %v", over.FinishedAt, after.FinishedAt)
	k.logHas(over.LogPath, "seen\n")
	k.removed(sb)
}

func keeperNothingRuns(k *kit) {
	sb, dir := k.pod(), k.hostDir()
	file := dir + "/count"
	spec := k.container("spawn", "ignore", ",", "count", file, "5ms", ";", "ignore", ";", "count", file, "5ms")
	spec.Mounts = []specs.Mount{bind(dir, dir)}
	id := k.start(sb, spec)
	size := func() int64 {
		info, err := os.Stat(file)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	k.eventually("life of the program", func() error {
		if size() < 10 {
			return fmt.Errorf("it counted to %d", size())
		}
		return nil
	})
	k.killKeeper(sb)
	k.exited(id)
	before := size()
	k.pause(200 * time.Millisecond)
	k.same(size(), before, "count of a program that is told as exited")
	k.removed(sb)
}

func keeperRestart(k *kit) {
	sb := k.pod()
	runs := k.ready(sb)
	over := k.prog(sb, "exit", "3")
	k.exited(over)
	k.ok(k.s.KillKeeper(k.ctx, sb), "kill the keeper")
	k.restart()
	k.noticed(sb)
	k.unseen(runs)
	k.ends(over, 3, runtimeiface.ReasonError)
	k.removed(sb)
}

func restartImages(k *kit) {
	img := k.pull(k.s.Images.Prog)
	k.restart()
	got, err := k.rt.ImageStatus(k.ctx, k.s.Images.Prog)
	k.ok(err, "status")
	k.same(got, img, "image")
}
