package oci

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// RunContainers has the shim make all containers and then start all, in one
// call: what goes on between happens in the shim, whatever becomes of the agent.
func (r *Runtime) RunContainers(ctx context.Context, sandboxID string, specs []runtimeiface.ContainerSpec) ([]string, error) {
	if len(specs) == 0 {
		return nil, r.ready(ctx)
	}
	if len(specs) > maxList {
		return nil, fmt.Errorf("run containers: %w", invalid("specs", fmt.Sprintf("has %d entries, more than %d", len(specs), maxList)))
	}
	own := make([]runtimeiface.ContainerSpec, len(specs))
	for i, spec := range specs {
		own[i] = spec.Clone()
	}
	var made []*container
	ids, err := finish(ctx, r, sandboxID, func() ([]string, error) {
		s := r.sandbox(sandboxID)
		if s == nil {
			return nil, fmt.Errorf("run containers: sandbox %q: %w", sandboxID, runtimeiface.ErrNotFound)
		}
		client, err := r.clientOf(s)
		if err != nil {
			return nil, fmt.Errorf("run containers: %w", err)
		}
		g, err := r.batch(s, own)
		if err == nil {
			made = g.fresh()
			err = r.runGroup(client, g)
		}
		if err != nil {
			return nil, fmt.Errorf("run containers: %w", err)
		}
		return g.ids(), nil
	}, func([]string) {
		for _, c := range made {
			if err := r.removeContainer(c); err != nil {
				r.cfg.Logger.Error(err, "undo cancelled container", "containerID", c.ID)
			}
		}
	})
	return ids, err
}

// batch is what RunContainers is about: all containers in the order of the
// specs, plans for those that are to be made, and those that are only to be
// started.
type batch struct {
	id      string
	all     []*container
	plans   []*plan
	waiting []string
}

func (g *batch) ids() []string {
	ids := make([]string, len(g.all))
	for i, c := range g.all {
		ids[i] = c.ID
	}
	return ids
}

func (g *batch) fresh() []*container {
	var list []*container
	for _, p := range g.plans {
		list = append(list, p.c)
	}
	return list
}

// batch finds what is there and plans what is not. Nothing is made if one spec
// is bad.
func (r *Runtime) batch(s *sandbox, specs []runtimeiface.ContainerSpec) (_ *batch, err error) {
	g := &batch{id: newID()}
	defer func() {
		if err != nil {
			for _, p := range g.plans {
				r.dropContainer(p.c)
			}
		}
	}()
	type identity struct {
		name    string
		attempt uint32
	}
	seen := map[identity]bool{}
	var errs []error
	for i, spec := range specs {
		bad := func(err error) { errs = append(errs, fmt.Errorf("container %s: %w", spec.Name, err)) }
		if key := (identity{spec.Name, spec.Attempt}); seen[key] {
			bad(invalid(fmt.Sprintf("specs[%d].Name", i), "is there twice with this Attempt"))
			continue
		} else {
			seen[key] = true
		}
		if c := r.findContainer(s, spec.Name, spec.Attempt); c != nil {
			g.all = append(g.all, c)
			switch r.stateOf(c) {
			case runtimeiface.ContainerCreated:
				g.waiting = append(g.waiting, c.ID)
			case runtimeiface.ContainerExited:
				bad(fmt.Errorf("it has exited: %w", runtimeiface.ErrNotRunning))
			}
			continue
		}
		p, err := r.plan(s, spec, g.id)
		if err != nil {
			bad(err)
			continue
		}
		g.all, g.plans = append(g.all, p.c), append(g.plans, p)
	}
	if len(errs) == 0 && !shim.Fits(shim.OpRun, g.request().Fields()...) {
		errs = append(errs, invalid("specs", "are too many for one call, or have paths that are too long for so many"))
	}
	return g, errors.Join(errs...)
}

func (g *batch) request() shim.RunRequest {
	req := shim.RunRequest{Group: g.id, Start: g.waiting}
	for _, p := range g.plans {
		req.Create = append(req.Create, p.request)
	}
	return req
}

func (r *Runtime) runGroup(client *shimClient, g *batch) (err error) {
	keep := false
	defer func() {
		if err != nil && !keep {
			for _, c := range g.fresh() {
				r.abandon(client, c)
			}
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), runtimeWait)
	defer cancel()
	errs := make([]error, len(g.plans))
	var wg sync.WaitGroup
	for i, p := range g.plans {
		wg.Go(func() {
			werr := r.writeContainer(ctx, client, p)
			if werr == nil {
				werr = p.lasting()
			}
			if werr != nil {
				errs[i] = fmt.Errorf("container %s: %w", p.c.Spec.Name, werr)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	faultPoint("group written")
	m, err := client.call(ctx, shim.OpRun, g.request().Fields()...)
	faultPoint("group answered")
	if err == nil || m.Op != shim.OpFail {
		return err
	}
	keep = m.Field(2) == shim.RunFailed
	for _, c := range g.all {
		if c.ID == m.Field(1) {
			return fmt.Errorf("container %s: %w", c.Spec.Name, err)
		}
	}
	return err
}
