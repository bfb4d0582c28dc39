package oci

import (
	"context"
	"fmt"

	"github.com/nodekit/nodekit/runtimeiface"
)

// ImageFilesystem is not there yet.
func (r *Runtime) ImageFilesystem(context.Context) (runtimeiface.Filesystem, error) {
	return runtimeiface.Filesystem{}, fmt.Errorf("image file system: %w", runtimeiface.ErrNotSupported)
}
