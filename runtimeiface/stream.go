package runtimeiface

import (
	"context"
	"io"
	"sync"
	"time"
)

// Streams runs things beside a container's own process.
type Streams interface {
	// Exec runs a command in a running container and gives its exit code once
	// it ended and its output is delivered. When ctx ends, the command and all
	// its descendants are killed and ctx's error is given. It ends with its
	// container: exit code 137 or an error. Stdin that goes on keeps no command
	// from ending: it may still be read from when Exec returns, until that Read
	// returns. ErrNotFound, ErrNotRunning; ErrInvalid without a Command.
	// A command that cannot be run gives exit code 126 or 127
	// as a shell would, with the reason in err. Without an exit code it is -1
	// and err says why.
	Exec(ctx context.Context, id string, spec ExecSpec) (exitCode int, err error)
	// Attach connects to the standard streams of a running container's own
	// process, from now on; what it said before is in its log, and what it says
	// meanwhile goes there too. Several may be attached at once. It returns nil
	// once the process has ended and its output is delivered, and ctx's error
	// when ctx ends first; the process is not told of either. A slow Stdout or
	// Stderr slows the process down, never the log's correctness.
	//
	// The end of Stdin closes the process's if that was made with StdinOnce and
	// without TTY, and output goes on. Otherwise the process's stays open for who
	// attaches next, and this attachment is over: Attach returns nil. That is how
	// the CRI has it (containerd v2.4). Stdin may still be read from when Attach
	// returns, until that Read returns.
	//
	// ErrNotFound, ErrNotRunning; ErrInvalid for Stdin if it was made without.
	Attach(ctx context.Context, id string, spec AttachSpec) error
	// PortForward connects conn to a TCP port on the loopback of a ready
	// sandbox's network, 127.0.0.1 or, if nothing listens there, ::1, and carries
	// bytes both ways until both ends have said their last, or one is broken, or
	// ctx ends, whose error it gives then. The end of what conn gives is told to
	// the pod, which may go on talking. If conn has CloseWrite, that tells it of
	// the pod's last byte; if not, the pod's last byte ends the call. conn is
	// closed on return, whatever the error. ErrNotFound, ErrNotRunning;
	// ErrInvalid for port 0; ErrUnavailable: nothing listens.
	PortForward(ctx context.Context, sandboxID string, port uint16, conn io.ReadWriteCloser) error
}

// ExecSpec is one command to run.
type ExecSpec struct {
	// Command is not given to a shell; required.
	Command []string
	// Stdin, Stdout and Stderr may be nil. With TTY, Stderr gets nothing, and the
	// end of Stdin is not told: a terminal's input is ended by typing byte 4. What
	// a command says after that end may be lost then (containerd v2.4), so end
	// Stdin after the command.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool
	// Resize gives the terminal's sizes as they change; the foreground process is
	// told of each by SIGWINCH. A command may have begun before the first one is
	// set. nil or closed leaves the size as it is. Ignored without TTY.
	Resize <-chan TerminalSize
}

// AttachSpec is what to connect to a container's streams.
type AttachSpec struct {
	// Stdin, Stdout and Stderr may be nil. Of a container with TTY, Stderr gets
	// nothing.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Resize gives sizes of the container's terminal, of which the latest from
	// whoever is attached counts; nil or closed leaves it as it is. Ignored
	// without TTY.
	Resize <-chan TerminalSize
}

// TerminalSize is in characters.
type TerminalSize struct{ Width, Height uint16 }

// MaxExecOutput is how much of each of a command's two outputs ExecSync keeps,
// in bytes: as much as the CRI's ExecSync of containerd v2.4.
const MaxExecOutput = 16 << 20

// ExecResult is what a command said and how it ended.
type ExecResult struct {
	// Stdout and Stderr are the first MaxExecOutput bytes of each.
	Stdout, Stderr []byte
	// Truncated: there was more.
	Truncated bool
	ExitCode  int
}

// ExecSync runs a command to its end and keeps what it said, up to
// MaxExecOutput bytes a stream: the command runs on to its end whatever it says.
// Errors are those of Exec, with what was said until then.
func ExecSync(ctx context.Context, s Streams, id string, command []string) (ExecResult, error) {
	var stdout, stderr capped
	code, err := s.Exec(ctx, id, ExecSpec{Command: command, Stdout: &stdout, Stderr: &stderr})
	out, outCut := stdout.take()
	errs, errCut := stderr.take()
	return ExecResult{Stdout: out, Stderr: errs, Truncated: outCut || errCut, ExitCode: code}, err
}

// capped keeps the first MaxExecOutput bytes. A backend may still write while a
// cancelled call returns.
type capped struct {
	mu    sync.Mutex
	data  []byte
	cut   bool
	taken bool
}

func (c *capped) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.taken {
		return len(p), nil
	}
	room := min(len(p), MaxExecOutput-len(c.data))
	c.data = append(c.data, p[:room]...)
	c.cut = c.cut || room < len(p)
	return len(p), nil
}

func (c *capped) take() (data []byte, cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken = true
	return c.data, c.cut
}

// Logs steers where a container's output goes.
type Logs interface {
	// ReopenLog makes the container write to a new file at its LogPath, after
	// the caller moved the old one away. No line is lost or written twice, and
	// the new file is there on return. A line of which parts were written may
	// have its last part in the new file. Without a LogPath: nil.
	// ErrNotFound, ErrNotRunning.
	ReopenLog(ctx context.Context, id string) error
}

// EventType says what changed.
type EventType string

// Types of events.
const (
	SandboxStarted   EventType = "SandboxStarted"
	SandboxStopped   EventType = "SandboxStopped"
	SandboxRemoved   EventType = "SandboxRemoved"
	ContainerMade    EventType = "ContainerCreated"
	ContainerStarted EventType = "ContainerStarted"
	ContainerStopped EventType = "ContainerStopped"
	ContainerRemoved EventType = "ContainerRemoved"
)

// Events tells that something changed.
type Events interface {
	// Subscribe gives events from now on, in the order in which each pod's
	// happened. The channel is closed when ctx ends or the source is lost;
	// then list, and subscribe again. A slow reader loses events, never the
	// newest of a pod.
	Subscribe(ctx context.Context) (<-chan Event, error)
}

// Event is a hint to look again.
type Event struct {
	Type        EventType
	PodUID      string
	SandboxID   string
	ContainerID string // "" for events of a sandbox
	Time        time.Time
}
