package source

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nodekit/nodekit/podlifecycle/manifest"
)

// Part is a source among others.
type Part struct {
	// Name is for Set.Waiting; required, unlike the others'.
	Name   string
	Source Source
}

// Merge makes one source of several. Each owns what it gives: its next set takes
// the place of its last one only. Of objects with the same name, and of pods with
// the same UID, that of the first part in order counts, and the other is told as
// a problem. Until each part has spoken, Set.Waiting names those that have not.
// Run may be called once.
type Merge struct {
	parts []Part

	mu   sync.Mutex
	sets []*Set // nil: has not spoken
}

var _ Source = (*Merge)(nil)

// NewMerge checks parts; it runs nothing.
func NewMerge(parts ...Part) (*Merge, error) {
	var errs []error
	names := map[string]bool{}
	for i, p := range parts {
		if p.Source == nil || p.Name == "" {
			errs = append(errs, fmt.Errorf("part %d: a Name and a Source are required", i))
		} else if names[p.Name] {
			errs = append(errs, fmt.Errorf("part %d: the name %q is taken", i, p.Name))
		}
		names[p.Name] = true
	}
	if len(parts) == 0 {
		errs = append(errs, errors.New("no part"))
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("source config: %w", errors.Join(errs...))
	}
	return &Merge{parts: append([]Part(nil), parts...), sets: make([]*Set, len(parts))}, nil
}

// Run runs all parts until ctx ends or one of them fails, and gives its error.
func (m *Merge) Run(ctx context.Context, update func(Set)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(m.parts))
	var wg sync.WaitGroup
	for i, part := range m.parts {
		wg.Go(func() {
			err := part.Source.Run(ctx, func(set Set) {
				m.mu.Lock()
				defer m.mu.Unlock()
				m.sets[i] = &set
				update(m.set()) // under the lock: one at a time, in order
			})
			if err != nil {
				errs[i] = fmt.Errorf("source %s: %w", part.Name, err)
				cancel()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (m *Merge) set() Set {
	var out collector
	for i, part := range m.parts {
		set := m.sets[i]
		if set == nil {
			out.set.Waiting = append(out.set.Waiting, part.Name)
			continue
		}
		out.set.Waiting = append(out.set.Waiting, set.Waiting...)
		out.set.Problems = append(out.set.Problems, set.Problems...)
		out.set.Broken = append(out.set.Broken, set.Broken...)
		out.add(part.Name, manifest.Objects{
			Pods: set.Pods, ConfigMaps: set.ConfigMaps, Secrets: set.Secrets, Services: set.Services, EndpointSlices: set.EndpointSlices,
		})
	}
	return out.set
}
