package proxyrules

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// overdue is how long an update may wait before Healthy complains.
const overdue = time.Minute

// Status is how a Proxy fares. It is a copy.
type Status struct {
	Syncs     uint64        // that worked, those without any change too
	Failures  uint64        // syncs that failed
	Synced    time.Time     // end of the last that worked; zero: none yet
	Duration  time.Duration // of the last that changed something, from build to the kernel's answer
	Latency   time.Duration // of the last: from Set to the kernel's answer
	Stats     SyncStats     // of the last that changed something
	Queued    time.Time     // when Set was called last; zero: never
	Pending   bool          // the kernel does not hold yet what was set, or what another program took away
	Waiting   time.Duration // since when, if Pending
	LastError error         // of the last sync; nil if it worked
	Problems  []Problem     // of what was built last
	Fronts    int           // in the kernel
	// Drifts counts the changes by other programs that were repaired, Drift is
	// the last one, repaired or not; nil: none.
	Drifts uint64
	Drift  *Drift
	// CleanupFailures counts calls of Cleanup that failed.
	CleanupFailures uint64
}

// Status returns a copy of how the proxy fares.
func (p *Proxy) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	status := p.status
	status.Problems = slices.Clone(status.Problems)
	var since time.Time
	if p.synced != p.version {
		since = p.setAt
	}
	for _, also := range []time.Time{p.failing, p.driftNoticed()} {
		if !also.IsZero() && (since.IsZero() || also.Before(since)) {
			since = also
		}
	}
	if status.Pending = !since.IsZero(); status.Pending {
		status.Waiting = p.clock.Since(since)
	}
	return status
}

// Healthy is nil when the rules are applied, and else says why not: nothing
// was set yet, the last sync failed, or an update has waited for a minute.
func (p *Proxy) Healthy() error {
	status := p.Status()
	switch {
	case status.LastError != nil:
		return fmt.Errorf("last sync: %w", status.LastError)
	case status.Synced.IsZero():
		return errors.New("no rules applied yet")
	case status.Pending && status.Waiting > overdue:
		return fmt.Errorf("an update waits since %s", status.Waiting.Round(time.Second))
	}
	return nil
}
