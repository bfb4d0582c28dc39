package metrics

import (
	"strconv"
	"time"
)

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
	reads    uint64   // files of cgroups that were read
	spared   uint64   // and were not, for they would have told the same

	pageSizes   []uint64 // of huge pages
	countsFiles bool     // the size of /proc/PID/fd is the number of files

	countsSockets bool
}

// nearby is the directory of the cgroup that is read now, in one hierarchy.
type nearby struct {
	files int   // that are to be opened there
	dir   int32 // -1 for not open
}

// worthDir is how many files make it cheaper to open their directory first than
// to walk to each of them.
const worthDir = 3

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
	fds    [maxKept]int32 // kept descriptors by source, -1 for none
	absent uint64         // sources known to be absent, until the limits are read again
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

// join makes a path that ends in a zero byte, in room that the next join uses
// again. Empty parts are left out.
func (r *reader) join(parts ...string) []byte {
	b := r.path[:0]
	for _, p := range parts {
		if p == "" {
			continue
		}
		if len(b) > 0 {
			b = append(b, '/')
		}
		b = append(b, p...)
	}
	r.path = append(b, 0)
	return r.path
}

// joinPID makes the path of a file of a process, as join does.
func (r *reader) joinPID(pid int, file string) []byte {
	b := append(r.path[:0], r.proc...)
	b = append(b, '/')
	b = strconv.AppendInt(b, int64(pid), 10)
	b = append(b, '/')
	b = append(b, file...)
	r.path = append(b, 0)
	return r.path
}

// keepRoots keeps the roots of the hierarchies open, so that a path begins
// there; without one it is walked from /.
func (r *reader) keepRoots() {
	for i := range r.plan.sources {
		src := &r.plan.sources[i]
		if _, ok := r.roots[src.root]; !ok {
			dir, err := sysOpenDir(atCwd, r.join(src.root))
			if err != nil {
				dir = atCwd
			}
			r.roots[src.root] = dir
		}
		src.dir = r.roots[src.root]
	}
}

func (r *reader) releaseRoots() {
	for root, dir := range r.roots {
		if dir != atCwd {
			sysClose(dir)
		}
		delete(r.roots, root)
	}
	for i := range r.plan.sources {
		r.plan.sources[i].dir = atCwd
	}
}

// read is readAt for a path that begins at /.
func (r *reader) read(path []byte, fd *int32, pages bool) ([]byte, error) {
	return r.readAt(atCwd, path, fd, pages)
}

// readAt returns the text of a file, good until the next read. With fd it reads
// the descriptor there, and keeps a new one there while the budget lasts.
func (r *reader) readAt(dir int32, path []byte, fd *int32, pages bool) ([]byte, error) {
	open := int32(-1)
	if fd != nil {
		open = *fd
	}
	if open < 0 {
		var err error
		if open, err = sysOpen(dir, path); err != nil {
			return nil, err
		}
		if fd != nil && r.keep && r.kept < r.budget {
			*fd = open
			r.kept++
		} else {
			defer sysClose(open)
		}
	}
	got := 0
	for {
		n, err := sysRead(open, r.buf[got:], int64(got))
		if err != nil {
			return nil, err
		}
		got += n
		switch {
		case got == len(r.buf):
			// Perhaps more: with more room, from the start, so that the text
			// is of one moment.
			r.buf = make([]byte, 2*len(r.buf))
			got = 0
		case n == 0 || !pages:
			return r.buf[:got], nil
		}
	}
}

// keepable is how many sources are kept open now.
func (r *reader) keepable() int {
	if r.rich {
		return r.plan.keepable
	}
	return r.plan.hot
}

// release closes what a cgroup keeps.
func (r *reader) release(h *handle) {
	r.releaseFrom(h, 0)
	h.absent = 0
}

func (r *reader) releaseFrom(h *handle, first int) {
	for i := first; i < len(h.fds); i++ {
		if fd := h.fds[i]; fd >= 0 {
			sysClose(fd)
			r.kept--
		}
		h.fds[i] = -1
	}
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
			if r.spare(src, s, fd != nil && *fd >= 0) {
				continue
			}
			err = r.source(src, rel, fd, s)
		}
		if err == nil {
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
func (r *reader) spare(src *source, s *Sample, kept bool) bool {
	if src.same == nil || !r.was.has(src.tells[0]) || !src.same(r, s, kept) {
		return false
	}
	for _, f := range src.tells {
		if r.was.has(f) {
			s.known.add(f)
		}
	}
	r.spared++
	return true
}

func (r *reader) source(src *source, rel string, fd *int32, s *Sample) error {
	r.reads++
	var dir int32
	var path []byte
	if fd == nil || *fd < 0 {
		var err error
		if dir, path, err = r.find(src, rel); err != nil {
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

// arrive counts what will have to be opened of a cgroup.
func (r *reader) arrive(h *handle, want groupSet) {
	for i := range r.near {
		r.near[i] = nearby{dir: -1}
	}
	for i := range r.plan.sources {
		src := &r.plan.sources[i]
		if want.has(src.group) && h.absent&(1<<i) == 0 && (i >= len(h.fds) || h.fds[i] < 0) {
			r.near[src.tree].files++
		}
	}
}

func (r *reader) leave() {
	for i := range r.near {
		if r.near[i].dir >= 0 {
			sysClose(r.near[i].dir)
		}
		r.near[i] = nearby{dir: -1}
	}
}

// find gives where a file of a cgroup is opened from, and its path from there.
func (r *reader) find(src *source, rel string) (dir int32, path []byte, err error) {
	root := src.root
	if src.dir != atCwd {
		root = ""
	}
	near := &r.near[src.tree]
	if near.files < worthDir || rel == "" {
		return src.dir, r.join(root, rel, src.name), nil
	}
	if near.dir < 0 {
		if near.dir, err = sysOpenDir(src.dir, r.join(root, rel)); err != nil {
			return 0, nil, err
		}
	}
	return near.dir, r.join(src.name), nil
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
