package runtimetest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

type container struct {
	runtimeiface.Container
	spec    runtimeiface.ContainerSpec
	image   *image
	seq     int
	mounted []*image
	process Process
	run     *run // since it started
	// killAt is when the grace of a stop ends; zero while nobody stops it.
	killAt time.Time
	// ended is closed when State becomes Exited.
	ended chan struct{}
}

// exit is how a container ends.
type exit struct {
	code            int32
	reason, message string
}

var (
	killed  = exit{code: 137, reason: runtimeiface.ReasonError}
	unknown = exit{
		code: runtimeiface.ExitCodeUnknown, reason: runtimeiface.ReasonUnknown,
		message: "nobody saw the exit",
	}
	outOfMemory = exit{code: 137, reason: runtimeiface.ReasonOOMKilled}
)

func exited(code int32) exit {
	if code == 0 {
		return exit{reason: runtimeiface.ReasonCompleted}
	}
	return exit{code: code, reason: runtimeiface.ReasonError}
}

// CreateContainer makes a container that does not run yet.
func (f *Fake) CreateContainer(ctx context.Context, sandboxID string, spec runtimeiface.ContainerSpec) (string, error) {
	var id string
	call := Call{
		Op: OpCreateContainer, SandboxID: sandboxID, Container: spec.Name, Attempt: spec.Attempt,
		Image: spec.Image, Command: slices.Concat(spec.Command, spec.Args),
	}
	err := f.do(ctx, call, func() (err error) {
		if err := f.checkContainer(spec); err != nil {
			return fmt.Errorf("create container %s: %w", spec.Name, err)
		}
		if id, err = f.createContainer(sandboxID, spec); err != nil {
			return fmt.Errorf("create container %s: %w", spec.Name, err)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return id, nil
}

func (f *Fake) createContainer(sandboxID string, spec runtimeiface.ContainerSpec) (string, error) {
	now := f.lock()
	defer f.unlock()
	s := f.sandboxes[sandboxID]
	if s == nil {
		return "", fmt.Errorf("sandbox %q: %w", sandboxID, runtimeiface.ErrNotFound)
	}
	for _, c := range f.containersOf(sandboxID) {
		if c.Name == spec.Name && c.Attempt == spec.Attempt {
			return c.ID, nil
		}
	}
	if s.State != runtimeiface.SandboxReady {
		return "", fmt.Errorf("sandbox %s: %w", sandboxID, runtimeiface.ErrNotRunning)
	}
	if spec.LogPath != "" && s.spec.LogDirectory == "" {
		return "", invalid("LogPath", "wants the sandbox's LogDirectory")
	}
	if spec.Security.Privileged && !s.spec.Privileged {
		return "", invalid("Security.Privileged", "wants a sandbox that is Privileged")
	}
	img := f.images[spec.Image]
	if img == nil {
		return "", fmt.Errorf("image %q: %w", spec.Image, runtimeiface.ErrNotFound)
	}
	mounted, err := f.mountedImages(spec)
	if err != nil {
		return "", err
	}
	if err := f.checkTarget(sandboxID, spec); err != nil {
		return "", err
	}
	c := &container{spec: spec.Clone(), image: img, mounted: mounted, seq: f.nextSeq(), ended: make(chan struct{})}
	id := f.newID("container", sandboxID, spec.Name, spec.Attempt)
	c.Container = runtimeiface.Container{
		ID: id, SandboxID: sandboxID, Name: spec.Name, Attempt: spec.Attempt,
		Labels: maps.Clone(spec.Labels), Annotations: maps.Clone(spec.Annotations),
		State: runtimeiface.ContainerCreated, Image: spec.Image, ImageID: img.id, CreatedAt: now,
	}
	if spec.LogPath != "" {
		c.LogPath = filepath.Join(s.spec.LogDirectory, spec.LogPath)
	}
	if s.CgroupParent != "" {
		c.Cgroup = s.CgroupParent + "/" + id
	}
	c.process = Process{
		Pod: s.Name, Namespace: s.Namespace, PodUID: s.UID, SandboxID: s.ID,
		Container: spec.Name, Attempt: spec.Attempt,
		Argv: img.argv(c.spec), Env: slices.Concat(img.Env, c.spec.Env),
		Dir: cmp.Or(spec.WorkingDir, img.WorkingDir, "/"), Hostname: cmp.Or(s.spec.Hostname, s.Name),
		Stdin: spec.Stdin, TTY: spec.TTY,
	}
	f.containers[id] = c
	f.publish(runtimeiface.ContainerMade, s, id, now)
	return id, nil
}

// StartContainer runs the program that the image chooses.
func (f *Fake) StartContainer(ctx context.Context, id string) error {
	return f.do(ctx, Call{Op: OpStartContainer, ContainerID: id}, func() error { return f.startContainer(id) })
}

func (f *Fake) startContainer(id string) error {
	process, img, err := f.toStart(id)
	if err != nil || img == nil {
		return err
	}
	program := img.Program
	if img.Choose != nil {
		program = img.Choose(process)
	}
	return f.start(id, program)
}

// toStart gives no image if the container runs already.
func (f *Fake) toStart(id string) (Process, *image, error) {
	f.lock()
	defer f.unlock()
	c := f.containers[id]
	if c == nil {
		return Process{}, nil, fmt.Errorf("start container %q: %w", id, runtimeiface.ErrNotFound)
	}
	switch c.State {
	case runtimeiface.ContainerRunning:
		return Process{}, nil, nil
	case runtimeiface.ContainerExited:
		return Process{}, nil, fmt.Errorf("start container %s: it has exited: %w", id, runtimeiface.ErrNotRunning)
	}
	return c.process.copy(), c.image, nil
}

func (f *Fake) start(id string, program Program) error {
	now := f.lock()
	defer f.unlock()
	c := f.containers[id]
	if c == nil {
		return fmt.Errorf("start container %q: %w", id, runtimeiface.ErrNotFound)
	}
	if c.State != runtimeiface.ContainerCreated {
		if c.State == runtimeiface.ContainerRunning {
			return nil
		}
		return fmt.Errorf("start container %s: it has exited: %w", id, runtimeiface.ErrNotRunning)
	}
	if len(c.process.Argv) == 0 && c.image.Entrypoint != nil {
		program.StartError = "no command"
	}
	if program.StartError != "" {
		f.end(c, now, exit{code: 128, reason: runtimeiface.ReasonStartError, message: program.StartError})
		return fmt.Errorf("start container %s: %s", id, program.StartError)
	}
	started := newRun(program, func(at time.Time, how exit) { f.end(c, at, how) })
	if f.logs && c.LogPath != "" {
		log, err := openLog(c.LogPath)
		if err != nil {
			f.end(c, now, exit{code: 128, reason: runtimeiface.ReasonStartError, message: err.Error()})
			return fmt.Errorf("start container %s: %w", id, err)
		}
		started.log = log
	}
	c.State, c.StartedAt, c.run = runtimeiface.ContainerRunning, now, started
	f.publish(runtimeiface.ContainerStarted, f.sandboxes[c.SandboxID], id, now)
	f.react(c.run, now, Reaction{Output: program.Output, Exit: program.Exit})
	return nil
}

// end makes the container Exited, once.
func (f *Fake) end(c *container, at time.Time, how exit) {
	if c.State == runtimeiface.ContainerExited {
		return
	}
	c.State, c.FinishedAt = runtimeiface.ContainerExited, at
	c.ExitCode, c.Reason, c.Message = how.code, how.reason, how.message
	if c.run != nil {
		c.run.over(at)
	}
	close(c.ended)
	f.publish(runtimeiface.ContainerStopped, f.sandboxes[c.SandboxID], c.ID, at)
}

// StopContainer signals the program and waits for its end.
func (f *Fake) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	return f.do(ctx, Call{Op: OpStopContainer, ContainerID: id, Grace: grace}, func() error {
		c := f.beginStop(id, grace)
		if c == nil {
			return nil
		}
		select {
		case <-c.ended:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

func (f *Fake) beginStop(id string, grace time.Duration) *container {
	now := f.lock()
	defer f.unlock()
	c := f.containers[id]
	if c == nil || c.State == runtimeiface.ContainerExited {
		return nil
	}
	if c.State == runtimeiface.ContainerCreated || grace <= 0 {
		f.end(c, now, killed)
		return c
	}
	first := c.killAt.IsZero()
	if killAt := now.Add(grace); first || killAt.Before(c.killAt) {
		c.killAt = killAt
		f.plan(killAt, func(at time.Time) { f.end(c, at, killed) })
	}
	if first && !c.run.program.IgnoreStop {
		how := exited(128 + signals[strings.TrimPrefix(cmp.Or(c.spec.StopSignal, c.image.StopSignal, "SIGTERM"), "SIG")])
		if c.run.program.StopCode != nil {
			how = exited(*c.run.program.StopCode)
		}
		f.plan(now.Add(c.run.program.StopTakes), func(at time.Time) { f.end(c, at, how) })
	}
	return c
}

// RemoveContainer kills and forgets the container.
func (f *Fake) RemoveContainer(ctx context.Context, id string) error {
	return f.do(ctx, Call{Op: OpRemoveContainer, ContainerID: id}, func() error {
		now := f.lock()
		defer f.unlock()
		if c := f.containers[id]; c != nil {
			f.end(c, now, killed)
			f.forgetContainer(c, now)
		}
		return nil
	})
}

func (f *Fake) forgetContainer(c *container, now time.Time) {
	delete(f.containers, c.ID)
	f.publish(runtimeiface.ContainerRemoved, f.sandboxes[c.SandboxID], c.ID, now)
}

// ContainerStatus gives a copy.
func (f *Fake) ContainerStatus(ctx context.Context, id string) (runtimeiface.Container, error) {
	var out runtimeiface.Container
	err := f.do(ctx, Call{Op: OpContainerStatus, ContainerID: id}, func() error {
		f.lock()
		defer f.unlock()
		c := f.containers[id]
		if c == nil {
			return fmt.Errorf("status of container %q: %w", id, runtimeiface.ErrNotFound)
		}
		out = c.copy()
		return nil
	})
	return out, err
}

// ListContainers gives copies, oldest first.
func (f *Fake) ListContainers(ctx context.Context, filter runtimeiface.ContainerFilter) ([]runtimeiface.Container, error) {
	out := []runtimeiface.Container{}
	err := f.do(ctx, Call{Op: OpListContainers, SandboxID: filter.SandboxID, ContainerID: filter.ID}, func() error {
		f.lock()
		defer f.unlock()
		for _, c := range f.containersOf(filter.SandboxID) {
			if filter.Match(c.Container) {
				out = append(out, c.copy())
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// containersOf gives a sandbox's containers, or all for "", oldest first.
func (f *Fake) containersOf(sandboxID string) []*container {
	var list []*container
	for _, c := range f.containers {
		if sandboxID == "" || c.SandboxID == sandboxID {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b *container) int { return cmp.Compare(a.seq, b.seq) })
	return list
}

func (c *container) copy() runtimeiface.Container {
	out := c.Container
	out.Labels, out.Annotations = maps.Clone(c.Labels), maps.Clone(c.Annotations)
	return out
}
