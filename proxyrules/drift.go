package proxyrules

import (
	"context"
	"time"
)

// Two programs that keep the same rules undo each other's work without end. So
// after stormRepairs repairs within stormTime there is one in stormGap at most.
const (
	stormRepairs = 3
	stormTime    = 10 * time.Second
	stormGap     = 500 * time.Millisecond
)

// watchDrift listens for changes by other programs until ctx ends, and again
// when that breaks off.
func (p *Proxy) watchDrift(ctx context.Context) {
	retry := p.minRetry
	for {
		err := p.watch(ctx, p.notice)
		if ctx.Err() != nil {
			return
		}
		// Whatever happened meanwhile was not told.
		p.notice(Drift{Lost: true})
		p.log.Info("changes by other programs are not told of", "reason", errorText(err), "retryAfter", retry)
		timer := p.clock.NewTimer(retry)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C():
		}
		retry = min(2*retry, p.maxRetry)
	}
}

func errorText(err error) string {
	if err == nil {
		return "the watch ended"
	}
	return err.Error()
}

// notice takes a change by another program down and has it repaired.
func (p *Proxy) notice(drift Drift) {
	p.mu.Lock()
	if p.drift == nil || p.drift.Lost && !drift.Lost {
		noticed := p.clock.Now()
		if p.drift != nil {
			noticed = p.drift.Noticed
		}
		p.drift = &Drift{Noticed: noticed, Program: drift.Program, PID: drift.PID, Lost: drift.Lost}
	}
	p.mu.Unlock()
	p.poke()
}

// calm is how long to wait before the next repair.
func (p *Proxy) calm() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	if p.drift == nil || now.Sub(p.repairs[0]) > stormTime {
		return 0
	}
	return stormGap - now.Sub(p.repairs[stormRepairs-1])
}

// cause says why the sync that begins is made. mu is held.
func (p *Proxy) cause() Cause {
	switch {
	case p.drift != nil:
		return CauseDrift
	case !p.failing.IsZero():
		return CauseRetry
	case p.synced != p.version || !p.loaded:
		return CauseSet
	}
	return CauseCheck
}

// repaired ends a drift that a sync has seen to. right says that the rules were
// so before, so that whatever had to be written, another program took away.
// mu is held.
func (p *Proxy) repaired(drift *Drift, right bool, stats SyncStats, end time.Time) *Drift {
	found := right && stats.Full && stats.Elements > 0
	if drift == nil && !found || drift != nil && drift.Lost && !found {
		return nil
	}
	if drift == nil {
		drift = &Drift{Noticed: end}
	}
	done := *drift
	done.Repaired, done.Elements = end, stats.Elements
	copy(p.repairs[:], p.repairs[1:])
	p.repairs[stormRepairs-1] = end
	p.status.Drifts++
	p.status.Drift = &done
	p.log.Info("rules were changed by another program, and repaired", "program", done.Program, "pid", done.PID,
		"elements", done.Elements, "duration", done.Repaired.Sub(done.Noticed))
	return &done
}

// driftNoticed is when the drift was noticed that is not repaired yet. mu is held.
func (p *Proxy) driftNoticed() time.Time {
	if p.drift == nil || p.drift.Lost {
		return time.Time{}
	}
	return p.drift.Noticed
}
