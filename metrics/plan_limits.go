package metrics

import "strconv"

// The files that are read with the limits.

func limitsCPUV1() []source {
	return []source{
		{name: "cpu.shares", parse: single(LimitCPUShares)},
		{name: "cpu.cfs_period_us", parse: single(LimitCPUPeriod)},
		{name: "cpu.cfs_quota_us", parse: single(LimitCPUQuota)},
	}
}

func limitsCPUV2() []source {
	return []source{
		{name: "cpu.weight", parse: func(text []byte, into *Sample) error {
			weight, err := parseSingle(text)
			if err != nil {
				return err
			}
			if weight < 1 || weight > 10000 {
				return ErrGarbled
			}
			into.set(LimitCPUShares, 2+(weight-1)*262142/9999)
			return nil
		}},
		{name: "cpu.max", parse: func(text []byte, into *Sample) error {
			quota, period, err := parseMax(text)
			if err == nil {
				into.set(LimitCPUQuota, quota)
				into.set(LimitCPUPeriod, period)
			}
			return err
		}},
	}
}

func limitsMemoryV1() []source {
	return []source{
		{name: "memory.limit_in_bytes", parse: single(LimitMemory)},
		{name: "memory.memsw.limit_in_bytes", parse: single(LimitSwap)},
		{name: "memory.soft_limit_in_bytes", parse: single(LimitMemoryReservation)},
		{name: "memory.max_usage_in_bytes", parse: single(MemoryMaxUsage)},
		{name: "memory.failcnt", parse: single(MemoryFailures)},
	}
}

func limitsMemoryV2() []source {
	return []source{
		{name: "memory.max", parse: single(LimitMemory)},
		{name: "memory.swap.max", parse: single(LimitSwap)},
		{name: "memory.min", parse: single(LimitMemoryReservation)},
		{name: "memory.peak", parse: single(MemoryMaxUsage)},
	}
}

func limitsPids() []source {
	return []source{
		{name: "pids.max", parse: single(LimitThreads)},
		{name: "cgroup.procs", pages: true, after: (*reader).descriptors, parse: func(text []byte, into *Sample) error {
			n, first, err := countLines(text)
			if err == nil && countsProcesses(&into.Target) {
				into.set(Processes, n)
				into.first = int(first)
			}
			return err
		}},
	}
}

// hugePagesV1 reads, of each size, files such as hugetlb.2MB.usage_in_bytes.
func hugePagesV1(sizes []uint64) []source {
	var list []source
	for _, size := range sizes {
		name := "hugetlb." + sizeName(size)
		list = append(list, hugePagesUsed(name+".usage_in_bytes", size),
			source{name: name + ".max_usage_in_bytes", parse: func(text []byte, into *Sample) error {
				n, err := parseSingle(text)
				if h := into.pages(size); h != nil && err == nil {
					h.most, h.hasMost = n, true
				}
				return err
			}},
			source{name: name + ".failcnt", parse: func(text []byte, into *Sample) error {
				n, err := parseSingle(text)
				if h := into.pages(size); h != nil && err == nil {
					h.failures, h.hasFailures = n, true
				}
				return err
			}})
	}
	return list
}

// hugePagesV2 reads, of each size, hugetlb.2MB.current and hugetlb.2MB.events.
func hugePagesV2(sizes []uint64) []source {
	var list []source
	for _, size := range sizes {
		name := "hugetlb." + sizeName(size)
		// One number, under the name of a field that is taken out at once.
		events := newKeyed(key{"max", MemoryFailures, 1, true})
		list = append(list, hugePagesUsed(name+".current", size), source{name: name + ".events", parse: func(text []byte, into *Sample) error {
			var told figures
			err := events.parse(text, &told)
			if h := into.pages(size); h != nil && err == nil {
				h.failures, h.hasFailures = told.value[MemoryFailures], true
			}
			return err
		}})
	}
	return list
}

func hugePagesUsed(file string, size uint64) source {
	return source{name: file, parse: func(text []byte, into *Sample) error {
		n, err := parseSingle(text)
		if err == nil {
			into.HugePages = append(into.HugePages, HugePages{Size: size, Used: n})
		}
		return err
	}}
}

// pages finds what is known of a size; nil for nothing.
func (s *Sample) pages(size uint64) *HugePages {
	for i := range s.HugePages {
		if s.HugePages[i].Size == size {
			return &s.HugePages[i]
		}
	}
	return nil
}

// sizeName is as the kernel has it in the names of files: 64KB, 2MB, 1GB.
func sizeName(size uint64) string {
	switch {
	case size >= 1<<30:
		return strconv.FormatUint(size>>30, 10) + "GB"
	case size >= 1<<20:
		return strconv.FormatUint(size>>20, 10) + "MB"
	default:
		return strconv.FormatUint(size>>10, 10) + "KB"
	}
}
