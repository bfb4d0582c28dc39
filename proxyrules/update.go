package proxyrules

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// edit is what differs at one Service.
type edit struct {
	id        types.NamespacedName
	service   *corev1.Service // nil: as before, unless gone
	gone      bool            // the old object of the Service
	lost, got []*discoveryv1.EndpointSlice
}

// update builds upon the previous table at the cost of what differs. It gives
// nil where that is much, or where Services clash.
func (b *builder) update(services list[corev1.Service], endpointSlices list[discoveryv1.EndpointSlice]) *Table {
	old := b.previous
	if old.services.same(services) && old.slices.same(endpointSlices) {
		return old
	}
	edits, ok := b.edits(services, endpointSlices)
	if !ok || len(edits) > 100+old.rules.size/4 {
		return nil
	}
	t := *old
	t.services, t.slices = services, endpointSlices
	t.self, t.base, t.changed = new(lineage), old.self, []FrontKey{}
	if len(edits) == 0 {
		return &t
	}
	var ours []change[*serviceRules]
	var fronts []change[*Front]
	problems, health := false, false
	for _, e := range edits {
		at, was := old.rulesOf(e.id)
		if was == nil {
			was = &serviceRules{}
		}
		service := was.service
		if e.gone || e.service != nil {
			if service != nil && !e.gone {
				return nil // given twice
			}
			service = e.service
		}
		own := slices.DeleteFunc(slices.Clone(was.slices), func(s *discoveryv1.EndpointSlice) bool { return slices.Contains(e.lost, s) })
		own = append(own, e.got...)
		sortSlices(own)
		is := &serviceRules{}
		c := change[*serviceRules]{at: at}
		if service != nil || len(own) > 0 {
			is = b.rules(e.id, service, own)
			c.new = is
		}
		c.drop = was.id == e.id
		ours = append(ours, c)
		problems = problems || len(was.problems)+len(is.problems) > 0
		health = health || was.health != nil || is.health != nil
		for _, f := range was.fronts {
			at, _ := old.find(f.FrontKey)
			fronts = append(fronts, change[*Front]{at: at, drop: true})
		}
		for _, f := range is.fronts {
			at, _ := old.find(f.FrontKey)
			fronts = append(fronts, change[*Front]{at: at, new: f})
		}
	}
	t.rules = old.rules.spliced(ours)
	if fronts, ok = mergeFronts(old, fronts); !ok {
		return nil
	}
	for _, c := range fronts {
		if c.new != nil {
			t.changed = append(t.changed, c.new.FrontKey)
		} else {
			t.changed = append(t.changed, old.At(c.at).FrontKey)
		}
	}
	t.fronts = old.fronts.spliced(fronts)
	if t.Len() > MaxFronts {
		return nil
	}
	if problems {
		t.problems = nil
		for r := range t.rules.all() {
			t.problems = append(t.problems, r.problems...)
		}
	}
	if health {
		t.collect()
	}
	return &t
}

// edits finds the Services whose objects are not those of before, by id. It
// gives false if a Service is there twice.
func (b *builder) edits(services list[corev1.Service], endpointSlices list[discoveryv1.EndpointSlice]) ([]*edit, bool) {
	found := make(map[types.NamespacedName]*edit)
	at := func(id types.NamespacedName) *edit {
		if found[id] == nil {
			found[id] = &edit{id: id}
		}
		return found[id]
	}
	gone, come := difference(b.previous.services, services)
	for _, s := range gone {
		at(types.NamespacedName{Namespace: s.Namespace, Name: s.Name}).gone = true
	}
	for _, s := range come {
		e := at(types.NamespacedName{Namespace: s.Namespace, Name: s.Name})
		if e.service != nil {
			return nil, false
		}
		e.service = s
	}
	lost, got := difference(b.previous.slices, endpointSlices)
	for _, s := range lost {
		if id, ok := sliceService(s); ok {
			e := at(id)
			e.lost = append(e.lost, s)
		}
	}
	for _, s := range got {
		if id, ok := sliceService(s); ok {
			e := at(id)
			e.got = append(e.got, s)
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b *edit) int { return compareID(a.id, b.id) }), true
}

// mergeFronts sorts changes and joins what goes and comes at one key. It gives
// false if two Services claim it.
func mergeFronts(old *Table, changes []change[*Front]) ([]change[*Front], bool) {
	key := func(c change[*Front]) FrontKey {
		if c.new != nil {
			return c.new.FrontKey
		}
		return old.At(c.at).FrontKey
	}
	slices.SortStableFunc(changes, func(a, b change[*Front]) int { return key(a).Compare(key(b)) })
	out := changes[:0]
	for i := 0; i < len(changes); {
		c, k := changes[i], key(changes[i])
		for i++; i < len(changes) && key(changes[i]) == k; i++ {
			next := changes[i]
			if c.drop && next.drop || c.new != nil && next.new != nil {
				return nil, false
			}
			c.drop = c.drop || next.drop
			if next.new != nil {
				c.new = next.new
			}
		}
		if c.new != nil && c.at < old.Len() && old.At(c.at).FrontKey == k {
			if !c.drop {
				return nil, false // another Service's
			}
			if old.At(c.at) == c.new {
				continue
			}
		}
		out = append(out, c)
	}
	return out, true
}
