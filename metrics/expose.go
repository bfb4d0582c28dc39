package metrics

import (
	"context"
	"io"
	"strconv"
	"sync"
	"time"
)

// Series is one value of one family, for collectors of other libraries.
type Series struct {
	// Name and Help are those of the family.
	Name, Help string
	// Counter says that the value only grows; else it is a gauge.
	Counter bool
	// Labels are sorted as they are written; good until the function that got
	// the Series returns.
	Labels []Label
	Value  float64
	// Time is when it was read, or zero for a value that is not read.
	Time time.Time
}

// Label is a label of a Series.
type Label struct{ Name, Value string }

// labels of a target, rendered once: name="value",name="value" without braces.
type labels struct {
	full, lean, pod []byte
	fullList        []Label
	leanList        []Label
}

func renderLabels(t *Target) labels {
	container, name := t.Container, t.ID
	if t.Pod == "" {
		container = ""
	}
	l := labels{
		fullList: []Label{
			{"container", container}, {"id", t.Cgroup}, {"image", t.Image},
			{"name", name}, {"namespace", t.Namespace}, {"pod", t.Pod},
		},
		leanList: []Label{{"container", t.Container}, {"namespace", t.Namespace}, {"pod", t.Pod}},
	}
	l.full = appendLabels(nil, l.fullList)
	l.lean = appendLabels(nil, l.leanList)
	l.pod = appendLabels(nil, l.leanList[1:])
	return l
}

func appendLabels(b []byte, list []Label) []byte {
	for i, l := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendLabel(b, l)
	}
	return b
}

// appendLabel writes name="value", escaped as the text format wants it.
func appendLabel(b []byte, l Label) []byte {
	b = append(b, l.Name...)
	b = append(b, '=', '"')
	for i := range len(l.Value) {
		switch c := l.Value[i]; c {
		case '\\', '"':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// view is a sample as it is exposed.
type view struct {
	sample Sample
	labels labels
	// shadowed: a later one has the same namespace, pod and container, such as
	// the container after a restart while the cgroup of the one before is
	// still there. Without an id their series would be the same.
	shadowed bool
}

// snapshot is a copy of all samples of one moment. Its room is used again.
type snapshot struct {
	views []view
	now   time.Time
	text  []byte
	extra []Label
}

var snapshots = sync.Pool{New: func() any { return new(snapshot) }}

// snap copies the samples of the last round, that is at most two intervals
// old; the node is first, and what is gone is left out.
func (m *Meter) snap(ctx context.Context) (*snapshot, error) {
	if err := m.fresh(ctx, 2*m.cfg.Interval); err != nil {
		return nil, err
	}
	s := snapshots.Get().(*snapshot)
	s.now = m.cfg.Clock.Now()
	m.mu.RLock()
	defer m.mu.RUnlock()
	n := 0
	put := func(st *state) {
		if n == len(s.views) {
			s.views = append(s.views, view{})
		}
		s.views[n].sample.copyFrom(st.last)
		s.views[n].labels = st.labels
		s.views[n].shadowed = false
		if n > 1 && sameNames(&s.views[n-1].sample.Target, &st.last.Target) {
			s.views[n-1].shadowed = true
		}
		n++
	}
	s.views = s.views[:cap(s.views)]
	put(m.node)
	for _, st := range m.order {
		if !st.last.Gone {
			put(st)
		}
	}
	s.views = s.views[:n]
	return s, nil
}

func sameNames(a, b *Target) bool {
	return a.Namespace == b.Namespace && a.Pod == b.Pod && a.Container == b.Container
}

// unit is what a number of a field is one of.
type unit uint8

const (
	one   unit = iota
	nanos      // exposed as seconds
	micros
)

func (u unit) digits() int { return [...]int{0, 9, 6}[u] }

// sink takes series one after another.
type sink interface {
	family(f *family) error
	series(f *family, v *view, list labelSet, extra []Label, n uint64, at time.Time)
}

// labelSet chooses among the rendered labels of a view.
type labelSet uint8

const (
	fullLabels labelSet = iota
	leanLabels
	podLabels
	noLabels
)

// textSink writes the text format, version 0.0.4.
type textSink struct {
	w     io.Writer
	b     []byte
	times bool
}

// flushAt is how much text is gathered before it is written.
const flushAt = 64 << 10

func (t *textSink) flush() error {
	_, err := t.w.Write(t.b)
	t.b = t.b[:0]
	return err
}

func (t *textSink) family(f *family) error {
	if len(t.b) >= flushAt {
		if err := t.flush(); err != nil {
			return err
		}
	}
	t.b = append(t.b, f.head...)
	return nil
}

func (t *textSink) series(f *family, v *view, list labelSet, extra []Label, n uint64, at time.Time) {
	b := append(t.b, f.name...)
	if list != noLabels || len(extra) > 0 {
		b = append(b, '{')
		switch list {
		case fullLabels:
			b = append(b, v.labels.full...)
		case leanLabels:
			b = append(b, v.labels.lean...)
		case podLabels:
			b = append(b, v.labels.pod...)
		}
		for i, l := range extra {
			if i > 0 || list != noLabels {
				b = append(b, ',')
			}
			b = appendLabel(b, l)
		}
		b = append(b, '}')
	}
	b = append(b, ' ')
	b = appendScaled(b, n, f.unit.digits())
	if t.times && !at.IsZero() {
		b = append(b, ' ')
		b = strconv.AppendInt(b, at.UnixMilli(), 10)
	}
	t.b = append(b, '\n')
}

// appendScaled writes n / 10^digits exactly, without zeros at the end.
func appendScaled(b []byte, n uint64, digits int) []byte {
	if digits == 0 {
		return strconv.AppendUint(b, n, 10)
	}
	pow := uint64(1)
	for range digits {
		pow *= 10
	}
	b = strconv.AppendUint(b, n/pow, 10)
	part := n % pow
	if part == 0 {
		return b
	}
	b = append(b, '.')
	for part > 0 {
		pow /= 10
		b = append(b, byte('0'+part/pow))
		part %= pow
	}
	return b
}

// seriesSink hands each series to a function.
type seriesSink struct {
	yield func(*Series)
	one   Series
}

func (s *seriesSink) family(*family) error { return nil }

func (s *seriesSink) series(f *family, v *view, list labelSet, extra []Label, n uint64, at time.Time) {
	one := &s.one
	one.Name, one.Help, one.Counter, one.Time = f.name, f.help, f.counter, at
	one.Labels = one.Labels[:0]
	switch list {
	case fullLabels:
		one.Labels = append(one.Labels, v.labels.fullList...)
	case leanLabels:
		one.Labels = append(one.Labels, v.labels.leanList...)
	case podLabels:
		one.Labels = append(one.Labels, v.labels.leanList[1:]...)
	}
	one.Labels = append(one.Labels, extra...)
	one.Value = float64(n) / [...]float64{1, 1e9, 1e6}[f.unit]
	s.yield(one)
}

// WriteCAdvisor writes the kubelet's /metrics/cadvisor as text of version
// 0.0.4: the families that cAdvisor v0.60.5 has by default, as far as they are
// read. A figure that is not known has no series. The samples are of one
// round, at most two intervals old.
func (m *Meter) WriteCAdvisor(ctx context.Context, w io.Writer) error {
	return m.write(ctx, w, cadvisorFamilies, m.cfg.Timestamps)
}

// WriteResource writes the kubelet's /metrics/resource, which metrics-server
// reads, with the time of each figure.
func (m *Meter) WriteResource(ctx context.Context, w io.Writer) error {
	return m.write(ctx, w, resourceFamilies, true)
}

// EachSeries calls yield with each series of WriteCAdvisor, in its order.
func (m *Meter) EachSeries(ctx context.Context, yield func(*Series)) error {
	s, err := m.snap(ctx)
	if err != nil {
		return err
	}
	defer snapshots.Put(s)
	return s.expose(cadvisorFamilies, m.labelSet(), &seriesSink{yield: yield})
}

func (m *Meter) labelSet() labelSet {
	if m.cfg.Labels == Lean {
		return leanLabels
	}
	return fullLabels
}

func (m *Meter) write(ctx context.Context, w io.Writer, families []family, times bool) error {
	s, err := m.snap(ctx)
	if err != nil {
		return err
	}
	defer snapshots.Put(s)
	sink := textSink{w: w, b: s.text[:0], times: times}
	err = s.expose(families, m.labelSet(), &sink)
	if err == nil {
		err = sink.flush()
	}
	s.text = sink.b
	return err
}

// expose gives all series of the families to out. A family without series has
// no heading.
func (s *snapshot) expose(families []family, list labelSet, out sink) error {
	x := exposer{snapshot: s, list: list, out: out}
	for i := range families {
		f := &families[i]
		x.f, x.v, x.list, x.headed = f, nil, list, false
		if f.whole != nil {
			f.whole(&x)
		} else {
			for j := range s.views {
				if f.who.has(kindOf(&s.views[j].sample.Target)) {
					x.v = &s.views[j]
					f.each(&x)
				}
			}
		}
		if x.err != nil {
			return x.err
		}
	}
	return nil
}

// exposer is what the families' functions see.
type exposer struct {
	*snapshot
	list   labelSet
	out    sink
	f      *family
	v      *view
	headed bool
	err    error
}

// put gives one value of the current view, with the labels in x.extra.
func (x *exposer) put(n uint64, at time.Time) {
	if x.list != fullLabels && x.v != nil && x.v.shadowed {
		x.extra = x.extra[:0]
		return
	}
	if !x.headed {
		x.headed = true
		if err := x.out.family(x.f); err != nil {
			x.err = err
		}
	}
	if x.err == nil {
		x.out.series(x.f, x.v, x.list, x.extra, n, at)
	}
	x.extra = x.extra[:0]
}

// with adds a label to the next put.
func (x *exposer) with(name, value string) {
	x.extra = append(x.extra, Label{name, value})
}
