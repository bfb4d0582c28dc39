package cri

import (
	"context"
	"fmt"
	"io"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Attach is not there yet.
func (r *Runtime) Attach(_ context.Context, id string, _ runtimeiface.AttachSpec) error {
	return fmt.Errorf("attach to container %q: %w", id, runtimeiface.ErrNotSupported)
}

// PortForward is not there yet.
func (r *Runtime) PortForward(_ context.Context, sandboxID string, _ uint16, conn io.ReadWriteCloser) error {
	_ = conn.Close()
	return fmt.Errorf("forward to sandbox %q: %w", sandboxID, runtimeiface.ErrNotSupported)
}

// RunContainers is not there yet.
func (r *Runtime) RunContainers(_ context.Context, sandboxID string, _ []runtimeiface.ContainerSpec) ([]string, error) {
	return nil, fmt.Errorf("run containers in sandbox %q: %w", sandboxID, runtimeiface.ErrNotSupported)
}

// UpdateContainer is not there yet.
func (r *Runtime) UpdateContainer(_ context.Context, id string, _ specs.LinuxResources) error {
	return fmt.Errorf("update container %q: %w", id, runtimeiface.ErrNotSupported)
}

// ImageFilesystem is not there yet.
func (r *Runtime) ImageFilesystem(context.Context) (runtimeiface.Filesystem, error) {
	return runtimeiface.Filesystem{}, fmt.Errorf("image file system: %w", runtimeiface.ErrNotSupported)
}
