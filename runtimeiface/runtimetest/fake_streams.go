package runtimetest

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Exec runs what the container's program has for the command.
func (f *Fake) Exec(ctx context.Context, id string, spec runtimeiface.ExecSpec) (int, error) {
	code := -1
	call := Call{Op: OpExec, ContainerID: id, Command: slices.Clone(spec.Command)}
	err := f.do(ctx, call, func() (err error) {
		if len(spec.Command) == 0 {
			return fmt.Errorf("exec in container %s: %w", id, invalid("Command", "is required"))
		}
		c, process, program, err := f.toExec(id)
		if err != nil {
			return err
		}
		process.Argv = slices.Clone(spec.Command)
		process.Stdin, process.TTY = spec.Stdin != nil, spec.TTY
		if spec.TTY {
			spec.Stderr = spec.Stdout
		} else {
			spec.Resize = nil
		}
		if program.Command != nil {
			code, err = f.execProgram(ctx, c, program.Command(process), spec)
		} else {
			code, err = f.execAnswer(ctx, c, process, program.Exec, spec)
		}
		return err
	})
	return code, err
}

func (f *Fake) toExec(id string) (*container, Process, Program, error) {
	f.lock()
	defer f.unlock()
	c, err := f.running(id)
	if err != nil {
		return nil, Process{}, Program{}, fmt.Errorf("exec in container %q: %w", id, err)
	}
	return c, c.process.copy(), c.run.program, nil
}

// running finds a container that runs.
func (f *Fake) running(id string) (*container, error) {
	c := f.containers[id]
	switch {
	case c == nil:
		return nil, runtimeiface.ErrNotFound
	case c.State != runtimeiface.ContainerRunning:
		return nil, runtimeiface.ErrNotRunning
	}
	return c, nil
}

func (f *Fake) execProgram(ctx context.Context, c *container, p Program, spec runtimeiface.ExecSpec) (int, error) {
	if p.StartError != "" {
		return 127, fmt.Errorf("exec %s: %s", spec.Command[0], p.StartError)
	}
	var r *run
	r = newRun(p, func(at time.Time, how exit) {
		r.code = how.code
		r.over(at)
	})
	now := f.lock()
	from := r.reader()
	f.react(r, now, Reaction{Output: p.Output, Exit: p.Exit})
	f.unlock()
	defer func() {
		now := f.lock()
		r.over(now)
		f.unlock()
	}()
	err := untilEnded(ctx, c, func(ctx context.Context) error {
		return f.connect(ctx, r, from, streams{
			stdin: spec.Stdin, stdout: spec.Stdout, stderr: spec.Stderr, resize: spec.Resize,
			stdinEnds: func() bool { f.input(r, nil); return false },
		})
	})
	switch {
	case err == nil:
		return int(r.code), nil
	case ctx.Err() != nil:
		return -1, ctx.Err()
	case isClosed(c.ended):
		return int(killed.code), nil
	}
	return -1, fmt.Errorf("exec %s: %w", spec.Command[0], err)
}

type answerer = func(context.Context, Process, []byte) ExecResult

func (f *Fake) execAnswer(ctx context.Context, c *container, p Process, answer answerer, spec runtimeiface.ExecSpec) (int, error) {
	var result ExecResult
	if answer != nil {
		var stdin []byte
		if spec.Stdin != nil {
			var err error
			if stdin, err = io.ReadAll(spec.Stdin); err != nil {
				return -1, fmt.Errorf("exec %s: read stdin: %w", p.Argv[0], err)
			}
		}
		result = untilEnded(ctx, c, func(ctx context.Context) ExecResult { return answer(ctx, p, stdin) })
	}
	if err := ctx.Err(); err != nil {
		return -1, err
	}
	if isClosed(c.ended) {
		return int(killed.code), nil
	}
	if result.Err != nil {
		if result.Code == 0 {
			result.Code = 127
		}
		return result.Code, fmt.Errorf("exec %s: %w", p.Argv[0], result.Err)
	}
	if err := deliver(spec, result); err != nil {
		return -1, fmt.Errorf("exec %s: %w", p.Argv[0], err)
	}
	if result.Takes <= 0 {
		return result.Code, nil
	}
	timer := f.clock.NewTimer(result.Takes)
	defer timer.Stop()
	select {
	case <-timer.C():
		return result.Code, nil
	case <-c.ended:
		return int(killed.code), nil
	case <-ctx.Done():
		return -1, ctx.Err()
	}
}

// untilEnded calls f with a context that ends with the container too, which
// takes along what was run beside it.
func untilEnded[T any](ctx context.Context, c *container, f func(context.Context) T) T {
	ctx, cancel := context.WithCancel(ctx)
	watcher := make(chan struct{})
	go func() {
		defer close(watcher)
		select {
		case <-c.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	result := f(ctx)
	cancel()
	<-watcher
	return result
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func deliver(spec runtimeiface.ExecSpec, result ExecResult) error {
	for _, out := range []struct {
		to   io.Writer
		data string
	}{{spec.Stdout, result.Stdout}, {spec.Stderr, result.Stderr}} {
		if out.to == nil || out.data == "" {
			continue
		}
		if _, err := io.Copy(out.to, strings.NewReader(out.data)); err != nil {
			return fmt.Errorf("write output: %w", err)
		}
	}
	return nil
}

// Attach connects to a running program. Output waits without limit for a slow
// reader.
func (f *Fake) Attach(ctx context.Context, id string, spec runtimeiface.AttachSpec) error {
	return f.do(ctx, Call{Op: OpAttach, ContainerID: id}, func() error {
		c, from, err := f.toAttach(id, spec)
		if err != nil {
			return fmt.Errorf("attach to container %q: %w", id, err)
		}
		if c.spec.TTY {
			spec.Stderr = spec.Stdout
		} else {
			spec.Resize = nil
		}
		closes := c.spec.StdinOnce && !c.spec.TTY
		err = f.connect(ctx, c.run, from, streams{
			stdin: spec.Stdin, stdout: spec.Stdout, stderr: spec.Stderr, resize: spec.Resize,
			stdinEnds: func() bool {
				if closes {
					f.input(c.run, nil)
				}
				return !closes
			},
		})
		if closes && spec.Stdin != nil {
			f.input(c.run, nil) // the first client leaves
		}
		if err != nil && err != ctx.Err() {
			return fmt.Errorf("attach to container %s: %w", id, err)
		}
		return err
	})
}

func (f *Fake) toAttach(id string, spec runtimeiface.AttachSpec) (*container, *reader, error) {
	f.lock()
	defer f.unlock()
	c, err := f.running(id)
	if err != nil {
		return nil, nil, err
	}
	if spec.Stdin != nil && !c.spec.Stdin {
		return nil, nil, invalid("Stdin", "wants a container with Stdin")
	}
	return c, c.run.reader(), nil
}

// ReopenLog goes on in a new file.
func (f *Fake) ReopenLog(ctx context.Context, id string) error {
	return f.do(ctx, Call{Op: OpReopenLog, ContainerID: id}, func() error {
		f.lock()
		defer f.unlock()
		c, err := f.running(id)
		if err == nil && c.run.log != nil {
			err = c.run.log.reopen()
		}
		if err != nil {
			return fmt.Errorf("reopen log of container %q: %w", id, err)
		}
		return nil
	})
}
