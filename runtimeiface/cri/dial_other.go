//go:build !windows

package cri

import (
	"context"
	"fmt"
	"net"

	"github.com/nodekit/nodekit/runtimeiface"
)

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	if network == "npipe" {
		return nil, fmt.Errorf("%w: a pipe is for windows", runtimeiface.ErrNotSupported)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}
