package runtimetest

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Exec asks the container's program for an answer.
func (f *Fake) Exec(ctx context.Context, id string, spec runtimeiface.ExecSpec) (int, error) {
	code := -1
	call := Call{Op: OpExec, ContainerID: id, Command: slices.Clone(spec.Command)}
	err := f.do(ctx, call, func() (err error) {
		if len(spec.Command) == 0 {
			return fmt.Errorf("exec in container %s: %w", id, invalid("Command", "is required"))
		}
		c, process, answer, err := f.toExec(id)
		if err != nil {
			return err
		}
		process.Argv = slices.Clone(spec.Command)
		code, err = f.exec(ctx, c, process, answer, spec)
		return err
	})
	return code, err
}

type answerer = func(context.Context, Process, []byte) ExecResult

func (f *Fake) toExec(id string) (*container, Process, answerer, error) {
	f.lock()
	defer f.unlock()
	c := f.containers[id]
	switch {
	case c == nil:
		return nil, Process{}, nil, fmt.Errorf("exec in container %q: %w", id, runtimeiface.ErrNotFound)
	case c.State != runtimeiface.ContainerRunning:
		return nil, Process{}, nil, fmt.Errorf("exec in container %s: %w", id, runtimeiface.ErrNotRunning)
	}
	return c, c.process.copy(), c.program.Exec, nil
}

func (f *Fake) exec(ctx context.Context, c *container, p Process, answer answerer, spec runtimeiface.ExecSpec) (int, error) {
	var stdin []byte
	if spec.Stdin != nil && answer != nil {
		var err error
		if stdin, err = io.ReadAll(spec.Stdin); err != nil {
			return -1, fmt.Errorf("exec %s: read stdin: %w", p.Argv[0], err)
		}
	}
	var result ExecResult
	if answer != nil {
		result = untilEnded(ctx, c, func(ctx context.Context) ExecResult { return answer(ctx, p, stdin) })
	}
	if err := ctx.Err(); err != nil {
		return -1, err
	}
	if isClosed(c.ended) {
		return killed.asExec()
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
		return killed.asExec()
	case <-ctx.Done():
		return -1, ctx.Err()
	}
}

// untilEnded calls f with a context that ends with the container too, which
// takes along what was run beside it.
func untilEnded(ctx context.Context, c *container, f func(context.Context) ExecResult) ExecResult {
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

func (e exit) asExec() (int, error) { return int(e.code), nil }

func deliver(spec runtimeiface.ExecSpec, result ExecResult) error {
	stderr := spec.Stderr
	if spec.TTY {
		stderr = spec.Stdout
	}
	for _, out := range []struct {
		to   io.Writer
		data string
	}{{spec.Stdout, result.Stdout}, {stderr, result.Stderr}} {
		if out.to == nil || out.data == "" {
			continue
		}
		if _, err := io.Copy(out.to, strings.NewReader(out.data)); err != nil {
			return fmt.Errorf("write output: %w", err)
		}
	}
	return nil
}

// ReopenLog goes on in a new file.
func (f *Fake) ReopenLog(ctx context.Context, id string) error {
	return f.do(ctx, Call{Op: OpReopenLog, ContainerID: id}, func() error {
		f.lock()
		defer f.unlock()
		c := f.containers[id]
		switch {
		case c == nil:
			return fmt.Errorf("reopen log of container %q: %w", id, runtimeiface.ErrNotFound)
		case c.State != runtimeiface.ContainerRunning:
			return fmt.Errorf("reopen log of container %s: %w", id, runtimeiface.ErrNotRunning)
		case c.log == nil:
			return nil
		}
		if err := c.log.reopen(); err != nil {
			return fmt.Errorf("reopen log of container %s: %w", id, err)
		}
		return nil
	})
}
