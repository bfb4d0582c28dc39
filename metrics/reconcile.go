package metrics

import (
	"cmp"
	"context"
	"path"
	"slices"
	"strings"
)

// reconcile takes the caller's set. On an error it keeps the old one.
func (m *Meter) reconcile(ctx context.Context) {
	if m.cfg.Targets == nil {
		return
	}
	targets, err := m.cfg.Targets.Targets(ctx)
	if err != nil {
		m.mu.Lock()
		m.stats.TargetErrors++
		m.mu.Unlock()
		if !m.failing && ctx.Err() == nil {
			m.cfg.Logger.Error(err, "targets are not known, metering the old ones")
		}
		m.failing = true
		return
	}
	m.failing = false
	// Each round marks what is listed with its own number.
	m.mark++
	listed, changed := 0, false
	for i := range targets {
		t := &targets[i]
		cgroup := t.Cgroup
		st := m.states[cgroup] // which has clean paths only, as most targets do
		if st == nil {
			cgroup = cleanCgroup(t.Cgroup)
			st = m.states[cgroup]
		}
		if cgroup == "/" || (st != nil && st.mark == m.mark) {
			continue
		}
		listed++
		if st != nil && st.last.Target.ID != t.ID && st.last.Target.ID != "" {
			m.drop(st)
			st = nil
		}
		if st != nil && sameTarget(&st.last.Target, t) {
			st.mark = m.mark
			continue
		}
		changed = true
		renamed := *t
		renamed.Cgroup = cgroup
		if st == nil {
			st = newState(renamed, m.cfg.History)
			m.add(st)
		} else {
			m.relabel(st, renamed)
		}
		st.mark = m.mark
	}
	if listed < len(m.states) {
		for _, st := range m.states {
			if st.mark != m.mark {
				m.drop(st)
				changed = true
			}
		}
	}
	if changed {
		m.sort()
		m.group()
	}
}

// cleanCgroup makes the key of a target.
func cleanCgroup(cgroup string) string {
	if path.IsAbs(cgroup) {
		return path.Clean(cgroup)
	}
	return path.Clean("/" + cgroup)
}

// sameTarget says whether b tells nothing that a did not, but for how the path
// is written.
func sameTarget(a, b *Target) bool {
	c := *b
	c.Cgroup, c.StartedAt = a.Cgroup, a.StartedAt
	return *a == c && a.StartedAt.Equal(b.StartedAt)
}

func (m *Meter) add(st *state) {
	m.hold(&st.last.Target)
	m.mu.Lock()
	m.states[st.last.Target.Cgroup] = st
	m.mu.Unlock()
}

func (m *Meter) drop(st *state) {
	m.reader.release(&st.handle)
	m.unhold(&st.last.Target)
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.states, st.last.Target.Cgroup)
	if st.last.known == (fieldSet{}) || m.cfg.Exited < 0 {
		return
	}
	if len(m.exited) == m.cfg.Exited {
		m.exited = append(m.exited[:0], m.exited[1:]...)
	}
	last := st.last.clone()
	last.Gone = true
	m.exited = append(m.exited, last)
}

func (m *Meter) relabel(st *state, t Target) {
	old := st.last.Target
	if old.PodUID != t.PodUID || old.Container != t.Container {
		m.hold(&t)
		m.unhold(&old)
		st.rawOOM = 0 // counted under the new name from the start
	}
	m.mu.Lock()
	st.label(t)
	m.mu.Unlock()
}

// hold and unhold count the targets of a pod; with the last its count goes.
func (m *Meter) hold(t *Target) {
	count := m.oom[t.PodUID]
	if count == nil {
		count = &oomCount{containers: map[string]uint64{}}
		m.oom[t.PodUID] = count
	}
	count.refs++
}

func (m *Meter) unhold(t *Target) {
	if count := m.oom[t.PodUID]; count != nil {
		if count.refs--; count.refs == 0 {
			delete(m.oom, t.PodUID)
		}
	}
}

// sort makes a new order; the old one may still be read.
func (m *Meter) sort() {
	order := make([]*state, 0, len(m.states))
	for _, st := range m.states {
		order = append(order, st)
	}
	slices.SortFunc(order, func(a, b *state) int {
		x, y := &a.last.Target, &b.last.Target
		return cmp.Or(
			strings.Compare(x.Namespace, y.Namespace), strings.Compare(x.Pod, y.Pod),
			strings.Compare(x.Container, y.Container), x.StartedAt.Compare(y.StartedAt),
			strings.Compare(x.Cgroup, y.Cgroup))
	})
	m.networks = slices.ContainsFunc(order, func(st *state) bool { return hasNetwork(&st.last.Target) })
	m.mu.Lock()
	m.order = order
	m.mu.Unlock()
}

// group finds the cgroups with several targets right below. One alone would
// save nothing; the root of v2 has no sums.
func (m *Meter) group() {
	if m.reader.plan.summing < 0 {
		return
	}
	below := map[string]int{}
	for _, st := range m.order {
		below[path.Dir(st.rel)]++
	}
	delete(below, ".")
	old := m.above
	m.above = map[string]*above{}
	for _, st := range m.order {
		dir := path.Dir(st.rel)
		if below[dir] < 2 {
			st.handle.above = nil
			continue
		}
		if m.above[dir] == nil {
			if m.above[dir] = old[dir]; m.above[dir] == nil {
				m.above[dir] = newAbove(dir)
			}
			delete(old, dir)
		}
		st.handle.above = m.above[dir]
	}
	for _, a := range old {
		m.reader.leaveAbove(a)
	}
}
