package cri

import (
	"context"
	"fmt"

	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Attach connects to the container over the runtime's streaming server.
func (r *Runtime) Attach(ctx context.Context, id string, spec runtimeiface.AttachSpec) error {
	act := "attach to container " + id
	if err := ctx.Err(); err != nil {
		return err
	}
	if id == "" {
		return fmt.Errorf("attach to a container without an ID: %w", runtimeiface.ErrNotFound)
	}
	if err := r.begin(); err != nil {
		return err
	}
	defer r.work.Done()
	ctx, cancel := r.untilClosed(ctx)
	defer cancel()
	has, err := r.stdio(ctx, id)
	if err != nil {
		return translate(ctx, err, "%s", act)
	}
	if spec.Stdin != nil && !has.Stdin {
		return fmt.Errorf("%s: %w", act, invalid("Stdin", "is not open: the container was made without"))
	}
	response, err := ask(ctx, r, r.rs.Attach, &api.AttachRequest{
		ContainerId: id, Stdin: spec.Stdin != nil, Tty: has.TTY, Stdout: true, Stderr: !has.TTY,
	})
	if err != nil {
		return r.notRunning(ctx, id, err, "%s", act)
	}
	text, delivery, err := connect(ctx, response.Url, terminal{
		stdin: spec.Stdin, stdout: spec.Stdout, stderr: spec.Stderr, tty: has.TTY, resize: spec.Resize,
	})
	if ended := ctx.Err(); ended != nil {
		return fmt.Errorf("%s: %w", act, ended)
	}
	if err == nil {
		_, err = parseExit(text)
	}
	if err != nil {
		return r.notRunning(ctx, id, err, "%s", act)
	}
	if delivery != nil {
		return fmt.Errorf("%s: %w", act, delivery)
	}
	return nil
}

// stdio is what of a container's streams a client has to know.
type stdio struct {
	Stdin bool `json:"stdin,omitempty"`
	TTY   bool `json:"tty,omitempty"`
}

// stdio asks for what a container was made with: this package wrote it down, and
// of what others made containerd v2.4 tells both, CRI-O v1.37 the terminal.
func (r *Runtime) stdio(ctx context.Context, id string) (stdio, error) {
	response, err := ask(ctx, r, r.rs.ContainerStatus, &api.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		return stdio{}, err
	}
	if response.Status.GetId() != id {
		return stdio{}, fmt.Errorf("%w: that is part of an ID", runtimeiface.ErrNotFound)
	}
	if response.Status.GetState() != api.ContainerState_CONTAINER_RUNNING {
		return stdio{}, runtimeiface.ErrNotRunning
	}
	if _, _, k, made := unmarked(response.Status.Labels, response.Status.Annotations); made {
		return k.Stdio, nil
	}
	told := parseInfo(response.Info)
	if told.Config.Metadata.Name != "" {
		return stdio{Stdin: told.Config.Stdin, TTY: told.Config.TTY}, nil
	}
	return stdio{Stdin: true, TTY: told.RuntimeSpec.Process.Terminal}, nil // the runtime shall say
}

// untilClosed gives a context that ends with the Runtime.
func (r *Runtime) untilClosed(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-r.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}
