package runtimetest

import (
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
)

func keeperCases() []Case {
	return []Case{
		newCase("keeper/killed", "a sandbox whose keeper is killed is not ready, and what ran in it has ended", keeperKilled, Keeper),
		newCase("keeper/exits before", "exits that were seen before are told as they were", keeperExits, Keeper),
		newCase("keeper/nothing runs", "no process of a sandbox outlives its keeper once that is noticed", keeperNothingRuns, Keeper, Kernel),
		newCase("keeper/killed while nobody looks", "a keeper that is killed while the caller is away is noticed", keeperRestart, Keeper, Restart),
	}
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
