package proxyrules

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// LabelServiceProxyName marks Services that another proxy serves.
const LabelServiceProxyName = "service.kubernetes.io/service-proxy-name"

const maxProblemsPerService = 16

// serviceRules is what one Service came to, and from which objects. Where
// EndpointSlices are without a Service, so is it.
type serviceRules struct {
	id       types.NamespacedName
	service  *corev1.Service              // nil: there is none
	slices   []*discoveryv1.EndpointSlice // by name
	fronts   []*Front                     // before clashes with other Services
	health   *HealthCheck
	problems []Problem
}

// Build computes the table of a node. It follows kube-proxy (Kubernetes v1.37.0
// pkg/proxy): headless and ExternalName Services and those labelled
// service-proxy-name are skipped; endpoints are the ready ones, or, if there is
// none, those that still serve while they terminate, judged apart for the
// policies Cluster and Local; hints for this node, or else for its zone, are
// heeded if every ready endpoint has one and one of them is for us.
//
// Endpoints that were in previous keep their index; previous may be nil. If two
// Services claim one front, the first by namespace and name has it. The objects
// must not be changed afterwards: what has the same address as in the build of
// previous is taken to be the same. If most are, Build costs what differs, plus
// a comparison of pointers.
func Build(services []*corev1.Service, endpointSlices []*discoveryv1.EndpointSlice, node Node, previous *Table) (*Table, []Problem) {
	var before Table
	if previous != nil {
		before = *previous
	}
	t := build(newList(before.services, services), newList(before.slices, endpointSlices), node.clone(), previous)
	return t, slices.Clone(t.problems)
}

func build(services list[corev1.Service], endpointSlices list[discoveryv1.EndpointSlice], node Node, previous *Table) *Table {
	b := &builder{node: node, previous: previous}
	b.reuse = previous != nil && previous.Node.Equal(node)
	if b.reuse && previous.plain {
		if t := b.update(services, endpointSlices); t != nil {
			return t
		}
	}
	return b.whole(services, endpointSlices)
}

type builder struct {
	node     Node
	previous *Table
	reuse    bool
	// Used for one Service, or one of its ports, after another.
	candidates []candidate
	chosen     []*candidate
}

// whole builds a table from all objects.
func (b *builder) whole(services list[corev1.Service], endpointSlices list[discoveryv1.EndpointSlice]) *Table {
	t := &Table{Node: b.node, services: services, slices: endpointSlices, plain: true, self: new(lineage)}
	groups := make(map[types.NamespacedName]*serviceRules, services.size)
	for slice := range endpointSlices.all() {
		id, ok := sliceService(slice)
		if !ok {
			continue
		}
		group := groups[id]
		if group == nil {
			group = &serviceRules{id: id}
			groups[id] = group
		}
		group.slices = append(group.slices, slice)
	}
	for service := range services.all() {
		if service == nil {
			continue
		}
		id := types.NamespacedName{Namespace: service.Namespace, Name: service.Name}
		group := groups[id]
		switch {
		case group == nil:
			groups[id] = &serviceRules{id: id, service: service}
		case group.service != nil:
			t.plain = false
			t.problems = append(t.problems, Problem{id.String(), "metadata.name", "given twice, the first one counts"})
		default:
			group.service = service
		}
	}
	rules := make([]*serviceRules, 0, len(groups))
	for _, group := range groups {
		sortSlices(group.slices)
		rules = append(rules, group)
	}
	slices.SortFunc(rules, func(a, b *serviceRules) int { return compareID(a.id, b.id) })
	fronts := make([]*Front, 0, len(rules))
	for i, group := range rules {
		rules[i] = b.rules(group.id, group.service, group.slices)
		t.problems = append(t.problems, rules[i].problems...)
		fronts = append(fronts, rules[i].fronts...)
	}
	t.rules = newList(list[serviceRules]{}, rules)
	t.problems = append(t.problems, t.resolve(fronts)...)
	t.collect()
	return t
}

// collect lists the health checks.
func (t *Table) collect() {
	t.HealthChecks = nil
	for r := range t.rules.all() {
		if r.health != nil {
			t.HealthChecks = append(t.HealthChecks, *r.health)
		}
	}
}

// resolve sorts fronts and takes those that do not clash and are not too many.
func (t *Table) resolve(fronts []*Front) []Problem {
	var problems []Problem
	slices.SortStableFunc(fronts, func(a, b *Front) int { return a.Compare(b.FrontKey) })
	kept := fronts[:0]
	for _, f := range fronts {
		switch {
		case len(kept) > 0 && kept[len(kept)-1].FrontKey == f.FrontKey:
			problems = append(problems, Problem{f.Service, "spec",
				fmt.Sprintf("%s is taken by service %s", f.FrontKey, kept[len(kept)-1].Service)})
		case len(kept) == MaxFronts:
			problems = append(problems, Problem{f.Service, "spec",
				fmt.Sprintf("%s is left out: more than %d fronts", f.FrontKey, MaxFronts)})
		default:
			kept = append(kept, f)
		}
	}
	t.plain = t.plain && len(kept) == len(fronts)
	t.fronts = newList(list[Front]{}, kept)
	return problems
}

// sliceService names the Service of an EndpointSlice that counts.
func sliceService(slice *discoveryv1.EndpointSlice) (types.NamespacedName, bool) {
	if slice == nil {
		return types.NamespacedName{}, false
	}
	name := slice.Labels[discoveryv1.LabelServiceName]
	_, headless := slice.Labels[corev1.IsHeadlessService]
	_, foreign := slice.Labels[LabelServiceProxyName]
	return types.NamespacedName{Namespace: slice.Namespace, Name: name}, name != "" && !headless && !foreign
}

func sortSlices(list []*discoveryv1.EndpointSlice) {
	slices.SortStableFunc(list, func(a, b *discoveryv1.EndpointSlice) int { return strings.Compare(a.Name, b.Name) })
}

func compareID(a, b types.NamespacedName) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

// rulesOf is where the rules of a Service stand, and what they are, or nil.
func (t *Table) rulesOf(id types.NamespacedName) (int, *serviceRules) {
	i := sort.Search(t.rules.size, func(i int) bool { return compareID(t.rules.at(i).id, id) >= 0 })
	if i == t.rules.size || t.rules.at(i).id != id {
		return i, nil
	}
	return i, t.rules.at(i)
}

// rules builds what one Service comes to, or takes it from the previous table.
func (b *builder) rules(id types.NamespacedName, service *corev1.Service, own []*discoveryv1.EndpointSlice) *serviceRules {
	if b.reuse {
		_, old := b.previous.rulesOf(id)
		if old != nil && old.service == service && slices.Equal(old.slices, own) {
			return old
		}
	}
	r := &serviceRules{id: id, service: service, slices: own}
	if service == nil {
		return r
	}
	s := &serviceBuilder{builder: b, id: id.String(), spec: &service.Spec, rules: r}
	if _, foreign := service.Labels[LabelServiceProxyName]; !foreign {
		s.build(service, own)
	}
	return r
}
