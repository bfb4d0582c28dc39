package runtimetest

import (
	"container/heap"
	"time"
)

// action is something that happens by itself at a time.
type action struct {
	at  time.Time
	seq int
	do  func(at time.Time)
}

// schedule is a heap of actions by time, then by order of planning.
type schedule []action

func (s schedule) Len() int      { return len(s) }
func (s schedule) Swap(i, j int) { s[i], s[j] = s[j], s[i] }
func (s *schedule) Push(x any)   { *s = append(*s, x.(action)) }
func (s schedule) Less(i, j int) bool {
	if s[i].at.Equal(s[j].at) {
		return s[i].seq < s[j].seq
	}
	return s[i].at.Before(s[j].at)
}

func (s *schedule) Pop() any {
	last := len(*s) - 1
	x := (*s)[last]
	(*s)[last] = action{}
	*s = (*s)[:last]
	return x
}

// plan has do called, under mu, once the clock has reached at. do itself looks
// whether it still applies.
func (f *Fake) plan(at time.Time, do func(at time.Time)) {
	heap.Push(&f.due, action{at: at, seq: f.nextSeq(), do: do})
}

// runDue does what is due, each with the time for which it was planned: a
// program that ends after a second ends after a second, however late one looks.
func (f *Fake) runDue(now time.Time) {
	for len(f.due) > 0 && !f.due[0].at.After(now) {
		a := heap.Pop(&f.due).(action)
		a.do(a.at)
	}
}

// rearm keeps one timer on the earliest action. The timer only wakes: the
// testing clock calls it under a lock of its own.
func (f *Fake) rearm() {
	if len(f.due) == 0 {
		if f.timer != nil {
			f.timer.Stop()
			f.timer = nil
		}
		return
	}
	at := f.due[0].at
	if f.timer != nil {
		if f.timerAt.Equal(at) {
			return
		}
		f.timer.Stop()
	}
	f.timerAt = at
	f.timer = f.clock.AfterFunc(at.Sub(f.now()), func() { go f.wake(at) })
}

func (f *Fake) wake(at time.Time) {
	f.lock()
	if f.timer != nil && f.timerAt.Equal(at) {
		f.timer.Stop()
		f.timer = nil
	}
	f.unlock()
}
