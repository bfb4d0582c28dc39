package metrics

// In the package itself, for points are made by rounds only.

import (
	"testing"
	"time"
)

func pointAt(second int, cpu uint64) Point {
	p := Point{Time: time.Unix(int64(second), 0), known: 1}
	p.value[0] = cpu
	return p
}

func TestRate(t *testing.T) {
	unknown := pointAt(30, 0)
	unknown.known = 0
	for name, c := range map[string]struct {
		points []Point
		window time.Duration
		want   float64
		ok     bool
	}{
		"none":                {},
		"one":                 {points: []Point{pointAt(0, 5)}},
		"two":                 {points: []Point{pointAt(0, 5), pointAt(10, 25)}, want: 2, ok: true},
		"no window: last two": {points: []Point{pointAt(0, 0), pointAt(10, 25), pointAt(20, 35)}, want: 1, ok: true},
		"window":              {points: []Point{pointAt(0, 0), pointAt(10, 30), pointAt(20, 40)}, window: 20 * time.Second, want: 2, ok: true},
		"window shorter":      {points: []Point{pointAt(0, 0), pointAt(10, 30), pointAt(20, 40)}, window: 19 * time.Second, want: 1, ok: true},
		"unknown in between":  {points: []Point{pointAt(0, 0), unknown, pointAt(40, 40)}, want: 1, ok: true},
		"newest is unknown":   {points: []Point{pointAt(0, 0), pointAt(10, 20), unknown}, want: 2, ok: true},
		"fell at the end":     {points: []Point{pointAt(0, 50), pointAt(10, 20)}, window: time.Minute},
		"fell in the middle":  {points: []Point{pointAt(0, 50), pointAt(10, 20), pointAt(20, 30)}, window: time.Minute, want: 1, ok: true},
		"no time between":     {points: []Point{pointAt(0, 1), pointAt(0, 2)}},
		"idle":                {points: []Point{pointAt(0, 7), pointAt(10, 7)}, ok: true},
	} {
		got, ok := Rate(c.points, CPUUsage, c.window)
		if got != c.want || ok != c.ok {
			t.Errorf("%s: %v, %v; want %v, %v", name, got, ok, c.want, c.ok)
		}
		r := ring{points: make([]Point, 4)}
		r.push(pointAt(-100, 1000)) // overwritten or fallen below
		for range 4 - len(c.points) {
			r.push(Point{})
		}
		for _, p := range c.points {
			r.push(p)
		}
		if again, ok2 := r.rate(CPUUsage, c.window); again != got || ok2 != ok {
			t.Errorf("%s: the ring says %v, %v", name, again, ok2)
		}
	}
	if _, ok := Rate([]Point{pointAt(0, 0), pointAt(1, 1)}, MemoryRSS, 0); ok {
		t.Error("a rate of what points do not keep")
	}
}

func TestRingKeepsTheNewest(t *testing.T) {
	r := ring{points: make([]Point, 3)}
	for i := range 5 {
		r.push(pointAt(i, uint64(i)))
		got := r.appendTo(nil)
		if len(got) != min(i+1, 3) || r.len() != len(got) {
			t.Fatalf("after %d: %d points", i+1, len(got))
		}
		for j, p := range got {
			if want := uint64(i - len(got) + 1 + j); p.value[0] != want {
				t.Errorf("after %d: point %d is %d, want %d", i+1, j, p.value[0], want)
			}
		}
	}
}
