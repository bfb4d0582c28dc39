package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// maxForwards is how many connections into one pod are carried at once.
const maxForwards = 256

// PortForward has the shim, which is in the pod's network, connect and hand the
// connection over. At most 256 are carried at once for a sandbox, else
// ErrUnavailable. Without CloseWrite conn can be told of the pod's last byte
// only by its end, which then ends the call.
func (r *Runtime) PortForward(ctx context.Context, sandboxID string, port uint16, conn io.ReadWriteCloser) error {
	defer func() { _ = conn.Close() }()
	err := r.portForward(ctx, sandboxID, port, conn)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("forward to port %d of sandbox %q: %w", port, sandboxID, err)
}

func (r *Runtime) portForward(ctx context.Context, sandboxID string, port uint16, conn io.ReadWriteCloser) error {
	if err := r.ready(ctx); err != nil {
		return err
	}
	s := r.sandbox(sandboxID)
	if s == nil {
		return runtimeiface.ErrNotFound
	}
	if port == 0 {
		return invalid("port", "is 0")
	}
	if _, err := r.clientOf(s); err != nil {
		return err
	}
	if s.forwards.Add(1) > maxForwards {
		s.forwards.Add(-1)
		return fmt.Errorf("%w: %d connections are carried already", runtimeiface.ErrUnavailable, maxForwards)
	}
	defer s.forwards.Add(-1)
	pod, err := r.dialPod(ctx, s, port)
	if err != nil {
		return err
	}
	defer func() { _ = pod.Close() }()
	return r.carryBoth(ctx, conn, pod)
}

// dialPod gives a connection to a port on the pod's loopback.
func (r *Runtime) dialPod(ctx context.Context, s *sandbox, port uint16) (*net.TCPConn, error) {
	asked, err := ask(s.dir, nil, shim.OpForward, strconv.Itoa(int(port)))
	if err != nil {
		return nil, err
	}
	defer asked.CloseRights()
	stop := context.AfterFunc(ctx, func() { _ = asked.Close() })
	defer stop()
	if _, err := nextAnswer(asked); err != nil {
		if errors.Is(err, errShimLost) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", runtimeiface.ErrUnavailable, err)
	}
	rights := asked.Rights()
	if len(rights) != 1 {
		for _, fd := range rights {
			_ = os.NewFile(uintptr(fd), "").Close()
		}
		return nil, errors.New("the shim sent no connection")
	}
	file := os.NewFile(uintptr(rights[0]), "pod")
	defer func() { _ = file.Close() }()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		_ = conn.Close()
		return nil, errors.New("the shim sent no connection")
	}
	return tcp, nil
}

// carryBoth copies both ways until both have said their last, one is broken, or
// ctx ends.
func (r *Runtime) carryBoth(ctx context.Context, conn io.ReadWriteCloser, pod *net.TCPConn) error {
	type closeWriter interface{ CloseWrite() error }
	half, canHalf := conn.(closeWriter)
	in, out := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := io.Copy(pod, conn)
		if err == nil {
			err = pod.CloseWrite()
		}
		in <- err
	}()
	go func() {
		_, err := io.Copy(conn, pod)
		if err == nil && canHalf {
			err = half.CloseWrite()
		}
		out <- err
	}()
	for range 2 {
		select {
		case err := <-in:
			if err != nil {
				return err
			}
		case err := <-out:
			if err != nil || !canHalf {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-r.closing:
			return errClosed
		}
	}
	return nil
}
