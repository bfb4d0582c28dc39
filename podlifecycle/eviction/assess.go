package eviction

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodekit/nodekit/podlifecycle/qos"
)

// Config of a Policy.
type Config struct {
	// Thresholds; nil means Defaults(), empty means none.
	Thresholds []Threshold
	// PressureTransition is how long a node condition stays true after the last
	// threshold of it was met; 0 means 5 min.
	PressureTransition time.Duration
	// MaxGrace bounds the grace of pods at a soft threshold, beside their own;
	// 0 means 1 s, which is also what a hard one gives.
	MaxGrace time.Duration
	// Critical tells who is never evicted and always let in; nil means
	// qos.Critical, and so all static pods.
	Critical func(*corev1.Pod) bool
}

// Policy decides. It has no state and may be used concurrently.
type Policy struct{ config Config }

// New checks config. The error joins all that is wrong with it.
func New(config Config) (*Policy, error) {
	var errs []error
	if config.Thresholds == nil {
		config.Thresholds = Defaults()
	}
	config.Thresholds = slices.Clone(config.Thresholds)
	for i, t := range config.Thresholds {
		if _, known := signals[t.Signal]; !known {
			errs = append(errs, fmt.Errorf("thresholds[%d]: %w: %q", i, errSignal, t.Signal))
		}
		if t.Below.Amount < 0 || t.Below.Part < 0 || t.Below.Part > 1 || t.Below == (Value{}) {
			errs = append(errs, fmt.Errorf("thresholds[%d]: below %+v is no threshold", i, t.Below))
		}
		if t.Reclaim.Amount < 0 || t.Reclaim.Part < 0 || t.Reclaim.Part > 1 || t.Grace < 0 {
			errs = append(errs, fmt.Errorf("thresholds[%d]: grace and minimum reclaim must not be negative", i))
		}
	}
	if config.PressureTransition < 0 || config.MaxGrace < 0 {
		errs = append(errs, errors.New("the PressureTransition and MaxGrace must not be negative"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("eviction config: %w", err)
	}
	if config.PressureTransition == 0 {
		config.PressureTransition = 5 * time.Minute
	}
	if config.Critical == nil {
		config.Critical = qos.Critical
	}
	return &Policy{config}, nil
}

// Observation is what is left of something.
type Observation struct {
	// Available of Capacity, in bytes, inodes or processes.
	Available, Capacity int64
	// Time of the reading: no pod is evicted twice for one. Zero is always a new one.
	Time time.Time
}

// Reading is one look at the node.
type Reading struct {
	// Signals; one that is not known is left out, and its thresholds are not met.
	Signals map[Signal]Observation
	// DedicatedImageFS: images and writable layers lie on another file system than
	// volumes and logs.
	DedicatedImageFS bool
}

// State is what Assess knows from before. The zero value knows nothing.
type State struct {
	first map[Threshold]time.Time                // since when it is met
	met   []Threshold                            // with their grace, and not resolved
	told  map[corev1.NodeConditionType]time.Time // when it was last met
	last  map[Signal]Observation
}

// Assessment is what a reading means.
type Assessment struct {
	// State for the next call.
	State State
	// Conditions that are true now, sorted.
	Conditions []corev1.NodeConditionType
	// Starved, if not nil, is what a pod must be evicted for: memory first.
	Starved *Starved
	// Next is when a grace or a transition ends, should the signals stay as they
	// are; zero if none will.
	Next time.Time
}

// Starved is a threshold that has been met for its grace.
type Starved struct {
	Threshold
	// Observation that meets it.
	Observation
}

// String gives "memory.available is 93Mi, below 100Mi".
func (s Starved) String() string {
	return fmt.Sprintf("%s is %s, below %s", s.Signal, s.quantity(s.Available), s.quantity(s.Below.Of(s.Capacity)))
}

// Assess takes a reading in. Neither state nor reading is changed.
func (p *Policy) Assess(state State, reading Reading, now time.Time) Assessment {
	all := met(p.config.Thresholds, reading.Signals, false)
	for _, t := range met(state.met, reading.Signals, true) { // what is not resolved yet
		if !slices.Contains(all, t) {
			all = append(all, t)
		}
	}
	next := State{first: map[Threshold]time.Time{}, told: maps.Clone(state.told), last: maps.Clone(reading.Signals)}
	if next.told == nil {
		next.told = map[corev1.NodeConditionType]time.Time{}
	}
	a := Assessment{}
	wake := func(at time.Time) {
		if a.Next.IsZero() || at.Before(a.Next) {
			a.Next = at
		}
	}
	for _, t := range all {
		since, known := state.first[t]
		if !known {
			since = now
		}
		next.first[t] = since
		next.told[signals[t.Signal].condition] = now
		if end := since.Add(t.Grace); now.Sub(since) < t.Grace {
			wake(end)
			continue
		}
		next.met = append(next.met, t)
	}
	for condition, at := range next.told {
		if now.Sub(at) >= p.config.PressureTransition {
			delete(next.told, condition)
			continue
		}
		a.Conditions = append(a.Conditions, condition)
		wake(at.Add(p.config.PressureTransition))
	}
	slices.Sort(a.Conditions)
	a.State = next
	a.Starved = worst(next.met, reading.Signals, state.last)
	return a
}

// Relieved tells whether no threshold is met any more, each with its minimum
// reclaim: asked after garbage has been collected, before a pod is evicted.
func (p *Policy) Relieved(reading Reading) bool {
	return len(met(p.config.Thresholds, reading.Signals, true)) == 0
}

func met(thresholds []Threshold, signals map[Signal]Observation, reclaim bool) []Threshold {
	var out []Threshold
	for _, t := range thresholds {
		o, known := signals[t.Signal]
		if !known {
			continue
		}
		below := t.Below.Of(o.Capacity)
		if reclaim {
			below += t.Reclaim.Of(o.Capacity)
		}
		if o.Available < below {
			out = append(out, t)
		}
	}
	return out
}

// worst is memory before all others, of those with a reading newer than last.
func worst(thresholds []Threshold, readings, last map[Signal]Observation) *Starved {
	var found []Starved
	for _, t := range thresholds {
		o := readings[t.Signal]
		if old, known := last[t.Signal]; !known || o.Time.IsZero() || o.Time.After(old.Time) {
			found = append(found, Starved{t, o})
		}
	}
	if len(found) == 0 {
		return nil
	}
	slices.SortStableFunc(found, func(a, b Starved) int {
		return cmp.Compare(rank(a.Signal), rank(b.Signal))
	})
	return &found[0]
}

func rank(s Signal) int {
	if s == MemoryAvailable {
		return 0
	}
	return 1
}

func amount(n int64) string {
	return resource.NewQuantity(n, resource.BinarySI).String()
}
