package cri

import (
	"context"
	"net"
	"strings"

	"github.com/Microsoft/go-winio"
)

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	if network == "npipe" {
		return winio.DialPipeContext(ctx, strings.ReplaceAll(address, "/", `\`))
	}
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}
