package main

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/proxyrules"
)

// services joins pods and Services: after each change of either it gives the
// proxy the whole picture, as an EndpointSlice controller and an API server
// would between them. Changes are folded; none waits.
type services struct {
	manager *podlifecycle.Manager
	proxy   *proxyrules.Proxy
	changed chan struct{}

	mu  sync.Mutex
	set source.Set
	any bool // whether set was ever given
}

func (s *services) join(manager *podlifecycle.Manager, proxy *proxyrules.Proxy) {
	s.manager, s.proxy, s.changed = manager, proxy, make(chan struct{}, 1)
}

func (s *services) podChanged(*corev1.Pod) { s.wake() }

func (s *services) setChanged(set source.Set) {
	s.mu.Lock()
	s.set, s.any = set, true
	s.mu.Unlock()
	s.wake()
}

func (s *services) wake() {
	select {
	case s.changed <- struct{}{}:
	default: // Run will look anyway
	}
}

// Run tells the proxy until ctx ends.
func (s *services) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.changed:
		}
		s.mu.Lock()
		set, any := s.set, s.any
		s.mu.Unlock()
		if !any {
			continue // the rules of an earlier run stay until there is something to say
		}
		pods := s.manager.Pods()
		if !taken(set, pods) {
			continue // each pod is told of once it is; until then the rules stay
		}
		slices := append([]*discoveryv1.EndpointSlice(nil), set.EndpointSlices...)
		for _, service := range set.Services {
			slices = append(slices, proxyrules.Endpoints(service, pods)...)
		}
		s.proxy.Set(set.Services, slices)
	}
}

// taken tells that the manager knows the pods of set: before, it would look as if
// none were ready.
func taken(set source.Set, pods []*corev1.Pod) bool {
	known := map[string]bool{}
	for _, pod := range pods {
		known[pod.Namespace+"/"+pod.Name] = true
	}
	for _, pod := range set.Pods {
		if !known[pod.Namespace+"/"+pod.Name] {
			return false
		}
	}
	return true
}
