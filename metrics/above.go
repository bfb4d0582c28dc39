package metrics

import "bytes"

// On v2 some files hold the sum of those of the cgroups below, of counters that
// never fall and are kept when one of those is removed. While such a file says
// the same, so do all below, and one reading of it saves many.

// sum is such a file.
type sum uint8

const (
	noSum     sum = iota
	eventsSum     // memory.events: each event is counted from its cgroup up (memcg_memory_event of mm/memcontrol.c)
	ioSum         // io.stat: a flush adds up what is below first (blkcg_rstat_flush of block/blk-cgroup.c)
	numSums
)

// above is a cgroup with several targets right below it.
type above struct {
	rel   string
	files [numSums]summed
}

type summed struct {
	fd      int32 // kept, or -1
	text    []byte
	version uint64 // of the text; none is ever the same again. 0: not known
	turn    uint64 // the round in which it was read last
}

func newAbove(rel string) *above {
	a := &above{rel: rel}
	for i := range a.files {
		a.files[i].fd = -1
	}
	return a
}

// leaveAbove closes what is kept of it.
func (r *reader) leaveAbove(a *above) {
	for i := range a.files {
		f := &a.files[i]
		if f.fd >= 0 {
			sysClose(f.fd)
			r.kept--
		}
		f.fd, f.version = -1, 0
	}
}

// sumIsSame says that a file cannot have changed since it was read, for that
// above it has not, and the cgroup is the one of then. What it finds above is
// what a reading from now on is held to.
func (r *reader) sumIsSame(src *source, h *handle, s *Sample) bool {
	near, before := &r.near[src.tree], h.sums[src.sum]
	h.sums[src.sum] = 0
	if h.above == nil {
		return false
	}
	if src.sum == ioSum {
		// From Linux 6.2 to 6.9 what is done two below is missing at times
		// (mended by 9d230c09964e), and what io.cost charges is not counted.
		if !near.leaf {
			return false
		}
		for i := range s.Devices {
			if s.Devices[i].hasCost != 0 {
				return false
			}
		}
	}
	now := r.versionOf(h.above, src)
	h.sums[src.sum] = now
	return near.same && now != 0 && now == before
}

// versionOf reads a file above, once a round.
func (r *reader) versionOf(a *above, src *source) uint64 {
	f := &a.files[src.sum]
	if f.turn == r.turn {
		return f.version
	}
	f.turn = r.turn
	text, err := r.readAbove(a, f, src)
	switch {
	case err != nil || (len(text) > 0 && text[len(text)-1] != '\n'):
		if f.fd >= 0 {
			sysClose(f.fd)
			f.fd = -1
			r.kept--
		}
		f.version = 0
	case f.version == 0 || !bytes.Equal(text, f.text):
		f.text = append(f.text[:0], text...)
		r.versions++
		f.version = r.versions
	}
	return f.version
}

func (r *reader) readAbove(a *above, f *summed, src *source) ([]byte, error) {
	root := src.root
	if src.dir != atCwd {
		root = ""
	}
	// Before Linux 5.2 events were of the cgroup alone, and before 5.3 no file had
	// these; a mount with memory_localevents makes them so again.
	if src.sum == eventsSum && f.version == 0 {
		if _, err := sysInode(r.join(src.root, a.rel, "memory.events.local"), r.room); err != nil {
			return nil, err
		}
	}
	if src.sum == eventsSum && !r.sumsEvents {
		return nil, ErrAbsent
	}
	var fd *int32
	if r.rich {
		fd = &f.fd
	}
	r.reads++
	return r.readAt(src.dir, r.join(root, a.rel, src.name), fd, false)
}
