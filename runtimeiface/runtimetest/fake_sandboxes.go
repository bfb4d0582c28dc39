package runtimetest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

type sandbox struct {
	runtimeiface.Sandbox
	spec runtimeiface.SandboxSpec
	seq  int
}

// RunSandbox makes a sandbox with the lowest free address.
func (f *Fake) RunSandbox(ctx context.Context, spec runtimeiface.SandboxSpec) (string, error) {
	var id string
	err := f.do(ctx, Call{Op: OpRunSandbox, PodUID: spec.UID, Attempt: spec.Attempt}, func() (err error) {
		if err := f.checkSandbox(spec); err != nil {
			return fmt.Errorf("run sandbox of %s/%s: %w", spec.Namespace, spec.Name, err)
		}
		if f.logs && spec.LogDirectory != "" {
			if err := os.MkdirAll(spec.LogDirectory, 0o755); err != nil {
				return fmt.Errorf("make log directory: %w", err)
			}
		}
		id, err = f.runSandbox(spec)
		return err
	})
	if err != nil {
		return "", err
	}
	return id, nil
}

func (f *Fake) runSandbox(spec runtimeiface.SandboxSpec) (string, error) {
	now := f.lock()
	defer f.unlock()
	for id, s := range f.sandboxes {
		if s.UID != spec.UID || s.Attempt != spec.Attempt {
			continue
		}
		if s.State == runtimeiface.SandboxReady {
			return id, nil
		}
		return "", fmt.Errorf("run sandbox: pod UID %s, attempt %d: %w: sandbox %s, not ready, has this identity",
			spec.UID, spec.Attempt, runtimeiface.ErrInUse, id)
	}
	s := &sandbox{spec: spec.Clone(), seq: f.nextSeq()}
	id := f.newID("sandbox", spec.UID, spec.Attempt)
	s.Sandbox = runtimeiface.Sandbox{
		ID: id, Name: spec.Name, Namespace: spec.Namespace, UID: spec.UID, Attempt: spec.Attempt,
		Labels: maps.Clone(spec.Labels), Annotations: maps.Clone(spec.Annotations),
		State: runtimeiface.SandboxReady, CreatedAt: now, Network: cmp.Or(spec.Network, runtimeiface.NamespacePod),
		RuntimeHandler: spec.RuntimeHandler, CgroupParent: spec.CgroupParent,
	}
	if s.Network == runtimeiface.NamespacePod {
		ip, err := f.freeIP()
		if err != nil {
			return "", fmt.Errorf("run sandbox: %w", err)
		}
		s.IPs = []netip.Addr{ip}
	}
	f.sandboxes[id] = s
	f.publish(runtimeiface.SandboxStarted, s, "", now)
	return id, nil
}

func (f *Fake) freeIP() (netip.Addr, error) {
	taken := map[netip.Addr]bool{}
	for _, s := range f.sandboxes {
		for _, ip := range s.IPs {
			taken[ip] = true
		}
	}
	for ip := f.subnet.Addr().Next().Next(); f.subnet.Contains(ip); ip = ip.Next() {
		if !taken[ip] {
			return ip, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address is free in %v", f.subnet)
}

// StopSandbox kills the containers and frees the address.
func (f *Fake) StopSandbox(ctx context.Context, id string) error {
	return f.do(ctx, Call{Op: OpStopSandbox, SandboxID: id}, func() error {
		now := f.lock()
		defer f.unlock()
		if s := f.sandboxes[id]; s != nil {
			f.stopSandbox(s, now, killed)
		}
		return nil
	})
}

func (f *Fake) stopSandbox(s *sandbox, now time.Time, how exit) {
	if s.State == runtimeiface.SandboxNotReady {
		return
	}
	for _, c := range f.containersOf(s.ID) {
		f.end(c, now, how)
	}
	s.State, s.IPs = runtimeiface.SandboxNotReady, nil
	f.publish(runtimeiface.SandboxStopped, s, "", now)
}

// RemoveSandbox stops the sandbox and forgets it with its containers.
func (f *Fake) RemoveSandbox(ctx context.Context, id string) error {
	return f.do(ctx, Call{Op: OpRemoveSandbox, SandboxID: id}, func() error {
		now := f.lock()
		defer f.unlock()
		if s := f.sandboxes[id]; s != nil {
			f.stopSandbox(s, now, killed)
			f.forgetSandbox(s, now)
		}
		return nil
	})
}

func (f *Fake) forgetSandbox(s *sandbox, now time.Time) {
	for _, c := range f.containersOf(s.ID) {
		f.forgetContainer(c, now)
	}
	delete(f.sandboxes, s.ID)
	f.publish(runtimeiface.SandboxRemoved, s, "", now)
}

// SandboxStatus gives a copy.
func (f *Fake) SandboxStatus(ctx context.Context, id string) (runtimeiface.Sandbox, error) {
	var out runtimeiface.Sandbox
	err := f.do(ctx, Call{Op: OpSandboxStatus, SandboxID: id}, func() error {
		f.lock()
		defer f.unlock()
		s := f.sandboxes[id]
		if s == nil {
			return fmt.Errorf("status of sandbox %q: %w", id, runtimeiface.ErrNotFound)
		}
		out = s.copy()
		return nil
	})
	return out, err
}

// ListSandboxes gives copies, oldest first.
func (f *Fake) ListSandboxes(ctx context.Context, filter runtimeiface.SandboxFilter) ([]runtimeiface.Sandbox, error) {
	out := []runtimeiface.Sandbox{}
	err := f.do(ctx, Call{Op: OpListSandboxes, SandboxID: filter.ID, PodUID: filter.UID}, func() error {
		f.lock()
		defer f.unlock()
		for _, s := range f.sortedSandboxes() {
			if filter.Match(s.Sandbox) {
				out = append(out, s.copy())
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (f *Fake) sortedSandboxes() []*sandbox {
	return slices.SortedFunc(maps.Values(f.sandboxes), func(a, b *sandbox) int { return cmp.Compare(a.seq, b.seq) })
}

func (s *sandbox) copy() runtimeiface.Sandbox {
	out := s.Sandbox
	out.Labels, out.Annotations = maps.Clone(s.Labels), maps.Clone(s.Annotations)
	out.IPs = slices.Clone(s.IPs)
	return out
}

func (f *Fake) checkSandbox(spec runtimeiface.SandboxSpec) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	if spec.RuntimeHandler != "" && !slices.Contains(f.handlers, spec.RuntimeHandler) {
		return fmt.Errorf("RuntimeHandler %q: %w", spec.RuntimeHandler, runtimeiface.ErrNotSupported)
	}
	return nil
}

func invalid(field, why string) error {
	return fmt.Errorf("%w: %s %s", runtimeiface.ErrInvalid, field, why)
}
