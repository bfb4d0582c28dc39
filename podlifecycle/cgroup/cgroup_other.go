//go:build !linux

package cgroup

import (
	"context"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Ensure needs Linux; here it is ErrNotSupported.
func (m *Manager) Ensure(_ context.Context, path string, _ *specs.LinuxResources) error {
	if err := check(path); err != nil {
		return err
	}
	return ErrNotSupported
}

// Remove needs Linux; here it is ErrNotSupported.
func (m *Manager) Remove(_ context.Context, path string) error {
	if err := check(path); err != nil {
		return err
	}
	return ErrNotSupported
}

// List needs Linux; here it is ErrNotSupported.
func (m *Manager) List(string) ([]string, error) { return nil, ErrNotSupported }

// MemoryUsage needs Linux; here it is ErrNotSupported.
func (m *Manager) MemoryUsage(context.Context, string) (int64, error) { return 0, ErrNotSupported }
