package runtimetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

func attachCases() []Case {
	return []Case{
		newCase("attach/output", "an attachment gets both streams from now on, and the log has all of it", attachOutput),
		newCase("attach/several", "several are attached at once, each gets the output, one that leaves disturbs none", attachSeveral),
		newCase("attach/stdin once", "with StdinOnce the end of Stdin ends the process's, and what it says then arrives", attachStdinOnce),
		newCase("attach/stdin again", "without StdinOnce the end of Stdin ends the attachment, and the next one goes on typing", attachStdinAgain),
		newCase("attach/leaves", "when ctx ends its error is given, the process goes on and the log is whole", attachLeaves),
		newCase("attach/leaves with stdin once", "with StdinOnce the first client that leaves ends standard input", attachLeavesOnce),
		newCase("attach/large", "large input and output arrive whole", attachLarge),
		newCase("attach/no stdin", "without Stdin a program has nothing to read, and Stdin of an attachment is ErrInvalid", attachNoStdin),
		newCase("attach/not running", "an unknown container is ErrNotFound, one that does not run ErrNotRunning", attachNotRunning),
		newCase("attach/terminal", "a terminal has one stream and its own line ends, and hands on what is typed", attachTerminal),
		newCase("attach/resize", "the terminal has the sizes that an attachment gives", attachResize),
	}
}

// attached is an attachment in a goroutine of its own.
type attached struct {
	out, errs syncBuffer
	typed     *io.PipeWriter
	done      chan error
	leave     func()
}

// attach gives an attachment that is there: the runtime may still be at it when
// this returns, so programs wait for something that comes later.
func (k *kit) attach(id string, stdin bool, change ...func(*runtimeiface.AttachSpec)) *attached {
	a := &attached{done: make(chan error, 1)}
	spec := runtimeiface.AttachSpec{Stdout: &a.out, Stderr: &a.errs}
	var read *io.PipeReader
	if stdin {
		read, a.typed = k.pipe()
		spec.Stdin = read
	}
	for _, c := range change {
		c(&spec)
	}
	ctx, cancel := context.WithCancel(k.ctx)
	a.leave = cancel
	k.later(func() {
		cancel()
		if stdin {
			_ = a.typed.Close()
		}
	})
	rt := k.rt
	go func() {
		a.done <- rt.Attach(ctx, id, spec)
		if stdin {
			_ = read.Close() // nobody reads what is typed now
		}
	}()
	return a
}

func (k *kit) typeIn(a *attached, text string) {
	_, err := io.WriteString(a.typed, text)
	k.ok(err, "type %.40q", text)
}

func (k *kit) says(a *attached, text string) {
	k.eventually("what is attached gets it", func() error {
		select {
		case err := <-a.done:
			a.done <- err
			if !strings.Contains(a.out.String(), text) {
				k.fail("the attachment is over with %v and got %.200q, not %.200q", err, a.out.String(), text)
			}
		default:
		}
		if got := a.out.String(); !strings.Contains(got, text) {
			return fmt.Errorf("got %.200q, not %.200q", got, text)
		}
		return nil
	})
}

// interactive is a container whose standard input can be typed at.
func (k *kit) interactive(steps ...string) runtimeiface.ContainerSpec {
	spec := k.container(steps...)
	spec.Stdin = true
	return spec
}

// ticks starts a program that prints without end, so that whoever attaches sees
// when that has been done.
func (k *kit) ticks(sandbox string) string { return k.prog(sandbox, "lines", "100000", "10ms") }

func attachOutput(k *kit) {
	sb := k.pod()
	id := k.prog(sb, "print", "before", ";", "sleep", "2s", ";", "print", "out", ";", "eprint", "err", ";", "print", "end", ";", "exit", "3")
	path := k.status(id).LogPath
	k.logHas(path, "before\n")
	a := k.attach(id, false)
	k.wait(a.done, "attach until the end")
	k.same(a.out.String(), "out\nend\n", "standard output from the attachment on")
	k.same(a.errs.String(), "err\n", "standard error from the attachment on")
	k.ends(id, 3, runtimeiface.ReasonError)
	k.logHas(path, "end\n")
	k.same(joinLog(k.logLines(path), "stdout"), "before\nout\nend\n", "log of standard output")
	k.same(joinLog(k.logLines(path), "stderr"), "err\n", "log of standard error")
}

func attachSeveral(k *kit) {
	id := k.ticks(k.pod())
	one, two, three := k.attach(id, false), k.attach(id, false), k.attach(id, false)
	for _, a := range []*attached{one, two, three} {
		k.says(a, "line ")
	}
	two.leave()
	k.is(k.ended(two.done), context.Canceled, "attachment whose ctx ends")
	for _, a := range []*attached{one, three} {
		seen := len(a.out.String())
		k.eventually("more output", func() error {
			if len(a.out.String()) <= seen {
				return errors.New("no more")
			}
			return nil
		})
	}
	k.stop(id, 0)
	k.wait(one.done, "the first attachment")
	k.wait(three.done, "the third attachment")
	log := k.logText(k.status(id).LogPath)
	for _, a := range []*attached{one, three} {
		got := a.out.String()
		got = got[strings.Index(got, "\n")+1:] // may begin within a line
		k.that(strings.Contains(log, got), "what came, %.80q ... %d bytes, is not one piece of the log", got, len(got))
	}
}

// ended waits for a call's end and gives its error.
func (k *kit) ended(done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		k.fail("the call goes on %v later", patience)
	case <-k.ctx.Done():
		k.fail("%w", k.ctx.Err())
	}
	return nil
}

func attachStdinOnce(k *kit) {
	spec := k.interactive("stdin", ";", "print", "read all", ";", "exit", "4")
	spec.StdinOnce = true
	id := k.start(k.pod(), spec)
	a := k.attach(id, true)
	k.typeIn(a, "one\n")
	k.says(a, "one\n")
	k.same(k.status(id).State, runtimeiface.ContainerRunning, "state before the end of Stdin")
	k.typeIn(a, "two\n")
	k.ok(a.typed.Close(), "end Stdin")
	k.wait(a.done, "attach until the end")
	k.same(a.out.String(), "one\ntwo\nread all\n", "output")
	c := k.ends(id, 4, runtimeiface.ReasonError)
	k.logHas(c.LogPath, "read all\n")
	k.same(k.logText(c.LogPath), "one\ntwo\nread all\n", "log")
}

func attachStdinAgain(k *kit) {
	id := k.start(k.pod(), k.interactive("stdin", ";", "exit", "4"))
	for _, text := range []string{"one\n", "two\n"} {
		a := k.attach(id, true)
		k.typeIn(a, text)
		k.says(a, text)
		k.ok(a.typed.Close(), "end Stdin")
		k.wait(a.done, "attach until the end of Stdin")
		k.same(a.out.String(), text, "output")
	}
	k.same(k.status(id).State, runtimeiface.ContainerRunning, "state after the second attachment")
	k.same(k.logText(k.status(id).LogPath), "one\ntwo\n", "log")
}

func attachLeaves(k *kit) {
	const n = 300
	id := k.prog(k.pod(), "lines", fmt.Sprint(n), "5ms", ";", "print", endMark)
	for range 3 {
		a := k.attach(id, false)
		k.says(a, "line ")
		a.leave()
		k.is(k.ended(a.done), context.Canceled, "attachment whose ctx ends")
		got := a.out.String()
		k.pause(50 * time.Millisecond)
		k.same(a.out.String(), got, "output after the attachment's end")
	}
	k.counted(strings.Split(k.untilEnd(k.ends(id, 0, runtimeiface.ReasonCompleted).LogPath), "\n"), n)
}

func attachLeavesOnce(k *kit) {
	spec := k.interactive("stdin", ";", "print", "read all", ";", "exit", "4")
	spec.StdinOnce = true
	id := k.start(k.pod(), spec)
	a := k.attach(id, true)
	k.typeIn(a, "one\n")
	k.says(a, "one\n")
	a.leave()
	k.is(k.ended(a.done), context.Canceled, "attachment whose ctx ends")
	c := k.ends(id, 4, runtimeiface.ReasonError)
	k.logHas(c.LogPath, "read all\n")
}

func attachLarge(k *kit) {
	const n = 4 << 20
	spec := k.interactive("stdin", ";", "print", "", ";", "line", fmt.Sprint(n))
	spec.StdinOnce = true
	id := k.start(k.pod(), spec)
	a := k.attach(id, true)
	typed := strings.Repeat("0123456789abcde\n", n/16)
	go func() {
		_, _ = io.WriteString(a.typed, typed)
		_ = a.typed.Close()
	}()
	k.wait(a.done, "attach until the end")
	want := typed + "\n" + pattern(n) + "\n"
	got := a.out.String()
	k.that(got == want, "of %d bytes came %d, alike up to byte %d", len(want), len(got), alike(got, want))
	k.ends(id, 0, runtimeiface.ReasonCompleted)
	k.eventually("the log to be whole", func() error {
		if text := k.logText(k.status(id).LogPath); text != want {
			return fmt.Errorf("of %d bytes it has %d, alike up to byte %d", len(want), len(text), alike(text, want))
		}
		return nil
	})
}

// alike tells where two texts begin to differ.
func alike(a, b string) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func attachNoStdin(k *kit) {
	sb := k.pod()
	id := k.prog(sb, "stdin", ";", "print", "nothing to read", ";", "forever")
	k.logHas(k.status(id).LogPath, "nothing to read\n")
	a := k.attach(id, true)
	k.is(k.ended(a.done), runtimeiface.ErrInvalid, "attach with Stdin")
}

func attachNotRunning(k *kit) {
	sb := k.pod()
	spec := runtimeiface.AttachSpec{Stdout: &syncBuffer{}}
	k.is(k.rt.Attach(k.ctx, "no-such-container", spec), runtimeiface.ErrNotFound, "attach to an unknown container")
	k.is(k.rt.Attach(k.ctx, k.create(sb, k.container()), spec), runtimeiface.ErrNotRunning, "attach to a created container")
	over := k.exited(k.prog(sb, "exit", "0")).ID
	k.is(k.rt.Attach(k.ctx, over, spec), runtimeiface.ErrNotRunning, "attach to an exited container")
}

func attachTerminal(k *kit) {
	spec := k.interactive("tty", ";", "stdin", ";", "eprint", "read all", ";", "exit", "4")
	spec.TTY = true
	id := k.start(k.pod(), spec)
	k.logHas(k.status(id).LogPath, "true")
	a := k.attach(id, true)
	k.typeIn(a, "typed\n")
	k.says(a, "typed\r\ntyped\r\n") // the terminal's echo, and the program's
	k.typeIn(a, "\x04")
	k.wait(a.done, "attach until the end")
	k.same(a.out.String(), "typed\r\ntyped\r\nread all\r\n", "output")
	k.same(a.errs.String(), "", "standard error of a terminal")
	c := k.ends(id, 4, runtimeiface.ReasonError)
	k.logHas(c.LogPath, "read all")
	for _, l := range k.logLines(c.LogPath) {
		k.same(l.stream, "stdout", "stream of a terminal's log line %q", l.text)
	}
}

func attachResize(k *kit) {
	spec := k.interactive("sizes")
	spec.TTY = true
	id := k.start(k.pod(), spec)
	sizes := make(chan runtimeiface.TerminalSize, 1)
	sizes <- runtimeiface.TerminalSize{Width: 81, Height: 25}
	a := k.attach(id, false, func(s *runtimeiface.AttachSpec) { s.Resize = sizes })
	k.says(a, "81x25")
	sizes <- runtimeiface.TerminalSize{Width: 133, Height: 50}
	k.says(a, "133x50")
	close(sizes)
	k.pause(100 * time.Millisecond)
	select {
	case err := <-a.done:
		k.fail("the attachment is over when Resize is closed: %v", err)
	default:
	}
	a.leave()
	k.is(k.ended(a.done), context.Canceled, "attachment whose ctx ends")
	k.same(k.status(id).State, runtimeiface.ContainerRunning, "state after the attachment's end")
}
