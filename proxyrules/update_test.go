package proxyrules_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nodekit/nodekit/proxyrules"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// TestBuildUpon changes a few objects at a time, in sets whose order changes
// too, and compares with tables built from nothing.
func TestBuildUpon(t *testing.T) {
	for seed := range uint64(15) {
		r := rand.New(rand.NewPCG(seed, 11))
		size, steps := 60, 30
		if seed >= 11 { // more than lists keep together
			size, steps = 600, 12
		}
		services, slicesOf := many(size)
		pool, poolSlices := slices.Clone(services), slices.Clone(slicesOf)
		table, _ := proxyrules.Build(services, slicesOf, testNode, nil)
		state := make(map[string]string)
		if err := apply(state, proxyrules.Diff(nil, table)); err != nil {
			t.Fatal(err)
		}
		for step := range steps {
			services, slicesOf = mutate(r, services, slicesOf, pool, poolSlices)
			before := table
			var problems []proxyrules.Problem
			table, problems = proxyrules.Build(services, slicesOf, testNode, before)
			fresh, freshProblems := proxyrules.Build(services, slicesOf, testNode, nil)
			if a, b := frontNames(fresh), frontNames(table); !slices.Equal(a, b) {
				t.Fatalf("seed %d step %d: %s", seed, step, cmp.Diff(a, b))
			}
			if diff := cmp.Diff(freshProblems, problems); diff != "" {
				t.Fatalf("seed %d step %d: %s", seed, step, diff)
			}
			if diff := cmp.Diff(fresh.HealthChecks, table.HealthChecks); diff != "" {
				t.Fatalf("seed %d step %d: %s", seed, step, diff)
			}
			if err := apply(state, proxyrules.Diff(before, table)); err != nil {
				t.Fatalf("seed %d step %d: %v", seed, step, err)
			}
			whole := make(map[string]string)
			if err := apply(whole, proxyrules.Diff(nil, table)); err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(whole, state) {
				t.Fatalf("seed %d step %d: %s", seed, step, cmp.Diff(whole, state))
			}
		}
	}
}

// mutate does one to three random things to a set of objects.
func mutate(r *rand.Rand, services []*corev1.Service, endpointSlices []*discoveryv1.EndpointSlice,
	pool []*corev1.Service, poolSlices []*discoveryv1.EndpointSlice) ([]*corev1.Service, []*discoveryv1.EndpointSlice) {
	services, endpointSlices = slices.Clone(services), slices.Clone(endpointSlices)
	for range 1 + r.IntN(3) {
		i := r.IntN(len(endpointSlices))
		switch r.IntN(9) {
		case 0:
			endpointSlices[i] = endpointSlices[i].DeepCopy()
			endpointSlices[i].Endpoints = endpointSlices[i].Endpoints[:r.IntN(1+len(endpointSlices[i].Endpoints))]
		case 1:
			endpointSlices[i] = endpointSlices[i].DeepCopy()
			for e := range endpointSlices[i].Endpoints {
				endpointSlices[i].Endpoints[e].NodeName = pointer("node1")
			}
		case 2:
			endpointSlices = slices.Delete(endpointSlices, i, i+1)
			endpointSlices = append(endpointSlices, poolSlices[r.IntN(len(poolSlices))].DeepCopy())
		case 3:
			if len(services) > 10 {
				k := r.IntN(len(services))
				services = slices.Delete(services, k, k+1)
			}
		case 4:
			s := pool[r.IntN(len(pool))]
			if !slices.ContainsFunc(services, func(o *corev1.Service) bool { return o.Name == s.Name }) {
				services = slices.Insert(services, r.IntN(1+len(services)), s.DeepCopy())
			}
		case 5: // sometimes clashes
			k := r.IntN(len(services))
			services[k] = services[k].DeepCopy()
			services[k].Spec.ClusterIP = services[r.IntN(len(services))].Spec.ClusterIP
		case 6:
			k := r.IntN(len(services))
			services[k] = policies(external)
			services[k].Name, services[k].Spec.ExternalIPs, services[k].Spec.ClusterIP = pool[k].Name, nil, pool[k].Spec.ClusterIP
			services = slices.DeleteFunc(services, func(o *corev1.Service) bool { return o != services[k] && o.Name == services[k].Name })
		case 7:
			r.Shuffle(len(services), func(a, b int) { services[a], services[b] = services[b], services[a] })
		case 8: // swaps the addresses of two
			k, l := r.IntN(len(services)), r.IntN(len(services))
			services[k], services[l] = services[k].DeepCopy(), services[l].DeepCopy()
			services[k].Spec.ClusterIP, services[l].Spec.ClusterIP = services[l].Spec.ClusterIP, services[k].Spec.ClusterIP
		}
	}
	return services, endpointSlices
}

func TestBuildUponItself(t *testing.T) {
	services, endpointSlices := many(20)
	table, _ := proxyrules.Build(services, endpointSlices, testNode, nil)
	again, _ := proxyrules.Build(services, endpointSlices, testNode, table)
	if changes := proxyrules.Diff(table, again); !changes.Empty() {
		t.Error(changes)
	}
	// A table that was built upon another one is no difference to a third.
	third, _ := proxyrules.Build(services[:10], endpointSlices, testNode, again)
	if changes := proxyrules.Diff(table, third); len(changes.Fronts) != 10 {
		t.Error(changes)
	}
	other := testNode
	other.Zone = "zone2"
	moved, _ := proxyrules.Build(services, endpointSlices, other, table)
	if changes := proxyrules.Diff(table, moved); !changes.Node || len(changes.Fronts) != 0 {
		t.Error(changes)
	}
}
