package statusserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr"
)

type connKey struct{}

// peer is who is at the other end of a connection.
type peer struct {
	addr netip.AddrPort
	unix bool
	uid  int // of a unix peer; -1 when unknown
}

func peerOf(conn net.Conn) peer {
	// A TLS connection wraps the one that knows its peer.
	if inner, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = inner.NetConn()
	}
	if u, ok := conn.(*net.UnixConn); ok {
		uid, err := peerUID(u)
		if err != nil {
			uid = -1
		}
		return peer{unix: true, uid: uid}
	}
	addr, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
	return peer{addr: addr, uid: -1}
}

func listen(ctx context.Context, l Listener) (net.Listener, error) {
	if l.network() == "unix" {
		return listenUnix(ctx, l.Address)
	}
	var config net.ListenConfig
	return config.Listen(ctx, "tcp", l.Address)
}

// listenUnix makes the socket with mode 0600 and removes one that a dead
// process left.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if err := removeDead(ctx, path); err != nil {
		return nil, err
	}
	config := net.ListenConfig{Control: privateSocket}
	listener, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	// Where Control cannot say so beforehand.
	if err := os.Chmod(path, 0o600); err != nil {
		_ = listener.Close()
		return nil, fmt.Errorf("restrict socket: %w", err)
	}
	return listener, nil
}

func removeDead(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there and is no socket", path)
	}
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("%s is served by another process", path)
	}
	return os.Remove(path)
}

// logWriter sends what net/http has to say to a logger.
type logWriter struct{ logger logr.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.logger.Info("http server", "detail", strings.TrimSpace(string(p)))
	return len(p), nil
}
