package cri

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// undoTime is how long a runtime that does not answer is asked to undo.
const undoTime = 20 * time.Second

// member is one container of a RunContainers.
type member struct {
	spec   runtimeiface.ContainerSpec
	config *api.ContainerConfig
	id     string
	made   bool // by this call
	ran    bool // before this call
	err    error
}

// RunContainers creates all at once, then starts all at once: a CRI has no call
// for more than one.
func (r *Runtime) RunContainers(ctx context.Context, sandboxID string, specs []runtimeiface.ContainerSpec) ([]string, error) {
	act := "run containers in sandbox " + sandboxID
	if err := ctx.Err(); err != nil || len(specs) == 0 {
		return nil, err
	}
	all := make([]*member, len(specs))
	identities := map[string]bool{}
	for i, spec := range specs {
		config, err := containerConfig(spec)
		identity := spec.Name + "/" + strconv.FormatUint(uint64(spec.Attempt), 10)
		if err == nil && identities[identity] {
			err = invalid("Name", "and Attempt are those of another")
		}
		identities[identity] = true
		all[i] = &member{spec: outliving(spec), config: config, err: err}
	}
	if err := failures(all); err != nil {
		return nil, fmt.Errorf("%s: %w", act, err)
	}
	return finish(ctx, r, act, 2*r.cfg.Timeout, func(ctx context.Context) ([]string, error) {
		err := r.runTogether(ctx, sandboxID, all)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", act, err)
		}
		ids := make([]string, len(all))
		for i, m := range all {
			ids[i] = m.id
		}
		return ids, nil
	})
}

func (r *Runtime) runTogether(ctx context.Context, sandboxID string, all []*member) error {
	each(all, func(m *member) {
		m.id, m.made, m.err = r.createOne(ctx, sandboxID, m.spec, m.config)
		if m.err == nil && !m.made {
			c, err := r.status(ctx, m.id)
			m.ran, m.err = c.State == runtimeiface.ContainerRunning, err
		}
	})
	if err := failures(all); err != nil {
		each(all, func(m *member) {
			if m.made {
				m.err = r.undo(ctx, func(ctx context.Context) error { return r.removeOne(ctx, m.id) })
			} else {
				m.err = nil
			}
		})
		return errors.Join(err, undone(all))
	}
	each(all, func(m *member) {
		if !m.ran {
			m.err = r.startOne(ctx, m.id)
		}
	})
	if err := failures(all); err != nil {
		each(all, func(m *member) {
			if m.err = nil; !m.ran {
				m.err = r.undo(ctx, func(ctx context.Context) error { return r.stopOne(ctx, m.id, 0) })
			}
		})
		return errors.Join(err, undone(all))
	}
	return nil
}

// undo goes on past the call's own time, and past a restart of the runtime.
func (r *Runtime) undo(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	for {
		err := f(ctx)
		if !errors.Is(err, runtimeiface.ErrUnavailable) || r.pause(ctx, tryAgain) != nil {
			return err
		}
	}
}

func each(all []*member, f func(*member)) {
	var wg sync.WaitGroup
	for _, m := range all {
		wg.Go(func() { f(m) })
	}
	wg.Wait()
}

// failures names the containers.
func failures(all []*member) error {
	var errs []error
	for _, m := range all {
		if m.err != nil {
			errs = append(errs, fmt.Errorf("container %s: %w", m.spec.Name, m.err))
		}
	}
	return errors.Join(errs...)
}

func undone(all []*member) error {
	if err := failures(all); err != nil {
		return fmt.Errorf("and it could not be undone: %w", err)
	}
	return nil
}
