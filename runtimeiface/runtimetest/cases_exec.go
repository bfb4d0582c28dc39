package runtimetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

func execCases() []Case {
	return []Case{
		newCase("exec/result", "the exit code is the command's, its output is delivered on return", execResult),
		newCase("exec/stdin", "standard input arrives whole and ends", execStdin),
		newCase("exec/no streams", "all streams may be nil", execNoStreams),
		newCase("exec/large output", "large output arrives whole", execLarge),
		newCase("exec/surroundings", "the command has the container's environment, directory and host name", execSurroundings),
		newCase("exec/no such command", "a command that cannot be run is 126 or 127, with the reason", execNoCommand),
		newCase("exec/not running", "exec in what does not run is ErrNotRunning", execNotRunning),
		newCase("exec/empty command", "a command is required", execEmpty),
		newCase("exec/time-out", "when ctx ends the command is over and ctx's error is given", execTimeout),
		newCase("exec/time-out kills the tree", "when ctx ends the command's descendants are killed too", execTree, Kernel),
		newCase("exec/end of the container", "a command ends with its container", execContainerEnds),
		newCase("exec/at the same time", "commands beside one another do not mix", execParallel),
	}
}

func execResult(k *kit) {
	id := k.prog(k.pod(), "forever")
	code, stdout, stderr := k.exec(id, "print", "out", ";", "eprint", "err", ";", "exit", "42")
	k.same(code, 42, "exit code")
	k.same(stdout, "out\n", "standard output")
	k.same(stderr, "err\n", "standard error")
	code, _, _ = k.exec(id, "exit", "0")
	k.same(code, 0, "exit code of a success")
	k.same(k.status(id).State, runtimeiface.ContainerRunning, "state of the container")
	k.same(k.logText(k.status(id).LogPath), "", "the container's log")
}

func execStdin(k *kit) {
	id := k.prog(k.pod(), "forever")
	text := strings.Repeat("0123456789abcdef", 20000)
	var out syncBuffer
	code, err := k.rt.Exec(k.ctx, id, runtimeiface.ExecSpec{
		Command: []string{"/prog", "stdin"}, Stdin: strings.NewReader(text), Stdout: &out,
	})
	k.ok(err, "exec")
	k.same(code, 0, "exit code")
	k.that(out.String() == text, "of %d bytes came back %d", len(text), len(out.String()))
}

func execNoStreams(k *kit) {
	id := k.prog(k.pod(), "forever")
	code, err := k.rt.Exec(k.ctx, id, runtimeiface.ExecSpec{
		Command: []string{"/prog", "print", "a", ";", "eprint", "b", ";", "stdin", ";", "exit", "3"},
	})
	k.ok(err, "exec")
	k.same(code, 3, "exit code")
}

func execLarge(k *kit) {
	const n = 4 << 20
	code, stdout, _ := k.exec(k.prog(k.pod(), "forever"), "fill", fmt.Sprint(n))
	k.same(code, 0, "exit code")
	k.same(len(stdout), n, "bytes of output")
}

func execSurroundings(k *kit) {
	spec := k.container("forever")
	spec.Image, spec.Env = k.image(k.s.Images.Configured), []string{"FROM_SPEC=spec"}
	sb, pod := k.podSpec()
	_, stdout, stderr := k.exec(k.start(sb, spec), "env", "FROM_IMAGE", ";", "env", "FROM_SPEC", ";", "cwd", ";", "hostname")
	k.same(stdout, "image\nspec\n/work\n"+pod.Name+"\n", "surroundings; standard error is %q", stderr)
}

func execNoCommand(k *kit) {
	id := k.prog(k.pod(), "forever")
	code, err := k.rt.Exec(k.ctx, id, runtimeiface.ExecSpec{Command: []string{"/no/such/program"}})
	k.that(err != nil, "there is no error, exit code is %d", code)
	k.that(code == 126 || code == 127, "exit code is %d, error %v", code, err)
	k.same(k.status(id).State, runtimeiface.ContainerRunning, "state of the container")
}

func execNotRunning(k *kit) {
	sb := k.pod()
	spec := runtimeiface.ExecSpec{Command: []string{"/prog", "exit", "0"}}
	_, err := k.rt.Exec(k.ctx, k.create(sb, k.container()), spec)
	k.is(err, runtimeiface.ErrNotRunning, "exec in a created container")
	_, err = k.rt.Exec(k.ctx, k.exited(k.prog(sb, "exit", "0")).ID, spec)
	k.is(err, runtimeiface.ErrNotRunning, "exec in an exited container")
}

func execEmpty(k *kit) {
	_, err := k.rt.Exec(k.ctx, k.prog(k.pod(), "forever"), runtimeiface.ExecSpec{})
	k.is(err, runtimeiface.ErrInvalid, "exec without a command")
}

func execTimeout(k *kit) {
	id := k.prog(k.pod(), "forever")
	short, cancel := context.WithTimeout(k.ctx, 200*time.Millisecond)
	defer cancel()
	_, err := k.rt.Exec(short, id, runtimeiface.ExecSpec{Command: []string{"/prog", "ignore", ";", "forever"}})
	k.is(err, context.DeadlineExceeded, "exec whose ctx ends")
	k.same(k.status(id).State, runtimeiface.ContainerRunning, "state of the container")
	code, stdout, _ := k.exec(id, "print", "next")
	k.same(code, 0, "exit code of the next command")
	k.same(stdout, "next\n", "output of the next command")
}

func execTree(k *kit) {
	id := k.prog(k.pod(), "forever")
	short, cancel := context.WithTimeout(k.ctx, time.Second)
	defer cancel()
	_, err := k.rt.Exec(short, id, runtimeiface.ExecSpec{Command: []string{
		"/prog", "spawn", "ignore", ",", "count", "/tmp/child", "10ms", ";", "ignore", ";", "count", "/tmp/parent", "10ms",
	}})
	k.is(err, context.DeadlineExceeded, "exec whose ctx ends")
	// Killed on return, though a process may take a moment to be gone.
	k.eventually("end of the command and its child", func() error {
		_, stdout, _ := k.exec(id, "ps")
		if strings.Contains(stdout, "/tmp/child") || strings.Contains(stdout, "/tmp/parent") {
			return fmt.Errorf("processes are %q", stdout)
		}
		return nil
	})
	code, _, stderr := k.exec(id, "cat", "/tmp/child")
	k.that(code == 0, "the child never ran: %s", stderr)
}

func execContainerEnds(k *kit) {
	id := k.prog(k.pod(), "forever")
	type result struct {
		code int
		err  error
	}
	done := make(chan result, 1)
	rt, ctx := k.rt, k.ctx
	go func() {
		code, err := rt.Exec(ctx, id, runtimeiface.ExecSpec{Command: []string{"/prog", "forever"}})
		done <- result{code, err}
	}()
	k.pause(200 * time.Millisecond)
	k.stop(id, 0)
	select {
	case r := <-done:
		k.that(r.code != 0 || r.err != nil, "the command that was killed succeeded")
	case <-time.After(patience):
		k.fail("the command goes on")
	}
}

func execParallel(k *kit) {
	id := k.prog(k.pod(), "forever")
	const n = 10
	errs := make([]error, n)
	var wg sync.WaitGroup
	rt, ctx := k.rt, k.ctx
	for i := range n {
		wg.Go(func() {
			var out syncBuffer
			want := strings.Repeat(fmt.Sprintf("command %d ", i), 100)
			code, err := rt.Exec(ctx, id, runtimeiface.ExecSpec{
				Command: []string{"/prog", "print", want, ";", "exit", fmt.Sprint(i)}, Stdout: &out,
			})
			if err != nil || code != i || out.String() != want+"\n" {
				errs[i] = fmt.Errorf("command %d: exit code %d, error %v, output %.40q", i, code, err, out.String())
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		k.ok(err, "exec")
	}
}
