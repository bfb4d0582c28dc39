package metrics

import (
	"context"
	"io"
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
type labels struct{ full, lean, pod []byte }

// fullLabelsOf and leanLabelsOf are what Compat and Lean say of a target.
func fullLabelsOf(t *Target) [6]Label {
	container := t.Container
	if t.Pod == "" {
		container = ""
	}
	return [...]Label{
		{"container", container}, {"id", t.Cgroup}, {"image", t.Image},
		{"name", t.ID}, {"namespace", t.Namespace}, {"pod", t.Pod},
	}
}

func leanLabelsOf(t *Target) [3]Label {
	return [...]Label{{"container", t.Container}, {"namespace", t.Namespace}, {"pod", t.Pod}}
}

func renderLabels(t *Target) labels {
	full, lean := fullLabelsOf(t), leanLabelsOf(t)
	return labels{full: appendLabels(nil, full[:]), lean: appendLabels(nil, lean[:]), pod: appendLabels(nil, lean[1:])}
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
	n, before := 0, 0 // before is the view that may be shadowed by the next
	put := func(st *state) {
		if n == len(s.views) {
			s.views = append(s.views, view{})
		}
		s.views[n].sample.copyFrom(st.last)
		s.views[n].labels = st.labels
		s.views[n].shadowed = false
		if !st.last.Target.Sandbox() {
			if before > 0 && sameNames(&s.views[before].sample.Target, &st.last.Target) {
				s.views[before].shadowed = true
			}
			before = n
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

// WriteCAdvisor writes the kubelet's /metrics/cadvisor as text of version
// 0.0.4: the families that cAdvisor v0.60.5 has by default, as far as they are
// read. A figure that is not known has no series. The samples are of one
// round, at most two intervals old. It writes in pieces of 64 KiB, none before
// the samples are there.
func (m *Meter) WriteCAdvisor(ctx context.Context, w io.Writer) error {
	return m.write(ctx, w, cadvisorFamilies, textFormat, m.cfg.Timestamps)
}

// WriteCAdvisorOpenMetrics is WriteCAdvisor in OpenMetrics 1.0.0, to the # EOF
// at its end: what else is to be in the answer goes before.
func (m *Meter) WriteCAdvisorOpenMetrics(ctx context.Context, w io.Writer) error {
	return m.write(ctx, w, cadvisorFamilies, openMetrics, m.cfg.Timestamps)
}

// WriteResource writes the kubelet's /metrics/resource, which metrics-server
// reads, with the time of each figure.
func (m *Meter) WriteResource(ctx context.Context, w io.Writer) error {
	return m.write(ctx, w, resourceFamilies, textFormat, true)
}

// WriteResourceOpenMetrics is WriteResource in OpenMetrics 1.0.0.
func (m *Meter) WriteResourceOpenMetrics(ctx context.Context, w io.Writer) error {
	return m.write(ctx, w, resourceFamilies, openMetrics, true)
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

func (m *Meter) write(ctx context.Context, w io.Writer, families []family, format format, times bool) error {
	s, err := m.snap(ctx)
	if err != nil {
		return err
	}
	defer snapshots.Put(s)
	sink := textSink{w: w, b: s.text[:0], format: format, times: times}
	err = s.expose(families, m.labelSet(), &sink)
	if err == nil {
		if format == openMetrics {
			sink.b = append(sink.b, "# EOF\n"...)
		}
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
				kind := kindOf(&s.views[j].sample.Target)
				if f.who.has(kind) && (kind != kindSandbox || list == fullLabels) {
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
