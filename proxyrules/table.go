package proxyrules

import (
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"sort"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// What Build accepts at most. Anything beyond is left out with a Problem.
const (
	// MaxFronts is the number of fronts in a Table.
	MaxFronts = 500_000
	// MaxEndpoints is the number of endpoints in one list of a front.
	MaxEndpoints = 32_768
	// MaxAffinityEndpoints is the same for a Service with session affinity.
	MaxAffinityEndpoints = 2048
)

// HealthCheck is what the health check port of one Service tells: a load
// balancer of policy Local asks each node whether it has endpoints.
type HealthCheck struct {
	Service string `json:"service"` // namespace/name
	Port    uint16 `json:"port"`    // spec.healthCheckNodePort
	// LocalEndpoints are the addresses of this node's ready endpoints, of the
	// family that has more. Those that terminate do not count.
	LocalEndpoints int `json:"localEndpoints"`
}

// Table is all fronts of a node, sorted by key, without duplicates. It is
// immutable once made, and safe for concurrent use. A table shares what it has in
// common with the one that it was built upon.
type Table struct {
	Node Node
	// HealthChecks are sorted by Service.
	HealthChecks []HealthCheck

	fronts list[Front]
	// What spares work in the next Build, and in a Diff with the table that
	// this one was built upon.
	services list[corev1.Service]            // as given
	slices   list[discoveryv1.EndpointSlice] // as given
	rules    list[serviceRules]              // by namespace and name
	problems []Problem
	plain    bool // built, and no Service or front was left out
	self     *lineage
	base     *lineage   // of the table that this one was built upon
	changed  []FrontKey // the fronts that are not those of base, sorted
}

// lineage is the identity of a table. It does not keep the table alive.
type lineage struct{ _ byte }

// NewTable makes a Table of fronts as a dialect finds them in the kernel. It
// sorts its copy of fronts; of equal keys the first one stays.
func NewTable(node Node, fronts []*Front) *Table {
	sorted := slices.Clone(fronts)
	slices.SortStableFunc(sorted, func(a, b *Front) int { return a.Compare(b.FrontKey) })
	sorted = slices.CompactFunc(sorted, func(a, b *Front) bool { return a.FrontKey == b.FrontKey })
	return &Table{Node: node.clone(), fronts: newList(list[Front]{}, sorted), self: new(lineage)}
}

// written is a Table as JSON.
type written struct {
	Node         Node          `json:"node"`
	Fronts       []*Front      `json:"fronts"`
	HealthChecks []HealthCheck `json:"healthChecks,omitempty"`
}

// MarshalJSON gives the members node, fronts and, if there are any, healthChecks.
func (t *Table) MarshalJSON() ([]byte, error) {
	return json.Marshal(written{t.Node, slices.AppendSeq(make([]*Front, 0, t.Len()), t.Fronts()), t.HealthChecks})
}

// UnmarshalJSON reads what MarshalJSON gave: Trace says of it what it said then.
// A front that is null is an error.
func (t *Table) UnmarshalJSON(text []byte) error {
	var w written
	if err := json.Unmarshal(text, &w); err != nil {
		return err
	}
	if i := slices.Index(w.Fronts, nil); i >= 0 {
		return fmt.Errorf("fronts[%d]: null", i)
	}
	*t = *NewTable(w.Node, w.Fronts)
	t.HealthChecks = w.HealthChecks
	return nil
}

// Fronts goes through all of them, sorted by key. A nil Table has none.
func (t *Table) Fronts() iter.Seq[*Front] {
	if t == nil {
		return func(func(*Front) bool) {}
	}
	return t.fronts.all()
}

// Len is how many fronts there are.
func (t *Table) Len() int {
	if t == nil {
		return 0
	}
	return t.fronts.size
}

// At is the front at an index below Len.
func (t *Table) At(i int) *Front { return t.fronts.at(i) }

// Front returns the front with that key, or nil. A nil Table has none.
func (t *Table) Front(key FrontKey) *Front {
	if t == nil {
		return nil
	}
	if i, found := t.find(key); found {
		return t.At(i)
	}
	return nil
}

func (t *Table) find(key FrontKey) (int, bool) {
	return sort.Find(t.Len(), func(i int) int { return key.Compare(t.At(i).FrontKey) })
}

// HasClusterIP says whether addr is the cluster IP of a Service.
func (t *Table) HasClusterIP(addr netip.Addr) bool {
	i := sort.Search(t.Len(), func(i int) bool { return t.At(i).Addr.Compare(addr) >= 0 })
	for ; i < t.Len() && t.At(i).Addr == addr; i++ {
		if t.At(i).Kind == ClusterIP {
			return true
		}
	}
	return false
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return cmp.Compare(a.Bits(), b.Bits())
}

// uniq returns a sorted copy without duplicates.
func uniq[T comparable](in []T, compare func(a, b T) int) []T {
	out := slices.Clone(in)
	slices.SortFunc(out, compare)
	return slices.Compact(out)
}
