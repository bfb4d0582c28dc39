package metrics

import (
	"context"
	"slices"
	"strings"
	"time"
)

// state is what the meter has of one target. What the turn guards: rel,
// mark, handle, seen, rawOOM. What mu guards: last, ring, labels.
type state struct {
	rel    string // cgroup without the slash before it
	mark   uint64 // number of the last round that listed it
	handle handle
	seen   bool   // it was read at least once since it appeared
	rawOOM uint64 // the kernel's count, as last seen

	last   *Sample
	ring   ring
	labels labels
}

// oomCount adds up the kills of a pod over its containers' restarts.
type oomCount struct {
	refs       int
	total      uint64
	containers map[string]uint64
}

func newState(t Target, history int) *state {
	st := &state{
		rel: strings.TrimPrefix(t.Cgroup, "/"), handle: newHandle(),
		last: &Sample{Target: t, Gone: true},
		ring: ring{points: make([]Point, history)},
	}
	st.label(t)
	return st
}

// label takes what the target is called now. It needs mu, once st is known.
func (st *state) label(t Target) {
	st.last.Target = t
	st.labels = renderLabels(&t)
}

// clone copies what the next round would overwrite.
func (s *Sample) clone() Sample {
	c := *s
	c.Devices = slices.Clone(s.Devices)
	c.Interfaces = slices.Clone(s.Interfaces)
	c.HugePages = slices.Clone(s.HugePages)
	c.Filesystems = slices.Clone(s.Filesystems)
	c.Gaps = slices.Clone(s.Gaps)
	return c
}

// copyFrom makes s equal to from, in the room that s has.
func (s *Sample) copyFrom(from *Sample) {
	devices, interfaces, gaps := s.Devices[:0], s.Interfaces[:0], s.Gaps[:0]
	pages, filesystems := s.HugePages[:0], s.Filesystems[:0]
	*s = *from
	s.Devices = append(devices, from.Devices...)
	s.Interfaces = append(interfaces, from.Interfaces...)
	s.HugePages = append(pages, from.HugePages...)
	s.Filesystems = append(filesystems, from.Filesystems...)
	s.Gaps = append(gaps, from.Gaps...)
}

// round reads the node and all targets. Only a scheduled round adds to the
// history, so that rates do not depend on who asks. It needs the turn. An
// error means that ctx ended.
func (m *Meter) round(ctx context.Context, scheduled bool) error {
	begun := m.cfg.Clock.Now()
	m.reconcile(ctx)
	want := hotGroups
	if m.cold.IsZero() || begun.Sub(m.cold) >= m.cfg.ColdInterval-m.cfg.Interval/10 {
		want |= coldGroups
		m.cold = begun
	}
	if m.limits.IsZero() || begun.Sub(m.limits) >= m.cfg.LimitsInterval {
		want |= slowGroups
		m.limits = begun
	}
	m.share()
	m.reader.turn++
	m.reader.linksAt = time.Time{}
	if want.has(groupNetwork) {
		m.reader.linked = 0
		if m.networks {
			m.reader.dumpLinks()
		}
	}
	var errs uint64
	gone := 0
	errs += m.sampleNode(begun, want, scheduled)
	// Containers stand behind their pod in order, and the pod's count of
	// out-of-memory kills needs theirs.
	for _, st := range slices.Backward(m.order) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		errs += m.sampleTarget(st, begun, want, scheduled)
		if st.last.Gone {
			gone++
		}
	}
	took := m.cfg.Clock.Since(begun)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.begun = begun
	s := &m.stats
	s.Rounds++
	s.Busy += took
	s.LastRound = took
	s.ReadErrors += errs
	s.Targets, s.Gone = len(m.order), gone
	s.Descriptors = m.reader.kept
	s.Reads, s.Spared = m.reader.reads, m.reader.spared
	if want.has(groupNetwork) {
		s.Linked = m.reader.linked
	}
	return nil
}

// glance reads the targets that were not read yet and those that Refresh named.
// It needs the turn. An error means that ctx ended.
func (m *Meter) glance(ctx context.Context) error {
	m.mu.Lock()
	asked := m.asked
	m.asked = nil
	m.mu.Unlock()
	// What a round before found tells nothing of now.
	m.reader.turn++
	m.reader.linksAt, m.reader.noSwap = time.Time{}, false
	// Those named are read before what is no longer listed is forgotten.
	begun := m.cfg.Clock.Now()
	var errs uint64
	for _, cgroup := range asked {
		if st := m.states[cleanCgroup(cgroup)]; st != nil {
			errs += m.sampleTarget(st, begun, allGroups, false)
		}
	}
	m.reconcile(ctx)
	m.share()
	gone := 0
	for _, st := range slices.Backward(m.order) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !st.seen {
			errs += m.sampleTarget(st, begun, allGroups, false)
		}
		if st.last.Gone {
			gone++
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.stats
	s.Glances++
	s.Busy += m.cfg.Clock.Since(begun)
	s.ReadErrors += errs
	s.Targets, s.Gone, s.Descriptors = len(m.order), gone, m.reader.kept
	s.Reads, s.Spared = m.reader.reads, m.reader.spared
	return nil
}

// share decides whether the budget lasts for all files of all cgroups, or for
// the hot ones only, so that a newcomer finds room for its hot ones.
func (m *Meter) share() {
	r := m.reader
	rich := (len(m.order)+1)*r.plan.keepable+len(m.above)*int(numSums-1) <= r.budget
	if r.rich && !rich {
		r.releaseFrom(&m.node.handle, r.plan.hot)
		for _, st := range m.order {
			r.releaseFrom(&st.handle, r.plan.hot)
		}
		for _, a := range m.above {
			r.leaveAbove(a)
		}
	}
	r.rich = rich
}

func (m *Meter) sampleNode(begun time.Time, want groupSet, scheduled bool) uint64 {
	st := m.node
	if !st.seen {
		want = allGroups
	}
	m.work.copyFrom(st.last)
	m.work.Gone = false
	m.reader.sampleNode(&st.handle, m.work, want)
	m.commit(st, begun, scheduled)
	return readErrors(st.last)
}

// sampleTarget reads one target and publishes what it found.
func (m *Meter) sampleTarget(st *state, begun time.Time, want groupSet, scheduled bool) uint64 {
	if !st.seen {
		want = allGroups
	}
	m.work.copyFrom(st.last)
	m.work.Gone = false
	if err := m.reader.sample(st.rel, &st.handle, m.work, want); err != nil {
		m.lost(st, err)
		return 0
	}
	if m.fell(st) {
		// Another cgroup under the same path: what was before is not its past.
		m.reader.release(&st.handle)
		m.mu.Lock()
		st.ring.clear()
		m.mu.Unlock()
		st.rawOOM = 0
		m.work.figures = figures{}
		want = allGroups
		if err := m.reader.sample(st.rel, &st.handle, m.work, want); err != nil {
			m.lost(st, err)
			return 0
		}
		m.work.Gaps = append(m.work.Gaps, Gap{File: "cgroup", Err: ErrBackwards, group: groupCPU})
	}
	if want.has(groupLimits) {
		m.work.Written, m.work.Logs = DiskUse{}, DiskUse{}
		if m.cfg.OnDisk != nil && m.work.Target.Pod != "" && !m.work.Target.Sandbox() {
			m.work.Written, m.work.Logs = m.cfg.OnDisk(m.work.Target)
		}
	}
	m.countOOM(st)
	m.commit(st, begun, scheduled)
	return readErrors(st.last)
}

// lost keeps the last sample of a cgroup that is no more, and tells so.
func (m *Meter) lost(st *state, err error) {
	m.reader.release(&st.handle)
	st.handle.netPID, st.handle.link = 0, 0
	m.mu.Lock()
	if !st.last.Gone || len(st.last.Gaps) == 0 {
		st.last.Gone = true
		st.last.Gaps = append(st.last.Gaps[:0], Gap{File: "cgroup", Err: err, group: groupCPU})
	}
	m.mu.Unlock()
	if st.seen {
		t := &st.last.Target
		m.cfg.Logger.V(4).Info("cgroup is gone", "pod", t.Namespace+"/"+t.Pod, "container", t.Container, "path", t.Cgroup)
	}
	st.seen = false
}

// fell says whether the cgroup is another one than was read before: its CPU
// time is less, or it came back after it was gone. While descriptors are kept
// only the latter happens, for a kept one tells the end of its cgroup.
func (m *Meter) fell(st *state) bool {
	old, ok1 := st.last.Get(CPUUsage)
	now, ok2 := m.work.Get(CPUUsage)
	return ok1 && (st.last.Gone || (ok2 && now < old))
}

// countOOM replaces the kernel's count, which dies with the cgroup, by one
// that outlives restarts.
func (m *Meter) countOOM(st *state) {
	raw, ok := m.work.Get(OOMKills)
	if !ok {
		return
	}
	t := &m.work.Target
	count := m.oom[t.PodUID]
	more := raw - min(raw, st.rawOOM)
	st.rawOOM = raw
	if t.Sandbox() {
		if !m.hierarchicalOOM() {
			count.total += more
		}
		return
	}
	if t.Container != "" {
		count.containers[t.Container] += more
		if !m.hierarchicalOOM() {
			count.total += more
		}
		m.work.set(OOMKills, count.containers[t.Container])
		return
	}
	count.total += more
	m.work.set(OOMKills, count.total)
}

// hierarchicalOOM: the events of v2 include those below, v1's do not.
func (m *Meter) hierarchicalOOM() bool { return m.reader.memoryVersion == 2 }

// commit publishes work.
func (m *Meter) commit(st *state, begun time.Time, scheduled bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if scheduled || st.ring.len() == 0 {
		st.ring.push(pointOf(m.work, begun))
	}
	if m.work.known.has(CPUUsage) {
		if perSecond, ok := st.ring.rate(CPUUsage, m.cfg.Window); ok {
			m.work.set(CPURate, uint64(perSecond))
		}
	}
	st.last.copyFrom(m.work)
	st.seen = true
}

// readErrors counts the gaps that are not simply absent files.
func readErrors(s *Sample) uint64 {
	var n uint64
	for _, g := range s.Gaps {
		if g.Err != ErrAbsent && g.Err != ErrNoController {
			n++
		}
	}
	return n
}
