//go:build !linux

package statusserver

import (
	"net"
	"syscall"
)

// privateSocket does nothing: the mode is set once the socket has a name.
func privateSocket(_, _ string, _ syscall.RawConn) error { return nil }

func peerUID(*net.UnixConn) (int, error) { return -1, ErrNotSupported }
