package probe

import (
	"context"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	// maxTries is how often an attempt that could not be made is tried.
	// Source: Kubernetes v1.37.0 pkg/kubelet/prober.
	maxTries = 3
	// maxKept is how many bytes of an attempt's output are kept.
	maxKept = 1 << 10
)

// worker is one probe of one container instance. Manager.mu guards all that
// changes.
type worker struct {
	kind  Kind
	probe *corev1.Probe

	running, stopped bool
	cancel           context.CancelFunc
	next             time.Time // attempt, zero if there will be none
	result           Result
	since            time.Time
	// last is the latest attempt's result, run how many equal ones it ends.
	last     Result
	run      int
	attempts []Attempt
}

func (w *worker) stop() {
	w.stopped = true
	if w.cancel != nil {
		w.cancel()
	}
}

// threshold is how many results of a kind in a row make a verdict.
func (w *worker) threshold(result Result) int {
	if result == Success {
		return max(1, int(w.probe.SuccessThreshold))
	}
	if w.probe.FailureThreshold <= 0 {
		return 3
	}
	return int(w.probe.FailureThreshold)
}

func (w *worker) status() Status {
	return Status{Kind: w.kind, Result: w.result, Since: w.since, Run: w.run, Threshold: w.threshold(w.last), Next: w.next,
		Attempts: slices.Clone(w.attempts)}
}

func (w *worker) period() time.Duration {
	if w.probe.PeriodSeconds <= 0 {
		return 10 * time.Second
	}
	return time.Duration(w.probe.PeriodSeconds) * time.Second
}

// work probes until ctx ends or the verdict is final.
func (m *Manager) work(ctx context.Context, i *instance, w *worker) {
	if w.kind != Startup {
		select {
		case <-i.started:
		case <-ctx.Done():
			return
		}
	}
	delay := m.firstDelay(i, w)
	next := m.config.Clock.Now().Add(delay)
	m.expect(w, next)
	defer m.expect(w, time.Time{})
	if !m.sleep(ctx, delay) {
		return
	}
	ticker := m.config.Clock.NewTicker(w.period())
	defer ticker.Stop()
	for {
		m.expect(w, next.Add(w.period()))
		if !m.attempt(ctx, i, w) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case next = <-ticker.C():
		}
	}
}

func (m *Manager) expect(w *worker, next time.Time) {
	m.mu.Lock()
	w.next = next
	m.mu.Unlock()
}

// firstDelay is what is left of initialDelaySeconds, or for a container older
// than this Manager a part of a period, so that a restart of the agent does not
// probe everything at the same moment.
func (m *Manager) firstDelay(i *instance, w *worker) time.Duration {
	now := m.config.Clock.Now()
	// A clock that was set back must not make a container young for hours.
	age := max(0, now.Sub(i.startedAt))
	delay := max(0, time.Duration(w.probe.InitialDelaySeconds)*time.Second-age)
	if i.startedAt.Before(m.begun) && now.Sub(m.begun) < w.period() {
		h := fnv.New64a()
		_, _ = h.Write([]byte(i.target.ContainerID + " " + string(w.kind)))
		random := rand.New(rand.NewPCG(m.config.Seed, h.Sum64()))
		delay = max(delay, time.Duration(random.Int64N(int64(w.period()))))
	}
	return delay
}

func (m *Manager) sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := m.config.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C():
		return true
	}
}

// attempt makes one and tells whether there shall be another.
func (m *Manager) attempt(ctx context.Context, i *instance, w *worker) bool {
	m.mu.Lock()
	target := i.target
	m.mu.Unlock()
	begun := m.config.Clock.Now()
	var result Result
	var output string
	var err error
	for range maxTries {
		if result, output, err = m.config.Prober.Probe(ctx, target, w.probe); err == nil {
			break
		}
		if ctx.Err() != nil {
			return false
		}
	}
	now := m.config.Clock.Now()
	seen := Attempt{Time: begun, Duration: now.Sub(begun), Result: result, Output: output[:min(len(output), maxKept)]}
	if err != nil {
		seen.Result, seen.Err = Unknown, err.Error()
	}
	m.mu.Lock()
	if ctx.Err() != nil || w.stopped {
		m.mu.Unlock()
		return false
	}
	changed, final := w.take(seen, now, m.config.History)
	if w.kind == Startup && w.result == Success {
		close(i.started)
	}
	m.mu.Unlock()
	log := m.config.Logger.WithValues("podUID", i.podUID, "container", target.Container.Name, "containerID", target.ContainerID, "probe", w.kind)
	log.V(4).Info("probe attempt", "result", seen.Result, "error", seen.Err, "duration", seen.Duration)
	if changed {
		log.Info("probe verdict", "result", result, "output", seen.Output)
		m.config.Changed(Change{PodUID: i.podUID, Container: target.Container.Name, ContainerID: target.ContainerID,
			Kind: w.kind, Result: result, Output: output, Time: now})
	}
	return !final
}

// take counts an attempt. final: this probe has nothing more to say.
func (w *worker) take(seen Attempt, now time.Time, history int) (changed, final bool) {
	w.attempts = append(w.attempts, seen)
	if extra := len(w.attempts) - history; extra > 0 {
		w.attempts = slices.Delete(w.attempts, 0, extra)
	}
	if seen.Result == Unknown {
		return false, false
	}
	if seen.Result == w.last {
		w.run++
	} else {
		w.last, w.run = seen.Result, 1
	}
	if w.run < w.threshold(seen.Result) {
		return false, false
	}
	if changed = w.result != seen.Result; changed {
		w.result, w.since = seen.Result, now
	}
	final = w.kind == Startup || w.kind == Liveness && seen.Result == Failure
	w.stopped = w.stopped || final
	return changed, final
}
