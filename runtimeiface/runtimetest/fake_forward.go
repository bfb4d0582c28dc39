package runtimetest

import (
	"context"
	"fmt"
	"io"

	"github.com/nodekit/nodekit/runtimeiface"
)

type listener = func(context.Context, io.ReadWriteCloser)

// PortForward connects conn to the program that listens.
func (f *Fake) PortForward(ctx context.Context, sandboxID string, port uint16, conn io.ReadWriteCloser) error {
	defer func() { _ = conn.Close() }()
	return f.do(ctx, Call{Op: OpPortForward, SandboxID: sandboxID}, func() error {
		c, serve, err := f.toForward(sandboxID, port)
		if err != nil {
			return fmt.Errorf("forward to port %d of sandbox %q: %w", port, sandboxID, err)
		}
		served := make(chan struct{})
		own, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() {
			defer close(served)
			serve(own, forwarded{conn})
		}()
		select {
		case <-served:
			return nil
		case <-c.ended:
		case <-ctx.Done():
			err = ctx.Err()
		}
		cancel()
		_ = conn.Close() // ends what the program waits for
		<-served
		return err
	})
}

func (f *Fake) toForward(sandboxID string, port uint16) (*container, listener, error) {
	f.lock()
	defer f.unlock()
	s := f.sandboxes[sandboxID]
	switch {
	case port == 0:
		return nil, nil, invalid("port", "is 0")
	case s == nil:
		return nil, nil, runtimeiface.ErrNotFound
	case s.State != runtimeiface.SandboxReady:
		return nil, nil, runtimeiface.ErrNotRunning
	}
	for _, c := range f.containersOf(sandboxID) {
		if c.State != runtimeiface.ContainerRunning {
			continue
		}
		if serve := c.run.program.Listen[port]; serve != nil {
			return c, serve, nil
		}
	}
	return nil, nil, fmt.Errorf("nothing listens: %w", runtimeiface.ErrUnavailable)
}

// forwarded is the pod's end. Its Close says the last byte.
type forwarded struct{ io.ReadWriteCloser }

func (c forwarded) Close() error {
	if half, ok := c.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.ReadWriteCloser.Close()
}
