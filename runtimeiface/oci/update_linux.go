package oci

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// UpdateContainer has the OCI runtime set the limits, then keeps them. What the
// OCI runtimes' update does not change (huge pages, network, RDMA, swappiness,
// kernel memory) is ErrNotSupported.
func (r *Runtime) UpdateContainer(ctx context.Context, id string, resources specs.LinuxResources) error {
	if err := r.ready(ctx); err != nil {
		return err
	}
	c := r.container(id)
	if c == nil {
		return fmt.Errorf("update container %q: %w", id, runtimeiface.ErrNotFound)
	}
	return finishErr(ctx, r, c.sandbox.ID, func() error {
		if err := r.updateContainer(c, resources); err != nil {
			return fmt.Errorf("update container %s: %w", id, err)
		}
		return nil
	})
}

func (r *Runtime) updateContainer(c *container, resources specs.LinuxResources) error {
	if r.stateOf(c) == runtimeiface.ContainerExited {
		return fmt.Errorf("it has exited: %w", runtimeiface.ErrNotRunning)
	}
	client, err := r.clientOf(c.sandbox)
	if err != nil {
		return err
	}
	if err := resourceLimits(resources); err != nil {
		return err
	}
	merged := mergeResources(c.Spec.Resources, resources)
	if err := checkUpdate(resources, merged); err != nil {
		return err
	}
	document, err := json.Marshal(updateDocument(merged))
	if err != nil {
		return err
	}
	if !shim.Fits(shim.OpUpdate, c.ID, string(document)) {
		return invalid("resources", "are too large together")
	}
	ctx, cancel := context.WithTimeout(context.Background(), runtimeWait)
	defer cancel()
	if _, err := client.call(ctx, shim.OpUpdate, c.ID, string(document)); err != nil {
		return err
	}
	faultPoint("limits set")
	// Only now: the record says what holds.
	record := c.containerRecord
	record.Spec.Resources = &merged
	data, err := json.Marshal(record)
	if err == nil {
		err = shim.WriteFile(c.dir, recordFile, data)
	}
	if err != nil {
		return fmt.Errorf("limits are set, but not recorded: %w", err)
	}
	r.mu.Lock()
	c.Spec.Resources = &merged
	r.mu.Unlock()
	return nil
}
