package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

const (
	// execKillTime is how long a cancelled exec may take to die.
	execKillTime = 10 * time.Second
	// restTime is how long the delivery of its output may take then.
	restTime = 250 * time.Millisecond
)

// Exec runs a command beside the container's program. The shim starts it with
// pipes, or a terminal, of this process: its output passes through nobody else.
func (r *Runtime) Exec(ctx context.Context, id string, spec runtimeiface.ExecSpec) (int, error) {
	if len(spec.Command) == 0 {
		return -1, fmt.Errorf("exec in container %q: %w", id, invalid("Command", "is required"))
	}
	if err := commandLimits(spec.Command); err != nil {
		return -1, fmt.Errorf("exec in container %q: %w", id, err)
	}
	c, _, err := r.running(ctx, id)
	if err != nil {
		return -1, fmt.Errorf("exec in container %q: %w", id, err)
	}
	code, err := r.exec(ctx, c, spec)
	if err != nil {
		if ctx.Err() != nil {
			return -1, ctx.Err()
		}
		return code, fmt.Errorf("exec in container %s: %w", id, err)
	}
	return code, nil
}

func (r *Runtime) exec(ctx context.Context, c *container, spec runtimeiface.ExecSpec) (int, error) {
	var size *runtimeiface.TerminalSize
	if spec.TTY {
		size = firstSize(spec.Resize)
	}
	document, err := execDocument(c.dir, spec, size)
	if err != nil {
		return -1, err
	}
	defer func() { _ = document.Close() }()
	// Without input a command has a pipe at its end, see shim.streams.
	streams, err := newStreams(!spec.TTY, !spec.TTY, true)
	if err != nil {
		return -1, err
	}
	defer streams.close()
	rights := []int{int(document.Fd())}
	fields := []string{c.ID}
	if spec.TTY {
		fields = append(fields, "tty")
	} else if spec.Stdin == nil {
		streams.endInput()
	}
	conn, err := ask(c.sandbox.dir, append(rights, streams.rights()...), shim.OpExec, fields...)
	if err != nil {
		return -1, err
	}
	defer conn.CloseRights()
	streams.closeTheirs()
	faultPoint("exec sent")

	// When ctx ends, the shim sees that we stop writing, kills all that came
	// of the command and then answers.
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetReadDeadline(time.Now().Add(execKillTime))
		_ = conn.CloseWrite()
	})
	defer stop()
	answer, err := nextAnswer(conn)
	if err != nil {
		if errors.Is(err, errShimLost) {
			return -1, err
		}
		return r.execFailed(c, streams, answer)
	}
	if spec.TTY {
		if err := streams.setTerminal(conn.Rights()); err != nil {
			return -1, err
		}
		ended := make(chan struct{})
		defer close(ended)
		go streams.follow(spec.Resize, ended)
	}
	faultPoint("exec runs")
	streams.copy(spec.Stdin, spec.Stdout, spec.Stderr)
	answer, err = nextAnswer(conn)
	if ctx.Err() != nil {
		// What it said until then is here, and delivered if that does not block.
		rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), restTime)
		defer cancel()
		_ = streams.finish(rest)
		return -1, ctx.Err()
	}
	faultPoint("exec ended")
	if err == nil {
		err = streams.finish(ctx)
	}
	if err != nil {
		return -1, err
	}
	return strconv.Atoi(answer.Field(0))
}

// firstSize is what a terminal begins with, or nil if nothing is said yet.
func firstSize(sizes <-chan runtimeiface.TerminalSize) *runtimeiface.TerminalSize {
	select {
	case size, ok := <-sizes:
		if ok {
			return &size
		}
	default:
	}
	return nil
}

// execFailed finds out why a command could not be run: the OCI runtime has
// said it on the command's standard error.
func (r *Runtime) execFailed(c *container, x *streams, answer shim.Message) (int, error) {
	if r.stateOf(c) != runtimeiface.ContainerRunning {
		return -1, runtimeiface.ErrNotRunning
	}
	_ = x.ours[2].SetReadDeadline(time.Now().Add(time.Second))
	said, _ := io.ReadAll(io.LimitReader(x.ours[2], 4096))
	text := strings.TrimSpace(string(said))
	if i := strings.LastIndex(text, "exec failed: "); i >= 0 {
		text = text[i+len("exec failed: "):]
	}
	text = strings.TrimPrefix(text, "unable to start container process: ")
	if text == "" {
		return -1, answerError(answer)
	}
	switch {
	case strings.Contains(text, "permission denied"), strings.Contains(text, "not executable"),
		strings.Contains(text, "not a regular file"), strings.Contains(text, "is a directory"), strings.Contains(text, "exec format error"):
		return 126, errors.New(text)
	case strings.Contains(text, "executable file"), strings.Contains(text, "no such file or directory"):
		return 127, errors.New(text)
	case strings.Contains(text, "stopped container"), strings.Contains(text, "not running"):
		return -1, fmt.Errorf("%w: %s", runtimeiface.ErrNotRunning, text)
	}
	return -1, errors.New(text)
}

// execDocument is the OCI process of the container with another command, in
// memory.
func execDocument(dir string, spec runtimeiface.ExecSpec, size *runtimeiface.TerminalSize) (*os.File, error) {
	data, err := os.ReadFile(filepath.Join(dir, configFile))
	if err != nil {
		return nil, err
	}
	var s specs.Spec
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, err
	}
	p := s.Process
	p.Args, p.Terminal = spec.Command, spec.TTY
	if spec.TTY && !slices.ContainsFunc(p.Env, func(v string) bool { return strings.HasPrefix(v, "TERM=") }) {
		p.Env = append(p.Env, defaultTerm)
	}
	if size != nil {
		p.ConsoleSize = &specs.Box{Width: uint(size.Width), Height: uint(size.Height)}
	}
	if data, err = json.Marshal(p); err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("exec", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd: %w", err)
	}
	f := os.NewFile(uintptr(fd), "exec")
	if _, err := f.Write(data); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
