//go:build !linux

package oci

import (
	"context"
	"fmt"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

var _ runtimeiface.Runtime = (*Runtime)(nil)

// Runtime needs Linux: here Open gives none.
type Runtime struct {
	runtimeiface.Runtime
}

// Open gives ErrNotSupported.
func Open(Config) (*Runtime, error) {
	return nil, fmt.Errorf("oci: %w on this operating system", runtimeiface.ErrNotSupported)
}

// Close does nothing.
func (r *Runtime) Close() error { return nil }

// Purge does nothing.
func (r *Runtime) Purge(context.Context) error { return nil }

// CollectImages gives ErrNotSupported.
func (r *Runtime) CollectImages(context.Context, image.CollectPolicy) (image.Collection, error) {
	return image.Collection{}, runtimeiface.ErrNotSupported
}

// ContainerFilesystem gives ErrNotSupported.
func (r *Runtime) ContainerFilesystem(context.Context, string) (runtimeiface.Filesystem, error) {
	return runtimeiface.Filesystem{}, runtimeiface.ErrNotSupported
}
