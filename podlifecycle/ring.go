package podlifecycle

import "time"

// foldBack is how many of the newest records are looked at for an equal one.
const foldBack = 16

// ring keeps the newest records of a pod. It is guarded by its owner.
type ring struct {
	max     int
	records []numbered
	next    int
}

type numbered struct {
	Record
	number int
	open   bool   // the action is under way
	text   []byte // as JSON, once it was asked for
}

// add keeps a record and gives its number. An equal one among the newest is
// counted up and becomes the newest.
func (r *ring) add(rec Record, open bool) int {
	if !open {
		for i := len(r.records) - 1; i >= 0 && i >= len(r.records)-foldBack; i-- {
			if old := r.records[i]; !old.open && same(old.Record, rec) {
				r.fold(i, rec.Time, rec.Took)
				return r.records[len(r.records)-1].number
			}
		}
	}
	r.next++
	r.records = append(r.records, numbered{Record: rec, number: r.next, open: open})
	if over := len(r.records) - r.max; over > 0 {
		r.records = append(r.records[:0:0], r.records[over:]...)
	}
	return r.next
}

func (r *ring) fold(i int, at time.Time, took time.Duration) {
	old := r.records[i]
	old.Count = max(old.Count, 1) + 1
	old.Last, old.Took, old.text = at, took, nil
	copy(r.records[i:], r.records[i+1:])
	r.records[len(r.records)-1] = old
}

// finish closes the record of an action with its result, and folds it.
func (r *ring) finish(number int, result string, err error, took time.Duration) Record {
	for i := range r.records {
		n := &r.records[i]
		if n.number != number {
			continue
		}
		n.open, n.Result, n.Took, n.text = false, result, took, nil
		if err != nil {
			n.Error = err.Error()
		}
		done := n.Record
		for k := i - 1; k >= 0 && k >= i-foldBack; k-- {
			if !r.records[k].open && same(r.records[k].Record, done) {
				r.records = append(r.records[:i], r.records[i+1:]...)
				r.fold(k, done.Time, took)
				break
			}
		}
		return done
	}
	return Record{}
}

func (r *ring) list() []Record {
	out := make([]Record, len(r.records))
	for i := range r.records {
		out[i] = r.records[i].Record
	}
	return out
}

// texts gives the newest records as JSON.
func (r *ring) texts(most int) [][]byte {
	newest := r.records[max(0, len(r.records)-most):]
	out := make([][]byte, len(newest))
	for i := range newest {
		n := &newest[i]
		if n.text == nil {
			n.text = encode(n.Record)
		}
		out[i] = n.text
	}
	return out
}

func same(a, b Record) bool {
	a.Time, a.Last, a.Count, a.Took = b.Time, b.Last, b.Count, b.Took
	return a == b
}
