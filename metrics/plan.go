package metrics

import "slices"

// source is a file of a cgroup and what to do with its text.
type source struct {
	name     string
	group    group
	root     string // of the hierarchy
	tree     int    // its number, of those of the plan
	dir      int32  // the root kept open, or atCwd
	hot      bool   // its descriptor is the first to be kept
	required bool   // the group means nothing without it
	pages    bool   // the kernel gives it page by page: read until the end
	parse    func(text []byte, into *Sample) error
	// after does what takes more reading, or is nil. An error of its makes a
	// gap, and leaves what parse has set.
	after func(r *reader, text []byte, into *Sample) error
	// same says that the file would tell what it told last, so that it need not
	// be read; nil for a file that may always have changed. kept tells that its
	// descriptor is open, so that it is of the same cgroup as then.
	same func(r *reader, s *Sample, kept bool) bool
	// sum says that the cgroup above has the sum of this file and of those beside
	// it: it need not be read while that one tells what it told last.
	sum sum
	// tells are the figures of a file that has same or sum; the first is always
	// told.
	tells []Field
}

// plan is what is read of each cgroup on a layout. Its parsers learn, so it
// belongs to one reader.
type plan struct {
	sources  []source          // hot ones first, then those that may be kept open, then the rest
	missing  [numGroups]string // the controller that no hierarchy has
	hot      int               // sources[:hot] are hot
	keepable int               // sources[:keepable] may be kept open
	summing  int               // the tree of those with a sum, -1 for none
}

// maxKept is the most descriptors that one cgroup keeps.
const maxKept = 20

// rank orders the sources. Limits are read too seldom to keep. A file that
// comes in pages is not kept because v1 answers from a list of up to a second
// ago if cgroup.procs is read again without being opened.
func (s *source) rank() int {
	switch {
	case s.hot:
		return 0
	case s.group != groupLimits && !s.pages:
		return 1
	default:
		return 2
	}
}

func single(f Field) func([]byte, *Sample) error {
	return func(text []byte, into *Sample) error {
		n, err := parseSingle(text)
		if err == nil {
			into.set(f, n)
		}
		return err
	}
}

func pressure(first Field) func([]byte, *Sample) error {
	return func(text []byte, into *Sample) error {
		return parsePressure(text, first, &into.figures)
	}
}

func lines(k *keyed) func([]byte, *Sample) error {
	return func(text []byte, into *Sample) error { return k.parse(text, &into.figures) }
}

// makePlan lists the sources for l on a machine with huge pages of these sizes.
func makePlan(l layout, pages []uint64) *plan {
	p := &plan{summing: -1}
	for _, part := range []struct {
		controller controller
		group      group
		name       string
		v1, v2     []source
	}{
		{controllerCPUAcct, groupCPU, "cpuacct", cpuacctV1(), cpuV2()},
		{controllerCPU, groupCPU, "cpu", cpuV1(), nil},
		{controllerMemory, groupMemory, "memory", memoryV1(), memoryV2()},
		{controllerPids, groupPids, "pids", pidsBoth(), pidsBoth()},
		{controllerIO, groupIO, "io", ioV1(), ioV2()},
		{controllerPressure, groupPressure, "pressure", nil, pressureV2()},
		{controllerCPU, groupLimits, "cpu", limitsCPUV1(), limitsCPUV2()},
		{controllerMemory, groupLimits, "memory", limitsMemoryV1(), limitsMemoryV2()},
		{controllerPids, groupLimits, "pids", limitsPids(), limitsPids()},
		{controllerHugetlb, groupLimits, "", hugePagesV1(pages), hugePagesV2(pages)},
	} {
		at := l[part.controller]
		list := part.v1
		switch at.version {
		case 0:
			if part.name != "" { // few machines want the others
				p.missing[part.group] = part.name
			}
			continue
		case 2:
			list = part.v2
		}
		for _, s := range list {
			s.group, s.root, s.dir = part.group, at.root, atCwd
			p.sources = append(p.sources, s)
		}
	}
	var trees []string
	for i := range p.sources {
		s := &p.sources[i]
		if s.tree = slices.Index(trees, s.root); s.tree < 0 {
			s.tree = len(trees)
			trees = append(trees, s.root)
		}
		if s.sum != noSum {
			p.summing = s.tree
		}
	}
	slices.SortStableFunc(p.sources, func(a, b source) int { return a.rank() - b.rank() })
	for i := range p.sources {
		switch rank := p.sources[i].rank(); {
		case i >= maxKept:
		case rank == 0:
			p.hot, p.keepable = i+1, i+1
		case rank == 1:
			p.keepable = i + 1
		}
	}
	return p
}

func cpuacctV1() []source {
	const tick = 1e9 / 100 // USER_HZ is 100 on all of Linux
	return []source{
		{name: "cpuacct.usage", hot: true, required: true, parse: single(CPUUsage)},
		{name: "cpuacct.stat", same: usageIsSame, tells: []Field{CPUUser, CPUSystem}, parse: lines(newKeyed(
			key{"user", CPUUser, tick, true}, key{"system", CPUSystem, tick, true}))},
	}
}

// usageIsSame: user and system time are parts of the usage, and what has not
// grown has no part that did. The usage was read before them, the last time too.
func usageIsSame(r *reader, s *Sample, _ bool) bool {
	return r.was.has(CPUUsage) && s.known.has(CPUUsage) && s.value[CPUUsage] == r.wasUsage
}

// nothingThrottles: without a quota no period is counted
// (do_sched_cfs_period_timer of kernel/sched/fair.c, Linux 6.18). Quotas are
// read with the limits, and then this file is too.
func nothingThrottles(r *reader, s *Sample, kept bool) bool {
	quota, known := s.Get(LimitCPUQuota)
	return known && quota == Unlimited && (kept || usageIsSame(r, s, kept))
}

func cpuV1() []source {
	return []source{{name: "cpu.stat", same: nothingThrottles,
		tells: []Field{CFSPeriods, CFSThrottledPeriods, CFSThrottledTime, CFSBurstPeriods, CFSBurstTime}, parse: lines(newKeyed(
			key{"nr_periods", CFSPeriods, 1, true},
			key{"nr_throttled", CFSThrottledPeriods, 1, true},
			key{"throttled_time", CFSThrottledTime, 1, true},
			key{"nr_bursts", CFSBurstPeriods, 1, false},
			key{"burst_time", CFSBurstTime, 1, false}))}}
}

func cpuV2() []source {
	return []source{{name: "cpu.stat", hot: true, required: true, parse: lines(newKeyed(
		key{"usage_usec", CPUUsage, 1000, true},
		key{"user_usec", CPUUser, 1000, true},
		key{"system_usec", CPUSystem, 1000, true},
		key{"nr_periods", CFSPeriods, 1, false},
		key{"nr_throttled", CFSThrottledPeriods, 1, false},
		key{"throttled_usec", CFSThrottledTime, 1000, false},
		key{"nr_bursts", CFSBurstPeriods, 1, false},
		key{"burst_usec", CFSBurstTime, 1000, false}))}}
}

func memoryV1() []source {
	return []source{
		{name: "memory.usage_in_bytes", hot: true, required: true, parse: single(MemoryUsage)},
		{name: "memory.stat", hot: true, required: true, parse: lines(newKeyed(
			key{"total_cache", MemoryCache, 1, true},
			key{"total_rss", MemoryRSS, 1, true},
			key{"total_mapped_file", MemoryMappedFile, 1, true},
			key{"total_dirty", MemoryDirty, 1, false},
			key{"total_writeback", MemoryWriteback, 1, false},
			key{"total_swap", MemorySwap, 1, false},
			key{"total_active_file", MemoryActiveFile, 1, true},
			key{"total_inactive_file", MemoryInactiveFile, 1, true},
			key{"total_pgfault", PageFaults, 1, true},
			key{"total_pgmajfault", MajorPageFaults, 1, true},
			key{"pgfault", PageFaultsLocal, 1, true},
			key{"pgmajfault", MajorPageFaultsLocal, 1, true},
			key{"total_workingset_refault_file", RefaultFile, 1, false},
			key{"total_workingset_refault_anon", RefaultAnon, 1, false}))},
		{name: "memory.kmem.usage_in_bytes", parse: single(MemoryKernel)},
		{name: "memory.oom_control", parse: lines(newKeyed(key{"oom_kill", OOMKills, 1, true}))},
	}
}

func memoryV2() []source {
	return []source{
		{name: "memory.current", hot: true, required: true, parse: single(MemoryUsage)},
		{name: "memory.stat", hot: true, required: true, parse: lines(newKeyed(
			key{"anon", MemoryRSS, 1, true},
			key{"file", MemoryCache, 1, true},
			key{"kernel", MemoryKernel, 1, false},
			key{"file_mapped", MemoryMappedFile, 1, true},
			key{"file_dirty", MemoryDirty, 1, true},
			key{"file_writeback", MemoryWriteback, 1, true},
			key{"active_file", MemoryActiveFile, 1, true},
			key{"inactive_file", MemoryInactiveFile, 1, true},
			key{"pgfault", PageFaults, 1, true},
			key{"pgmajfault", MajorPageFaults, 1, true},
			key{"pgscan", PagesScanned, 1, false},
			key{"pgsteal", PagesStolen, 1, false},
			key{"workingset_refault_file", RefaultFile, 1, false},
			key{"workingset_refault_anon", RefaultAnon, 1, false}))},
		{name: "memory.events", sum: eventsSum, tells: []Field{OOMKills, MemoryEventsHigh, MemoryEventsMax}, parse: lines(newKeyed(
			key{"high", MemoryEventsHigh, 1, true},
			key{"max", MemoryEventsMax, 1, true},
			key{"oom_kill", OOMKills, 1, true}))},
		{name: "memory.swap.current", same: nothingSwaps, tells: []Field{MemorySwap}, parse: single(MemorySwap)},
	}
}

// nothingSwaps: of a machine without swap, as the node's memory told in this
// round, nothing is there.
func nothingSwaps(r *reader, s *Sample, _ bool) bool { return r.noSwap && s.value[MemorySwap] == 0 }

func pidsBoth() []source {
	return []source{{name: "pids.current", required: true, parse: single(Threads)}}
}

// ioV1 reads the operations first: whatever adds bytes adds an operation too
// (blk_should_throtl of block/blk-throttle.h, Linux 6.18), so where no count has
// changed, no byte has moved. The contrary is not true. The counts are sums over
// the cgroups below, and those of one that was removed are missing: another in
// its place might have made up for it, but not without CPU time.
func ioV1() []source {
	var counted []Device
	return []source{
		{name: "blkio.throttle.io_serviced_recursive", required: true, parse: func(text []byte, into *Sample) (err error) {
			if counted, err = parseBlkio(text, counted[:0], true); err != nil {
				return err
			}
			if into.steady = sameCounts(counted, into.Devices); !into.steady {
				into.Devices = append(into.Devices[:0], counted...)
			}
			sumIO(into.Devices, true, &into.figures)
			return nil
		}},
		{name: "blkio.throttle.io_service_bytes_recursive", required: true, tells: []Field{IOReadBytes, IOWriteBytes},
			same: func(_ *reader, s *Sample, kept bool) bool {
				return kept && s.steady && s.known.has(CPUUsage) && s.value[CPUUsage] == s.usageAtIO
			},
			parse: func(text []byte, into *Sample) (err error) {
				for i := range into.Devices {
					into.Devices[i].hasBytes = 0
				}
				into.Devices, err = parseBlkio(text, into.Devices, false)
				if err == nil {
					sumIO(into.Devices, false, &into.figures)
				}
				into.usageAtIO = into.value[CPUUsage]
				return err
			}},
	}
}

func ioV2() []source {
	return []source{{name: "io.stat", required: true, sum: ioSum, tells: []Field{IOReadBytes, IOWriteBytes, IOReads, IOWrites}, parse: func(text []byte, into *Sample) (err error) {
		into.Devices, err = parseIOStat(text, into.Devices[:0])
		if err == nil {
			sumIO(into.Devices, false, &into.figures)
			sumIO(into.Devices, true, &into.figures)
		}
		return err
	}}}
}

func pressureV2() []source {
	return []source{
		{name: "cpu.pressure", parse: pressure(CPUSomeTotal)},
		{name: "memory.pressure", parse: pressure(MemorySomeTotal)},
		{name: "io.pressure", parse: pressure(IOSomeTotal)},
	}
}
