package metrics

import (
	"io"
	"strconv"
	"time"
)

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

// format is one of Prometheus' two.
type format uint8

const (
	textFormat  format = iota // version 0.0.4
	openMetrics               // version 1.0.0
)

// textSink writes either format.
type textSink struct {
	w      io.Writer
	b      []byte
	format format
	times  bool
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
	if t.format == openMetrics {
		t.b = append(t.b, f.openHead...)
	} else {
		t.b = append(t.b, f.head...)
	}
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
		if t.format == openMetrics { // in seconds
			b = appendScaled(b, uint64(at.UnixMilli()), 3)
		} else {
			b = strconv.AppendInt(b, at.UnixMilli(), 10)
		}
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
		full := fullLabelsOf(&v.sample.Target)
		one.Labels = append(one.Labels, full[:]...)
	case leanLabels:
		lean := leanLabelsOf(&v.sample.Target)
		one.Labels = append(one.Labels, lean[:]...)
	case podLabels:
		lean := leanLabelsOf(&v.sample.Target)
		one.Labels = append(one.Labels, lean[1:]...)
	}
	one.Labels = append(one.Labels, extra...)
	one.Value = float64(n) / [...]float64{1, 1e9, 1e6}[f.unit]
	s.yield(one)
}
