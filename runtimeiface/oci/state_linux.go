package oci

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/nodekit/nodekit/runtimeiface"
)

// SandboxStatus gives a copy.
func (r *Runtime) SandboxStatus(ctx context.Context, id string) (runtimeiface.Sandbox, error) {
	if err := r.ready(ctx); err != nil {
		return runtimeiface.Sandbox{}, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	s := r.sandboxes[id]
	if s == nil {
		return runtimeiface.Sandbox{}, fmt.Errorf("status of sandbox %q: %w", id, runtimeiface.ErrNotFound)
	}
	return s.status(), nil
}

// ListSandboxes gives copies, oldest first.
func (r *Runtime) ListSandboxes(ctx context.Context, f runtimeiface.SandboxFilter) ([]runtimeiface.Sandbox, error) {
	if err := r.ready(ctx); err != nil {
		return nil, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := []runtimeiface.Sandbox{}
	for _, s := range slices.SortedFunc(maps.Values(r.sandboxes), func(a, b *sandbox) int { return cmp.Compare(a.seq, b.seq) }) {
		st := s.status()
		if f.Match(st) {
			out = append(out, st)
		}
	}
	return out, nil
}

// status is called with Runtime.mu held.
func (s *sandbox) status() runtimeiface.Sandbox {
	out := runtimeiface.Sandbox{
		ID: s.ID, Name: s.spec.Name, Namespace: s.spec.Namespace, UID: s.spec.UID, Attempt: s.spec.Attempt,
		Labels: maps.Clone(s.spec.Labels), Annotations: maps.Clone(s.spec.Annotations),
		State: runtimeiface.SandboxNotReady, CreatedAt: s.CreatedAt, IPs: slices.Clone(s.IPs),
		Network:        cmp.Or(s.spec.Network, runtimeiface.NamespacePod),
		RuntimeHandler: s.spec.RuntimeHandler, CgroupParent: s.CgroupParent,
	}
	if s.ready {
		out.State = runtimeiface.SandboxReady
		if s.shim != nil {
			out.PID = s.shim.pid
		}
	}
	return out
}

func (r *Runtime) sandbox(id string) *sandbox {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.sandboxes[id]
}

func (r *Runtime) findSandbox(uid string, attempt uint32) *sandbox {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, s := range r.sandboxes {
		if s.spec.UID == uid && s.spec.Attempt == attempt {
			return s
		}
	}
	return nil
}

func (r *Runtime) isReady(s *sandbox) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return s.ready
}

// ContainerStatus gives a copy.
func (r *Runtime) ContainerStatus(ctx context.Context, id string) (runtimeiface.Container, error) {
	if err := r.ready(ctx); err != nil {
		return runtimeiface.Container{}, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	c := r.containers[id]
	if c == nil || c.hidden {
		return runtimeiface.Container{}, fmt.Errorf("status of container %q: %w", id, runtimeiface.ErrNotFound)
	}
	return c.status(), nil
}

// ListContainers gives copies, oldest first.
func (r *Runtime) ListContainers(ctx context.Context, f runtimeiface.ContainerFilter) ([]runtimeiface.Container, error) {
	if err := r.ready(ctx); err != nil {
		return nil, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := []runtimeiface.Container{}
	for _, c := range slices.SortedFunc(maps.Values(r.containers), func(a, b *container) int { return cmp.Compare(a.seq, b.seq) }) {
		st := c.status()
		if !c.hidden && f.Match(st) {
			out = append(out, st)
		}
	}
	return out, nil
}

// status is called with Runtime.mu held.
func (c *container) status() runtimeiface.Container {
	return runtimeiface.Container{
		ID: c.ID, SandboxID: c.sandbox.ID, Name: c.Spec.Name, Attempt: c.Spec.Attempt,
		Labels: maps.Clone(c.Spec.Labels), Annotations: maps.Clone(c.Spec.Annotations),
		State: c.state, Image: c.Spec.Image, ImageID: c.ImageID,
		CreatedAt: c.CreatedAt, StartedAt: c.started, FinishedAt: c.finished,
		ExitCode: c.exitCode, Reason: c.reason, Message: c.message,
		LogPath: c.LogPath, PID: c.pid, Cgroup: c.Cgroup,
	}
}

func (r *Runtime) container(id string) *container {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if c := r.containers[id]; c != nil && !c.hidden {
		return c
	}
	return nil
}

// knows also those that are not made yet.
func (r *Runtime) knows(id string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.containers[id] != nil
}

func (r *Runtime) findContainer(s *sandbox, name string, attempt uint32) *container {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, c := range s.containers {
		if c.Spec.Name == name && c.Spec.Attempt == attempt && !c.hidden {
			return c
		}
	}
	return nil
}

func (r *Runtime) addContainer(c *container) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq++
	c.seq = r.seq
	r.containers[c.ID], c.sandbox.containers[c.ID] = c, c
}

func (r *Runtime) dropContainer(c *container) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.containers, c.ID)
	delete(c.sandbox.containers, c.ID)
	if c.state != runtimeiface.ContainerExited {
		c.state = runtimeiface.ContainerExited
		close(c.done) // for those who wait for its end
	}
}

func (r *Runtime) stateOf(c *container) runtimeiface.ContainerState {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return c.state
}

// shimOf gives the sandbox's shim, or nil if it is not ready.
func (r *Runtime) shimOf(s *sandbox) *shimClient {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if !s.ready {
		return nil
	}
	return s.shim
}

// clientOf gives the sandbox's shim, or ErrNotRunning.
func (r *Runtime) clientOf(s *sandbox) (*shimClient, error) {
	client := r.shimOf(s)
	if client == nil {
		return nil, fmt.Errorf("sandbox %s: %w", s.ID, runtimeiface.ErrNotRunning)
	}
	return client, nil
}
