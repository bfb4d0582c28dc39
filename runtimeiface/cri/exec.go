package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/status"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// errCommand is a command that could not be run; its code is a shell's.
type errCommand struct {
	code int
	text string
}

func (e *errCommand) Error() string { return e.text }

// Exec runs a command with its streams connected, as output has no bounds then.
// Without Stdin and TTY it is ExecSync if streams are out of reach, or if this
// process could not end a command whose ctx ends.
func (r *Runtime) Exec(ctx context.Context, id string, spec runtimeiface.ExecSpec) (int, error) {
	act := "exec in container " + id
	if err := ctx.Err(); err != nil {
		return -1, err
	}
	if len(spec.Command) == 0 {
		return -1, fmt.Errorf("%s: %w", act, invalid("Command", "is required"))
	}
	if id == "" {
		return -1, fmt.Errorf("%s: %w", act, runtimeiface.ErrNotFound)
	}
	if err := r.begin(); err != nil {
		return -1, err
	}
	defer r.work.Done()
	run := r.execStream
	if spec.Stdin == nil && !spec.TTY && !killsTrees() {
		run = r.execSync
	}
	spec.Command = slices.Clone(spec.Command)

	type result struct {
		code int
		err  error
	}
	began := time.Now()
	// The call outlives ctx by as much as it takes to kill what it started.
	own, cancel := r.untilClosed(context.WithoutCancel(ctx))
	defer cancel()
	done := make(chan result, 1)
	go func() {
		code, err := run(own, ctx, id, spec)
		done <- result{code, err}
	}()
	var res result
	select {
	case res = <-done:
	case <-ctx.Done():
		r.killTree(own, id, spec.Command, began)
		cancel()
		<-done
		return -1, fmt.Errorf("%s: %w", act, ctx.Err())
	}
	var failed *errCommand
	switch {
	case errors.As(res.err, &failed):
		return failed.code, fmt.Errorf("%s: %w", act, res.err)
	case res.err != nil && own.Err() != nil:
		return -1, fmt.Errorf("%s: %w", act, errClosed)
	case res.err != nil:
		return res.code, r.notRunning(ctx, id, res.err, "%s", act)
	}
	return res.code, nil
}

// execSync leaves ctx to be ended by the caller; limit is what the runtime is told.
func (r *Runtime) execSync(ctx, limit context.Context, id string, spec runtimeiface.ExecSpec) (int, error) {
	request := &api.ExecSyncRequest{ContainerId: id, Cmd: spec.Command}
	if deadline, ok := limit.Deadline(); ok { // should the connection be lost before
		request.Timeout = int64(math.Ceil(time.Until(deadline).Seconds())) + 1
	}
	response, err := r.rs.ExecSync(ctx, request)
	if err != nil {
		return -1, commandError(err)
	}
	if err := errors.Join(write(spec.Stdout, response.Stdout), write(spec.Stderr, response.Stderr)); err != nil {
		return int(response.ExitCode), fmt.Errorf("deliver output: %w", err)
	}
	return int(response.ExitCode), nil
}

func write(w io.Writer, data []byte) error {
	if w == nil || len(data) == 0 {
		return nil
	}
	_, err := w.Write(data)
	return err
}

// commandError finds in a runtime's text that the command could not be run:
//
//	... OCI runtime exec failed: exec failed: unable to start container process:
//	exec: "/no/such/program": stat /no/such/program: no such file or directory
func commandError(err error) error {
	text := status.Convert(err).Message()
	if !strings.Contains(text, "OCI runtime exec failed") && !strings.Contains(text, "unable to start container process") &&
		!strings.Contains(text, "executable file") {
		return err
	}
	switch {
	case strings.Contains(text, "no such file or directory"), strings.Contains(text, "not found"):
		return &errCommand{127, text}
	case strings.Contains(text, "permission denied"), strings.Contains(text, "exec format error"), strings.Contains(text, "is a directory"):
		return &errCommand{126, text}
	}
	return err
}
