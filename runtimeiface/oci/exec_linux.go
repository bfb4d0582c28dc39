package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// execKillTime is how long a cancelled exec may take to die.
const execKillTime = 10 * time.Second

// Exec runs a command beside the container's program. The shim starts it with
// pipes of this process: its output passes through nobody else.
func (r *Runtime) Exec(ctx context.Context, id string, spec runtimeiface.ExecSpec) (int, error) {
	if len(spec.Command) == 0 {
		return -1, fmt.Errorf("exec in container %q: %w", id, invalid("Command", "is required"))
	}
	if err := commandLimits(spec.Command); err != nil {
		return -1, fmt.Errorf("exec in container %q: %w", id, err)
	}
	if spec.TTY {
		return -1, fmt.Errorf("exec in container %q: %w", id, notSupported("TTY", "a terminal for a command"))
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
	document, err := execDocument(c.dir, spec.Command)
	if err != nil {
		return -1, err
	}
	defer func() { _ = document.Close() }()
	io3, err := newExecIO(spec.Stdin != nil)
	if err != nil {
		return -1, err
	}
	defer io3.close()
	conn, err := dialUnix(c.sandbox.dir)
	if err != nil {
		return -1, fmt.Errorf("%w: %w", errShimLost, err)
	}
	defer func() { _ = conn.Close() }()
	m, err := shim.Message{Seq: 1, Op: shim.OpExec, Fields: []string{c.ID}}.Append(nil)
	if err != nil {
		return -1, err
	}
	rights := unix.UnixRights(int(document.Fd()), int(io3.theirs[0].Fd()), int(io3.theirs[1].Fd()), int(io3.theirs[2].Fd()))
	if _, _, err := conn.WriteMsgUnix(m, rights, nil); err != nil {
		return -1, fmt.Errorf("%w: %w", errShimLost, err)
	}
	io3.closeTheirs()
	faultPoint("exec sent")

	// When ctx ends, the shim sees that we stop writing, kills all that came
	// of the command and then answers.
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetReadDeadline(time.Now().Add(execKillTime))
		_ = conn.CloseWrite()
	})
	defer stop()
	answer, err := shim.ReadMessage(conn)
	if err != nil {
		return -1, fmt.Errorf("%w: %w", errShimLost, err)
	}
	if answer.Op != shim.OpOK {
		return r.execFailed(c, io3, answer)
	}
	faultPoint("exec runs")
	io3.copy(spec)
	answer, err = shim.ReadMessage(conn)
	if err != nil {
		return -1, fmt.Errorf("%w: %w", errShimLost, err)
	}
	if err := ctx.Err(); err != nil {
		return -1, err
	}
	if answer.Op != shim.OpOK {
		return -1, answerError(answer)
	}
	faultPoint("exec ended")
	if err := io3.finish(ctx); err != nil {
		return -1, err
	}
	return strconv.Atoi(answer.Field(0))
}

// execFailed finds out why a command could not be run: the OCI runtime has
// said it on the command's standard error.
func (r *Runtime) execFailed(c *container, x *execIO, answer shim.Message) (int, error) {
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
func execDocument(dir string, command []string) (*os.File, error) {
	data, err := os.ReadFile(filepath.Join(dir, configFile))
	if err != nil {
		return nil, err
	}
	var s specs.Spec
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, err
	}
	s.Process.Args, s.Process.Terminal = command, false
	if data, err = json.Marshal(s.Process); err != nil {
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

// execIO is the three streams of a command.
type execIO struct {
	ours, theirs [3]*os.File
	wg           sync.WaitGroup
	copied       atomic.Int64
	mu           sync.Mutex
	err          error
}

func newExecIO(stdin bool) (*execIO, error) {
	x := &execIO{}
	for i := range 3 {
		var err error
		switch {
		case i == 0 && !stdin:
			x.theirs[0], err = os.Open(os.DevNull)
		default:
			err = x.pipe(i)
		}
		if err != nil {
			x.close()
			return nil, err
		}
	}
	return x, nil
}

// pipe makes our end only non-blocking: programs expect theirs to block.
func (x *execIO) pipe(i int) error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	our, their := p[0], p[1]
	if i == 0 {
		our, their = p[1], p[0]
	}
	_ = unix.SetNonblock(our, true)
	x.ours[i], x.theirs[i] = os.NewFile(uintptr(our), "pipe"), os.NewFile(uintptr(their), "pipe")
	return nil
}

// copy begins to carry data, once the command runs.
func (x *execIO) copy(spec runtimeiface.ExecSpec) {
	if x.ours[0] != nil {
		// Not waited for: the reader may never end. The pipe does.
		go func(to *os.File) {
			_, _ = io.Copy(to, spec.Stdin)
			_ = to.Close()
		}(x.ours[0])
	}
	for i, to := range []io.Writer{spec.Stdout, spec.Stderr} {
		if to == nil {
			to = io.Discard
		}
		x.wg.Go(func() { x.carry(x.ours[i+1], to) })
	}
}

func (x *execIO) carry(from *os.File, to io.Writer) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				x.mu.Lock()
				x.err = errors.Join(x.err, werr)
				x.mu.Unlock()
				to = io.Discard // the command shall not hang for it
			}
			x.copied.Add(int64(n))
		}
		if err != nil {
			return
		}
	}
}

// finish waits for the rest of the output of a command that has ended. What a
// process left behind may still say is cut off when nothing comes for a while.
func (x *execIO) finish(ctx context.Context) error {
	done := make(chan struct{})
	go func() { x.wg.Wait(); close(done) }()
	idle := time.NewTicker(250 * time.Millisecond)
	defer idle.Stop()
	last := int64(-1)
	for {
		select {
		case <-done:
			x.mu.Lock()
			defer x.mu.Unlock()
			return x.err
		case <-ctx.Done():
			return ctx.Err()
		case <-idle.C:
			now := x.copied.Load()
			if now == last && x.empty() {
				x.closeOurs()
			}
			last = now
		}
	}
}

// empty tells that no output waits to be read.
func (x *execIO) empty() bool {
	for _, f := range x.ours[1:] {
		raw, err := f.SyscallConn()
		if err != nil {
			continue
		}
		n := 0
		_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
		if n > 0 {
			return false
		}
	}
	return true
}

func (x *execIO) closeTheirs() {
	for i, f := range x.theirs {
		if f != nil {
			_ = f.Close()
			x.theirs[i] = nil
		}
	}
}

func (x *execIO) closeOurs() {
	for _, f := range x.ours {
		if f != nil {
			_ = f.Close()
		}
	}
}

func (x *execIO) close() {
	x.closeTheirs()
	x.closeOurs()
}
