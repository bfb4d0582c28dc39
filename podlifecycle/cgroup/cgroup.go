package cgroup

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ErrNotSupported: there are no cgroups here.
var ErrNotSupported = errors.New("not supported")

// Manager makes and removes cgroups. It keeps no state and may be used concurrently.
type Manager struct{}

// New gives a Manager; it does no I/O.
func New() *Manager { return &Manager{} }

// Ensure makes the cgroup at path, absolute from each hierarchy's root, in every hierarchy that
// is mounted, with the parents that are missing, and sets resources; nil sets none.
func (m *Manager) Ensure(ctx context.Context, path string, resources *specs.LinuxResources) error {
	if err := checkPath(path); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if resources == nil {
		resources = &specs.LinuxResources{}
	}
	if err := ensure(path, resources); err != nil {
		return fmt.Errorf("make cgroup %s: %w", path, err)
	}
	return nil
}

// Remove kills what runs in the cgroup and below, and removes all of it from
// every hierarchy. No such cgroup: nil. It tries until ctx ends: a process that
// sits in the kernel keeps its cgroup.
func (m *Manager) Remove(ctx context.Context, path string) error {
	if err := checkPath(path); err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	if err := remove(ctx, path); err != nil {
		return fmt.Errorf("remove cgroup %s: %w", path, err)
	}
	return nil
}

// List gives the paths of the direct children of path in any hierarchy, sorted.
// No such cgroup: nil.
func (m *Manager) List(path string) ([]string, error) {
	if err := checkPath(path); err != nil {
		return nil, fmt.Errorf("list cgroup: %w", err)
	}
	children, err := list(path)
	if err != nil {
		return nil, fmt.Errorf("list cgroup %s: %w", path, err)
	}
	return children, nil
}

// checkPath refuses the root, which is everybody's, and what leads elsewhere.
func checkPath(p string) error {
	if !strings.HasPrefix(p, "/") || path.Clean(p) != p || p == "/" {
		return fmt.Errorf("%q is not an absolute, clean path below the root", p)
	}
	return nil
}
