package runtimeiface

import (
	"context"
	"io"
	"time"
)

// Streams runs things beside a container's own process.
type Streams interface {
	// Exec runs a command in a running container and gives its exit code once
	// it ended and its output is delivered. When ctx ends, the command and all
	// its descendants are killed and ctx's error is given. ErrNotFound,
	// ErrNotRunning. A command that cannot be run gives exit code 126 or 127
	// as a shell would, with the reason in err. Without an exit code it is -1
	// and err says why.
	Exec(ctx context.Context, id string, spec ExecSpec) (exitCode int, err error)
}

// ExecSpec is one command to run.
type ExecSpec struct {
	// Command is not given to a shell; required.
	Command []string
	// Stdin, Stdout and Stderr may be nil. With TTY, Stderr gets nothing.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool
}

// Logs steers where a container's output goes.
type Logs interface {
	// ReopenLog makes the container write to a new file at its LogPath, after
	// the caller moved the old one away. No line is lost or written twice.
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
