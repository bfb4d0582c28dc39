package metrics

import "time"

// pointFields are the figures that history keeps.
var pointFields = [...]Field{
	CPUUsage, MemoryUsage, MemoryWorkingSet,
	IOReadBytes, IOWriteBytes, NetRxBytes, NetTxBytes,
	CPUSomeTotal, MemorySomeTotal, IOSomeTotal,
}

// A Point is one moment in the history of a target.
type Point struct {
	// Time is when the CPU was read, or else when the round began.
	Time  time.Time
	value [len(pointFields)]uint64
	known uint16
}

// Get returns a figure of the point, and whether it was read then. A point
// keeps CPUUsage, MemoryUsage, MemoryWorkingSet, IOReadBytes, IOWriteBytes,
// NetRxBytes, NetTxBytes, CPUSomeTotal, MemorySomeTotal and IOSomeTotal.
func (p *Point) Get(field Field) (uint64, bool) {
	for i, f := range pointFields {
		if f == field {
			return p.value[i], p.known&(1<<i) != 0
		}
	}
	return 0, false
}

// Rate is the growth of a counter per second over the window before the newest
// of points, which are in order of time. It compares the newest point that
// knows the counter with the oldest one within the window before it, or with
// the one just before it if the window holds none. It is a pure function of
// its arguments: who asks, and how often, does not matter. ok is false with
// fewer than two such points, with no time between them, and when the counter
// fell.
func Rate(points []Point, field Field, window time.Duration) (perSecond float64, ok bool) {
	var r rater
	for i := len(points) - 1; i >= 0 && r.add(&points[i], field, window); i-- {
	}
	return r.rate()
}

// rater takes points from the newest back.
type rater struct {
	newest, base time.Time
	last, first  uint64
	points       int
}

// add says whether it wants more.
func (r *rater) add(p *Point, field Field, window time.Duration) bool {
	v, known := p.Get(field)
	switch {
	case !known:
		return true
	case r.points == 0:
		r.newest, r.last = p.Time, v
	case r.points > 1 && r.newest.Sub(p.Time) > window, v > r.first:
		// Beyond the window; or it fell since, and what was before tells nothing.
		return false
	}
	r.base, r.first = p.Time, v
	r.points++
	return true
}

func (r *rater) rate() (float64, bool) {
	seconds := r.newest.Sub(r.base).Seconds()
	if r.points < 2 || seconds <= 0 {
		return 0, false
	}
	return float64(r.last-r.first) / seconds, true
}

// ring keeps the last len(points) points.
type ring struct {
	points []Point
	next   int
	full   bool
}

func (r *ring) push(p Point) {
	r.points[r.next] = p
	r.next++
	if r.next == len(r.points) {
		r.next, r.full = 0, true
	}
}

func (r *ring) clear() { r.next, r.full = 0, false }

func (r *ring) len() int {
	if r.full {
		return len(r.points)
	}
	return r.next
}

// rate is Rate over the points of the ring, without a copy.
func (r *ring) rate(field Field, window time.Duration) (float64, bool) {
	var rt rater
	n := r.len()
	for i := range n {
		at := r.next - 1 - i
		if at < 0 {
			at += len(r.points)
		}
		if !rt.add(&r.points[at], field, window) {
			break
		}
	}
	return rt.rate()
}

// appendTo appends the points, oldest first.
func (r *ring) appendTo(to []Point) []Point {
	if r.full {
		to = append(to, r.points[r.next:]...)
	}
	return append(to, r.points[:r.next]...)
}

// pointOf picks a point out of a sample; only groups read at or after since
// count, so that a figure carried over is not taken for a new one.
func pointOf(s *Sample, since time.Time) Point {
	p := Point{Time: since}
	if at := s.Time(CPUUsage); at.After(since) {
		p.Time = at
	}
	for i, f := range pointFields {
		v, ok := s.Get(f)
		if ok && !s.Time(f).Before(since) {
			p.value[i] = v
			p.known |= 1 << i
		}
	}
	return p
}
