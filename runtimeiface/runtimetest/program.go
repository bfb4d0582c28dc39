package runtimetest

import (
	"context"
	"io"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

// FakeImage is an image as a Fake's registry offers it, with what containers
// of it do.
type FakeImage struct {
	// Ref with a tag, or without for "latest"; required.
	Ref string
	// Content is what ID and digest are made of, so that images of equal Content
	// are one image with several tags; "" means Ref.
	Content string
	// Present has it on the node without a pull.
	Present bool

	// Program is what containers do. Choose, if not nil, decides instead, with
	// the command, the attempt and the rest at hand.
	Program Program
	Choose  func(Process) Program

	// Dirs are directories that a mount of Type "image" can have as subpath; nil
	// lets it have any. Pinned comes back in Image.
	Dirs   []string
	Pinned bool

	// The image's configuration.
	Entrypoint, Cmd, Env         []string
	WorkingDir, User, StopSignal string
	// Size in bytes; 0 means 10 MiB. Layers; 0 means 1.
	Size   int64
	Layers int

	// PullTakes is how long a pull lasts, PullErr how it ends, if not nil.
	PullTakes time.Duration
	PullErr   error
	// Auth that the registry wants, or nil; any other is ErrUnauthorized.
	Auth *runtimeiface.Auth
}

// Process is a container's program about to be started, or a command about to
// be run beside it.
type Process struct {
	Pod, Namespace, PodUID, SandboxID string
	Container                         string
	Attempt                           uint32
	// Argv is the command with its arguments, Env the image's and the
	// container's together, later wins.
	Argv, Env []string
	Dir       string
	Hostname  string
	// Stdin and TTY tell what it is connected to.
	Stdin, TTY bool
}

// Program is what a fake container does. The zero value runs until it is told
// to stop and then ends at once, by the stop signal.
type Program struct {
	// StartError, if not "", is why it cannot be run at all.
	StartError string
	// Exit is how it ends by itself; nil does not.
	Exit *Exit
	// Output goes to who is attached, and to the log with FakeConfig.WriteLogs.
	Output []Output
	// IgnoreStop makes it deaf to the stop signal. StopTakes passes between the
	// signal and the end; StopCode is the exit code then, nil is 128 + signal.
	IgnoreStop bool
	StopTakes  time.Duration
	StopCode   *int32
	// Exec answers commands; nil lets every command succeed without output.
	// It is called without locks and may block until ctx ends. Process.Argv is
	// the command.
	Exec func(ctx context.Context, p Process, stdin []byte) ExecResult
	// Command, if not nil, chooses what a command does, as FakeImage.Choose does
	// for a container's own program; Exec is not asked then. It is called without
	// locks.
	Command func(Process) Program
	// Stdin is told of what arrives at standard input, and by nil of its end, and
	// says what comes of it; nil pays no attention. Resized is the same for sizes
	// of the terminal. They are called without locks, one call at a time.
	Stdin   func(data []byte) Reaction
	Resized func(size runtimeiface.TerminalSize) Reaction
	// Listen has who listens on which TCP port of the pod's loopback, while the
	// program runs. A handler is called without locks for each connection, which is
	// over when it returns; Close of conn says the last byte to the client, who may
	// go on talking.
	Listen map[uint16]func(ctx context.Context, conn io.ReadWriteCloser)
}

// Reaction is what a program does because something reached it. Times count from
// then. The zero value is nothing.
type Reaction struct {
	Output []Output
	Exit   *Exit
}

// Exit is the end of a program.
type Exit struct {
	// After the start; 0 is at once.
	After time.Duration
	Code  int32
	// OOM makes it 137 and OOMKilled.
	OOM bool
}

// Output is something written by a program.
type Output struct {
	// After the start.
	After  time.Duration
	Stderr bool
	// Data is written as it is, without a newline of its own.
	Data []byte
}

// ExecResult is what became of a command.
type ExecResult struct {
	// Takes passes before it ends.
	Takes          time.Duration
	Code           int
	Stdout, Stderr string
	// Err is why the command could not be run; Code 0 becomes 127 then.
	Err error
}
