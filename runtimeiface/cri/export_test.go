package cri

import (
	"context"
	"io"
)

// ForwardStream is the way of PortForward where this process may not enter the
// sandbox's network.
func (r *Runtime) ForwardStream(ctx context.Context, sandboxID string, port uint16, conn io.ReadWriteCloser) error {
	return r.forwardStream(ctx, sandboxID, port, conn)
}
