package cri

import (
	"context"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// UpdateContainer has the runtime set limits anew. Those of a created container
// hold from its start.
func (r *Runtime) UpdateContainer(ctx context.Context, id string, limits specs.LinuxResources) error {
	act := "update container " + id
	if len(limits.Devices) > 0 {
		return fmt.Errorf("%s: %w", act, invalid("Devices", "cannot be changed"))
	}
	wanted, err := resources(&limits)
	if err == nil {
		err = r.unheardLimits(wanted)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", act, err)
	}
	return finishErr(ctx, r, act, r.cfg.Timeout, func(ctx context.Context) error {
		unlock, err := r.locks.lock(ctx, id)
		if err != nil {
			return fmt.Errorf("%s: %w", act, err)
		}
		defer unlock()
		// Runtimes have it done for an exited container, to no effect.
		c, err := r.status(ctx, id)
		if err != nil {
			return fmt.Errorf("%s: %w", act, err)
		}
		if c.State != runtimeiface.ContainerCreated && c.State != runtimeiface.ContainerRunning {
			return fmt.Errorf("%s: it is %s: %w", act, c.State, runtimeiface.ErrNotRunning)
		}
		if wanted.MemoryLimitInBytes != 0 && wanted.MemorySwapLimitInBytes == 0 {
			if wanted.MemorySwapLimitInBytes, err = r.swapLimit(ctx, id); err != nil {
				return translate(ctx, err, "%s: its limits", act)
			}
		}
		_, err = r.rs.UpdateContainerResources(ctx, &api.UpdateContainerResourcesRequest{ContainerId: id, Linux: wanted})
		if err == nil {
			return nil
		}
		if again, gone := r.status(ctx, id); gone == nil && again.State == runtimeiface.ContainerExited {
			return fmt.Errorf("%s: it has exited: %w", act, runtimeiface.ErrNotRunning)
		}
		return translate(ctx, err, "%s", act)
	})
}

// swapLimit is one that was set on purpose: runtimes have it follow the limit of
// memory, if it is not told again.
func (r *Runtime) swapLimit(ctx context.Context, id string) (int64, error) {
	response, err := ask(ctx, r, r.rs.ContainerStatus, &api.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return 0, err
	}
	now := response.Status.GetResources().GetLinux()
	if now.GetMemorySwapLimitInBytes() == now.GetMemoryLimitInBytes() {
		return 0, nil
	}
	return now.GetMemorySwapLimitInBytes(), nil
}
