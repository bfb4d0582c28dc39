package oci

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// Attach gives the shim pipes for what of the container's streams is wanted. At
// most 16 clients may be attached to a container, else ErrUnavailable. An error of
// Stdout or Stderr ends the call.
func (r *Runtime) Attach(ctx context.Context, id string, spec runtimeiface.AttachSpec) error {
	c, client, err := r.running(ctx, id)
	if err == nil && spec.Stdin != nil && !c.Spec.Stdin {
		err = invalid("Stdin", "is not open: the container was made without")
	}
	if err == nil {
		err = r.attach(ctx, c, client, spec)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("attach to container %q: %w", id, err)
}

func (r *Runtime) attach(ctx context.Context, c *container, client *shimClient, spec runtimeiface.AttachSpec) error {
	tty := c.Spec.TTY
	wanted := []bool{spec.Stdin != nil, spec.Stdout != nil, spec.Stderr != nil && !tty}
	which := ""
	for i, letter := range []string{"i", "o", "e"} {
		if wanted[i] {
			which += letter
		}
	}
	streams, err := newStreams(wanted...)
	if err != nil {
		return err
	}
	defer streams.close()
	conn, err := ask(c.sandbox.dir, streams.rights(), shim.OpAttach, c.ID, which)
	if err != nil {
		return err
	}
	defer conn.CloseRights()
	streams.closeTheirs()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err := nextAnswer(conn); err != nil {
		return err
	}
	if tty && spec.Resize != nil {
		ended := make(chan struct{})
		defer close(ended)
		go r.follow(client, c.ID, spec.Resize, ended)
	}
	streams.copy(spec.Stdin, spec.Stdout, spec.Stderr)
	answer := make(chan error, 1)
	go func() {
		_, err := nextAnswer(conn)
		answer <- err
	}()
	over := streams.fed
	if c.Spec.StdinOnce && !tty {
		over = nil // output goes on
	}
	select {
	case <-over:
		return nil
	case <-streams.failed:
		return streams.failure()
	case <-r.closing:
		return errClosed
	case err = <-answer:
	}
	if ferr := streams.finish(ctx); err == nil {
		err = ferr
	}
	return err
}

// follow sets the sizes of a container's terminal until ended is closed.
func (r *Runtime) follow(client *shimClient, id string, sizes <-chan runtimeiface.TerminalSize, ended <-chan struct{}) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			ctx, cancel := context.WithTimeout(context.Background(), shimWait)
			_, err := client.call(ctx, shim.OpResize, id, strconv.Itoa(int(size.Width)), strconv.Itoa(int(size.Height)))
			cancel()
			if errors.Is(err, errShimLost) {
				return
			}
		case <-ended:
			return
		}
	}
}
