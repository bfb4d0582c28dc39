package runtimetest

import (
	"context"
	"errors"
	"fmt"
	"io"
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
		newCase("exec/unread stdin", "a command that does not read ends though Stdin goes on", execUnreadStdin),
		newCase("exec/stdin's end", "the end of Stdin is told while output goes on", execStdinEnd),
		newCase("exec/terminal", "a terminal has one stream and its own line ends", execTerminal),
		newCase("exec/resize", "the terminal has the sizes that Resize gives", execResize),
		newCase("exec/output cap", "ExecSync keeps 16 MiB of each stream, and the command runs to its end", execCap),
		newCase("exec/time-out keeps output", "what a command said until ctx ended is delivered", execTimeoutOutput),
		newCase("exec/time-out kills orphans", "when ctx ends, descendants that left the command's session are killed too", execOrphans, Kernel),
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
	err := k.execUntil(id, []string{"/tmp/child", "/tmp/parent"},
		"/prog", "spawn", "ignore", ",", "count", "/tmp/child", "10ms", ";", "ignore", ";", "count", "/tmp/parent", "10ms")
	k.is(err, context.Canceled, "exec whose ctx ends")
	// Killed on return, though a process may take a moment to be gone.
	k.eventually("end of the command and its child", func() error {
		_, stdout, _ := k.exec(id, "ps")
		if strings.Contains(stdout, "/tmp/child") || strings.Contains(stdout, "/tmp/parent") {
			return fmt.Errorf("processes are %q", stdout)
		}
		return nil
	})
}

// execUntil runs a command and ends its ctx once the files are there.
func (k *kit) execUntil(id string, files []string, command ...string) error {
	ctx, cancel := context.WithCancel(k.ctx)
	defer cancel()
	done := make(chan error, 1)
	rt := k.rt
	go func() {
		_, err := rt.Exec(ctx, id, runtimeiface.ExecSpec{Command: command})
		done <- err
	}()
	for _, file := range files {
		k.eventually("what the command does", func() error {
			if code, _, stderr := k.exec(id, "open", file); code != 0 {
				return errors.New(stderr)
			}
			return nil
		})
	}
	cancel()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		k.fail("the command goes on")
		return nil
	}
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

func execUnreadStdin(k *kit) {
	id := k.prog(k.pod(), "forever")
	read, _ := k.pipe()
	var out syncBuffer
	done := make(chan error, 1)
	rt, ctx := k.rt, k.ctx
	go func() {
		code, err := rt.Exec(ctx, id, runtimeiface.ExecSpec{
			Command: []string{"/prog", "print", "done", ";", "exit", "5"}, Stdin: read, Stdout: &out,
		})
		if err == nil && code != 5 {
			err = fmt.Errorf("exit code %d", code)
		}
		done <- err
	}()
	k.wait(done, "a command that does not read its Stdin")
	k.same(out.String(), "done\n", "output")
}

func execStdinEnd(k *kit) {
	id := k.prog(k.pod(), "forever")
	read, write := k.pipe()
	var out syncBuffer
	done := make(chan error, 1)
	rt, ctx := k.rt, k.ctx
	go func() {
		_, err := rt.Exec(ctx, id, runtimeiface.ExecSpec{
			Command: []string{"/prog", "stdin", ";", "print", "read all", ";", "lines", "50", "5ms"}, Stdin: read, Stdout: &out,
		})
		done <- err
	}()
	for _, text := range []string{"one\n", "two\n"} {
		_, err := io.WriteString(write, text)
		k.ok(err, "write to Stdin")
		k.eventually("output while Stdin is open", func() error {
			if !strings.HasSuffix(out.String(), text) {
				return fmt.Errorf("it is %q", out.String())
			}
			return nil
		})
	}
	k.ok(write.Close(), "end Stdin")
	k.wait(done, "the command")
	lines, found := strings.CutPrefix(out.String(), "one\ntwo\nread all\n")
	k.that(found, "output is %.100q", out.String())
	k.counted(strings.Split(lines, "\n"), 50)
}

func execTerminal(k *kit) {
	id := k.prog(k.pod(), "tty", ";", "forever")
	var out, errs syncBuffer
	code, err := k.rt.Exec(k.ctx, id, runtimeiface.ExecSpec{
		Command: []string{"/prog", "tty", ";", "eprint", "err", ";", "exit", "6"}, TTY: true, Stdout: &out, Stderr: &errs,
	})
	k.ok(err, "exec")
	k.same(code, 6, "exit code")
	k.same(out.String(), "true\r\nerr\r\n", "output")
	k.same(errs.String(), "", "standard error of a terminal")
	k.typedAt(id)
	_, stdout, _ := k.exec(id, "tty")
	k.same(stdout, "false\n", "whether a command without TTY has a terminal")
	k.logHas(k.status(id).LogPath, "false\n")
}

// typedAt types at a terminal and ends its input as one does.
func (k *kit) typedAt(id string) {
	read, write := k.pipe()
	var out syncBuffer
	done := make(chan error, 1)
	rt, ctx := k.rt, k.ctx
	go func() {
		code, err := rt.Exec(ctx, id, runtimeiface.ExecSpec{
			Command: []string{"/prog", "stdin", ";", "print", "read all", ";", "exit", "7"}, TTY: true, Stdin: read, Stdout: &out,
		})
		if err == nil && code != 7 {
			err = fmt.Errorf("exit code %d", code)
		}
		done <- err
	}()
	_, err := io.WriteString(write, "typed\n")
	k.ok(err, "type")
	k.eventually("the terminal's echo, and the command's", func() error {
		if n := strings.Count(out.String(), "typed\r\n"); n != 2 {
			return fmt.Errorf("what was typed came %d times: %q", n, out.String())
		}
		return nil
	})
	_, err = io.WriteString(write, "\x04")
	k.ok(err, "type the end")
	k.wait(done, "a command whose terminal has ended its input")
	k.that(strings.HasSuffix(out.String(), "read all\r\n"), "output is %q", out.String())
}

func execResize(k *kit) {
	id := k.prog(k.pod(), "forever")
	sizes := make(chan runtimeiface.TerminalSize, 1)
	sizes <- runtimeiface.TerminalSize{Width: 81, Height: 25}
	var out syncBuffer
	ctx, cancel := context.WithCancel(k.ctx)
	k.later(cancel)
	done := make(chan error, 1)
	rt := k.rt
	go func() {
		_, err := rt.Exec(ctx, id, runtimeiface.ExecSpec{
			Command: []string{"/prog", "sizes"}, TTY: true, Stdout: &out, Resize: sizes,
		})
		done <- err
	}()
	has := func(size string) {
		k.eventually("size "+size, func() error {
			select {
			case err := <-done:
				k.fail("the command is over with %v, its output is %q", err, out.String())
			default:
			}
			if !strings.Contains(out.String(), size) {
				return fmt.Errorf("output is %q", out.String())
			}
			return nil
		})
	}
	has("81x25")
	sizes <- runtimeiface.TerminalSize{Width: 133, Height: 50}
	has("133x50")
	close(sizes)
	cancel()
	k.is(k.ended(done), context.Canceled, "exec whose ctx ends")
}

func execCap(k *kit) {
	const n = runtimeiface.MaxExecOutput
	id := k.prog(k.pod(), "forever")
	got, err := runtimeiface.ExecSync(k.ctx, k.rt, id, []string{"/prog", "line", fmt.Sprint(n + 4096), ";", "eprint", "err", ";", "exit", "9"})
	k.ok(err, "exec")
	k.same(got.ExitCode, 9, "exit code")
	k.same(len(got.Stdout), n, "bytes of standard output")
	k.that(string(got.Stdout) == pattern(n), "standard output is not the first that was said")
	k.same(string(got.Stderr), "err\n", "standard error")
	k.that(got.Truncated, "it is not told that there was more")
	got, err = runtimeiface.ExecSync(k.ctx, k.rt, id, []string{"/prog", "print", "all"})
	k.ok(err, "exec")
	k.same(string(got.Stdout), "all\n", "standard output of the next command")
	k.that(!got.Truncated, "it is told that there was more")
}

func execTimeoutOutput(k *kit) {
	id := k.prog(k.pod(), "forever")
	var got runtimeiface.ExecResult
	for _, limit := range []time.Duration{time.Second, 15 * time.Second} { // the latter for where nothing is said within a second
		short, cancel := context.WithTimeout(k.ctx, limit)
		var err error
		got, err = runtimeiface.ExecSync(short, k.rt, id, []string{"/prog", "print", "first words", ";", "forever"})
		cancel()
		k.is(err, context.DeadlineExceeded, "exec whose ctx ends")
		if len(got.Stdout) > 0 {
			break
		}
	}
	k.same(string(got.Stdout), "first words\n", "output until then")
}

func execOrphans(k *kit) {
	id := k.prog(k.pod(), "forever")
	err := k.execUntil(id, []string{"/tmp/orphan"}, "/prog", "orphan", "ignore", ",", "count", "/tmp/orphan", "10ms", ";", "forever")
	k.is(err, context.Canceled, "exec whose ctx ends")
	k.eventually("end of the orphan", func() error {
		_, stdout, _ := k.exec(id, "ps")
		if strings.Contains(stdout, "/tmp/orphan") {
			return fmt.Errorf("processes are %q", stdout)
		}
		return nil
	})
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
