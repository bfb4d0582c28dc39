package runtimetest

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
)

// RunContainers creates all, then starts all.
func (f *Fake) RunContainers(ctx context.Context, sandboxID string, list []runtimeiface.ContainerSpec) ([]string, error) {
	var ids []string
	err := f.do(ctx, Call{Op: OpRunContainers, SandboxID: sandboxID}, func() (err error) {
		ids, err = f.runContainers(sandboxID, list)
		return err
	})
	if err != nil {
		return nil, err
	}
	return ids, nil
}

func (f *Fake) runContainers(sandboxID string, list []runtimeiface.ContainerSpec) ([]string, error) {
	before := map[string]bool{}
	f.lock()
	for _, c := range f.containersOf(sandboxID) {
		before[c.ID] = true
	}
	f.unlock()
	ids := make([]string, 0, len(list))
	for _, spec := range list {
		err := f.checkContainer(spec)
		var id string
		if err == nil {
			id, err = f.createContainer(sandboxID, spec)
		}
		if err != nil {
			f.undo(ids, func(c *container) bool { return !before[c.ID] }, true)
			return nil, fmt.Errorf("create container %s: %w", spec.Name, err)
		}
		ids = append(ids, id)
	}
	ran := map[string]bool{}
	f.lock()
	for _, id := range ids {
		c := f.containers[id]
		ran[id] = c != nil && c.State == runtimeiface.ContainerRunning
	}
	f.unlock()
	for i, id := range ids {
		if err := f.startContainer(id); err != nil {
			f.undo(ids, func(c *container) bool { return !ran[c.ID] }, false)
			return nil, fmt.Errorf("container %s: %w", list[i].Name, err)
		}
	}
	return ids, nil
}

// undo kills, and perhaps forgets, those containers that are meant.
func (f *Fake) undo(ids []string, meant func(*container) bool, forget bool) {
	now := f.lock()
	defer f.unlock()
	for _, id := range ids {
		c := f.containers[id]
		if c == nil || !meant(c) {
			continue
		}
		f.end(c, now, killed)
		if forget {
			f.forgetContainer(c, now)
		}
	}
}

// UpdateContainer changes the resources that Specs gives.
func (f *Fake) UpdateContainer(ctx context.Context, id string, resources specs.LinuxResources) error {
	return f.do(ctx, Call{Op: OpUpdateContainer, ContainerID: id}, func() error {
		if len(resources.Devices) > 0 {
			return fmt.Errorf("update container %s: %w", id, invalid("resources", "has devices"))
		}
		f.lock()
		defer f.unlock()
		c := f.containers[id]
		switch {
		case c == nil:
			return fmt.Errorf("update container %q: %w", id, runtimeiface.ErrNotFound)
		case c.State == runtimeiface.ContainerExited:
			return fmt.Errorf("update container %s: %w", id, runtimeiface.ErrNotRunning)
		}
		merged, err := merge(c.spec.Resources, resources)
		if err != nil {
			return fmt.Errorf("update container %s: %w", id, err)
		}
		c.spec.Resources = merged
		return nil
	})
}

// merge leaves what is nil or zero in change as it is, and shares nothing.
func merge(have *specs.LinuxResources, change specs.LinuxResources) (*specs.LinuxResources, error) {
	out := &specs.LinuxResources{}
	for _, from := range []*specs.LinuxResources{have, &change} {
		data, err := json.Marshal(from)
		if err != nil {
			return nil, err
		}
		var fields map[string]any
		if err := json.Unmarshal(data, &fields); err != nil {
			return nil, err
		}
		if data, err = json.Marshal(withoutZeros(fields)); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(data, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func withoutZeros(fields map[string]any) map[string]any {
	for name, value := range fields {
		switch v := value.(type) {
		case map[string]any:
			withoutZeros(v)
		case float64:
			if v == 0 {
				delete(fields, name)
			}
		}
	}
	return fields
}
