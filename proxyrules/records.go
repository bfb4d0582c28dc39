package proxyrules

import (
	"context"
	"slices"
	"time"
)

// MaxSyncRecords is how many SyncRecords a Proxy keeps.
const MaxSyncRecords = 256

// Cause is why a sync was made.
type Cause string

// The causes.
const (
	CauseSet   Cause = "set"   // Set gave other objects
	CauseRetry Cause = "retry" // the sync before failed
	CauseDrift Cause = "drift" // another program changed our rules
	CauseCheck Cause = "check" // Config.CheckEvery has passed
)

// SyncRecord tells what one sync did. It is never changed.
type SyncRecord struct {
	Number uint64 // 1 for the first of a Proxy, and one more each time
	Cause  Cause
	// Queued is when it was asked for; Began without a wait.
	Queued, Began, Ended time.Time
	// Services and EndpointSlices that are others than at the sync before, new
	// or gone.
	Services, EndpointSlices int
	// Triggers are when the changes of the EndpointSlices began, as annotation
	// endpoints.kubernetes.io/last-change-trigger-time tells, at most 1,000.
	Triggers []time.Time
	Fronts   int // of the table
	Stats    SyncStats
	Drift    *Drift // what was repaired; nil: nobody touched our rules
	Err      error  // nil if it worked
}

// Drift is a change of our rules by another program.
type Drift struct {
	Noticed time.Time // when it was told of, or found
	// Program and PID are who made it; empty and 0 if that is not known.
	Program string
	PID     uint32
	// Lost says that notices were lost, so that a change is only possible.
	Lost bool
	// Repaired is when the rules stood again; zero: not yet.
	Repaired time.Time
	// Elements that had to be written again.
	Elements int
}

// records are the last of a Proxy; its mu guards them.
type records struct {
	list []SyncRecord // oldest first
	last uint64
	more chan struct{} // closed when there is another; nil: nobody waits
}

func (r *records) add(record SyncRecord) {
	r.last++
	record.Number = r.last
	if len(r.list) == MaxSyncRecords {
		r.list = slices.Delete(r.list, 0, 1)
	}
	r.list = append(r.list, record)
	if r.more != nil {
		close(r.more)
		r.more = nil
	}
}

func (r *records) after(number uint64) []SyncRecord {
	return slices.Clone(r.list[slices.IndexFunc(r.list, func(s SyncRecord) bool { return s.Number > number }):])
}

// Syncs gives the records of the syncs after that number, oldest first, as far
// as they are kept. It waits until there is one; the error is that of ctx. A
// look for changes of others that finds nothing leaves no record.
func (p *Proxy) Syncs(ctx context.Context, after uint64) ([]SyncRecord, error) {
	for {
		p.mu.Lock()
		if p.records.last > after {
			defer p.mu.Unlock()
			return p.records.after(after), nil
		}
		if p.records.more == nil {
			p.records.more = make(chan struct{})
		}
		more := p.records.more
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-more:
		}
	}
}
