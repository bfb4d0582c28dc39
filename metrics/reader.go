package metrics

import "time"

// reader reads cgroups and /proc. It is not safe for concurrent use: who holds
// the meter's turn has it.
type reader struct {
	proc, sys     string
	plan          *plan
	node          nodeFiles
	memoryVersion int
	now           func() time.Time

	keep   bool // descriptors may be kept
	rich   bool // the budget lasts for more than the hot ones
	budget int
	kept   int

	roots    map[string]int32 // kept open, of hierarchies
	near     [numControllers]nearby
	buf      []byte
	path     []byte
	room     *status
	names    names
	deviceOf map[uint64]string // major<<32|minor to /dev/name
	disks    map[string]bool   // whole disks, by name; true if it counts in sums
	hostNet  uint64            // inode of the node's network namespace

	links   links
	linksAt time.Time // of the last dump; zero if it is not of this round
	linked  int       // pods that were read by it

	was      fieldSet // what the sample knew before it was read again
	wasUsage uint64   // its CPUUsage
	turn     uint64   // number of the round or glance
	versions uint64   // of the files above
	noSwap   bool     // the machine has none, as this round's reading of the node says
	reads    uint64   // files of cgroups that were read
	spared   uint64   // and were not, for they would have told the same

	pageSizes   []uint64 // of huge pages
	countsFiles bool     // the size of /proc/PID/fd is the number of files

	countsSockets bool
	sumsEvents    bool // memory.events counts those below too, as mounted
}

// groupSet is a set of groups, one bit each.
type groupSet uint8

func (s groupSet) has(g group) bool { return s&(1<<g) != 0 }

const (
	hotGroups  = groupSet(1<<groupCPU | 1<<groupMemory)
	coldGroups = groupSet(1<<groupPids | 1<<groupIO | 1<<groupNetwork | 1<<groupPressure)
	slowGroups = groupSet(1 << groupLimits)
	allGroups  = hotGroups | coldGroups | slowGroups
)

// handle is what the reader keeps of one cgroup.
type handle struct {
	fds    [maxKept]int32  // kept descriptors by source, -1 for none
	absent uint64          // sources known to be absent, until the limits are read again
	above  *above          // nil for none
	sums   [numSums]uint64 // versions of its files, of when ours were read
	oom    uint64          // OOMKills as the kernel told it last
	dir    uint64          // inode of the directory that has sums, when it was opened last
	netPID int
	netIno uint64
	link   uint32    // the node's end of the pod's only interface, 0 for not known
	sought bool      // the link was looked for
	seen   Interface // the pod's end, when it was read last
}

func newHandle() handle {
	h := handle{}
	for i := range h.fds {
		h.fds[i] = -1
	}
	return h
}

func newReader(proc, sys string, l layout, budget int, now func() time.Time) *reader {
	pages := pageSizes(sys)
	r := &reader{
		proc: proc, sys: sys, plan: makePlan(l, pages), pageSizes: pages, now: now, budget: budget,
		buf: make([]byte, 16<<10), path: make([]byte, 0, 512), room: new(status),
		names: names{}, roots: map[string]int32{}, deviceOf: map[uint64]string{}, disks: map[string]bool{},
	}
	r.node = newNodeFiles()
	r.memoryVersion = l[controllerMemory].version
	if n, err := sysSize(r.join(proc, "thread-self/fd"), r.room); err == nil {
		r.countsFiles = n > 0 // this process has files open
	}
	// Not self: that is the first thread, which may have been sent to another
	// namespace for good, if it was the one that ran a locked goroutine.
	if ino, err := sysInode(r.join(proc, "thread-self/ns/net"), r.room); err == nil {
		r.hostNet = ino
	}
	return r
}

// sample reads the wanted groups of a cgroup into s; what s has of others
// stays. It returns ErrGone if the cgroup is no more: then s is not to be used.
func (r *reader) sample(rel string, h *handle, s *Sample, want groupSet) error {
	r.begin(s, want)
	if want.has(groupLimits) {
		h.absent = 0
	}
	s.swapWithMemory = r.memoryVersion == 1
	r.arrive(h, want)
	defer r.leave()
	var dropped groupSet
	for i := range r.plan.sources {
		src := &r.plan.sources[i]
		if !want.has(src.group) {
			continue
		}
		err := error(ErrAbsent)
		if h.absent&(1<<i) == 0 {
			var fd *int32
			if i < r.keepable() {
				fd = &h.fds[i]
			}
			if r.spare(src, h, s, fd != nil && *fd >= 0) {
				continue
			}
			err = r.source(src, rel, h, fd, s)
		}
		if err == nil {
			if src.sum == eventsSum {
				h.oom = s.value[OOMKills]
			}
			continue
		}
		// Only the hot ones decide: a runtime may leave a cgroup out of a
		// hierarchy, but not out of CPU and memory.
		if src.hot && (err == ErrGone || (err == ErrAbsent && h.absent&(1<<i) == 0 && r.gone(src, rel))) {
			return ErrGone
		}
		if err == ErrAbsent {
			h.absent |= 1 << i
		}
		s.Gaps = append(s.Gaps, Gap{File: src.name, Err: err, group: src.group})
		if src.required {
			dropped |= 1 << src.group
		}
	}
	if want.has(groupNetwork) {
		r.network(h, s, want.has(groupLimits))
	}
	if want.has(groupLimits) {
		if err := r.openFiles(s); err != nil {
			s.Gaps = append(s.Gaps, Gap{File: "limits", Err: err, group: groupLimits})
		}
	}
	r.finish(s, dropped)
	return nil
}

// spare leaves the figures of a file as they are, if they cannot have changed.
func (r *reader) spare(src *source, h *handle, s *Sample, kept bool) bool {
	switch {
	case src.sum != noSum:
		if !r.sumIsSame(src, h, s) || !r.was.has(src.tells[0]) {
			return false
		}
	case src.same == nil || !r.was.has(src.tells[0]) || !src.same(r, s, kept):
		return false
	}
	for _, f := range src.tells {
		if r.was.has(f) {
			s.known.add(f)
		}
	}
	if src.sum == eventsSum {
		s.value[OOMKills] = h.oom // the sample's is over restarts
	}
	r.spared++
	return true
}

func (r *reader) source(src *source, rel string, h *handle, fd *int32, s *Sample) error {
	r.reads++
	var dir int32
	var path []byte
	if fd == nil || *fd < 0 {
		var err error
		if dir, path, err = r.find(src, rel, h); err != nil {
			return err
		}
	}
	text, err := r.readAt(dir, path, fd, src.pages)
	if err != nil {
		return err
	}
	if s.at[src.group].IsZero() {
		s.at[src.group] = r.now()
	}
	if err := src.parse(text, s); err != nil || src.after == nil {
		return err
	}
	return src.after(r, text, s)
}

// gone tells a cgroup that is no more from one that lacks a file.
func (r *reader) gone(src *source, rel string) bool {
	_, err := sysInode(r.join(src.root, rel), r.room)
	return err == ErrAbsent
}

// begin empties the wanted groups of s, but for devices, which the reader of
// disks empties, for it compares with those before.
func (r *reader) begin(s *Sample, want groupSet) {
	r.was, r.wasUsage = s.known, s.value[CPUUsage]
	gaps := s.Gaps[:0]
	for _, g := range s.Gaps {
		if !want.has(g.group) {
			gaps = append(gaps, g)
		}
	}
	s.Gaps = gaps
	for g := range numGroups {
		if !want.has(g) {
			continue
		}
		s.forget(g)
		s.at[g] = time.Time{}
		if name := r.plan.missing[g]; name != "" {
			s.Gaps = append(s.Gaps, Gap{File: name, Err: ErrNoController, group: g})
		}
	}
	if want.has(groupIO) {
		s.steady = false
	}
	if want.has(groupNetwork) {
		s.Interfaces = s.Interfaces[:0]
	}
	if want.has(groupLimits) {
		s.first = 0
		s.HugePages, s.Filesystems = s.HugePages[:0], s.Filesystems[:0]
	}
}

// finish forgets the groups that mean nothing and derives what is derived.
func (r *reader) finish(s *Sample, dropped groupSet) {
	for g := range numGroups {
		if dropped.has(g) {
			s.forget(g)
		}
	}
	if dropped.has(groupIO) {
		s.Devices = s.Devices[:0]
	}
	devices := s.Devices[:0]
	for _, d := range s.Devices {
		if d.hasBytes|d.hasCount|d.hasCost != 0 {
			d.Name = r.deviceOf[uint64(d.Major)<<32|uint64(d.Minor)]
			devices = append(devices, d)
		}
	}
	s.Devices = devices
	usage, ok1 := s.Get(MemoryUsage)
	inactive, ok2 := s.Get(MemoryInactiveFile)
	if ok1 && ok2 {
		s.set(MemoryWorkingSet, usage-min(usage, inactive))
	}
}
