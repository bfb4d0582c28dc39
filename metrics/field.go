package metrics

// A Field names one figure of a Sample. Counters grow as long as the cgroup
// lives; gauges are what was true when the file was read.
type Field uint8

// The figures that are read. "v1" and "v2" name the file each comes from on
// that cgroup version, after the kernel's Documentation/admin-guide/cgroup-v1
// and cgroup-v2.rst (Linux 6.18). The node's come from /proc where said.
const (
	// CPUUsage, counter, ns. v1 cpuacct.usage; v2 cpu.stat usage_usec.
	CPUUsage Field = iota
	// CPUUser, counter, ns. v1 cpuacct.stat (10 ms steps); v2 cpu.stat.
	CPUUser
	// CPUSystem, counter, ns. v1 cpuacct.stat (10 ms steps); v2 cpu.stat.
	CPUSystem
	// CFSPeriods, counter: enforcement periods. cpu.stat.
	CFSPeriods
	// CFSThrottledPeriods, counter: periods in which it was throttled.
	CFSThrottledPeriods
	// CFSThrottledTime, counter, ns.
	CFSThrottledTime
	// CFSBurstPeriods, counter. Linux 5.15.
	CFSBurstPeriods
	// CFSBurstTime, counter, ns. Linux 5.15.
	CFSBurstTime
	// CPURate, gauge, billionths of a core: the rate of CPUUsage over
	// Config.Window, from the ring; absent until the second sample.
	CPURate

	// MemoryUsage, gauge, bytes. v1 memory.usage_in_bytes; v2 memory.current;
	// node MemTotal-MemFree.
	MemoryUsage
	// MemoryWorkingSet, gauge, bytes: usage less inactive file pages, not
	// below 0; what eviction and kubectl top look at.
	MemoryWorkingSet
	// MemoryMaxUsage, gauge, bytes. v1 memory.max_usage_in_bytes; v2 memory.peak (Linux 5.19).
	MemoryMaxUsage
	// MemoryFailures, counter: times the limit was hit. v1 memory.failcnt only.
	MemoryFailures
	// MemoryKernel, gauge, bytes. v1 memory.kmem.usage_in_bytes; v2 memory.stat kernel (Linux 5.18).
	MemoryKernel
	// MemoryCache, gauge, bytes. v1 total_cache; v2 file; node Cached.
	MemoryCache
	// MemoryRSS, gauge, bytes of anonymous memory. v1 total_rss; v2 anon; node AnonPages.
	MemoryRSS
	// MemoryMappedFile, gauge, bytes.
	MemoryMappedFile
	// MemorySwap, gauge, bytes in swap. v1 total_swap; v2 memory.swap.current; node SwapTotal-SwapFree.
	MemorySwap
	// MemoryActiveFile, gauge, bytes.
	MemoryActiveFile
	// MemoryInactiveFile, gauge, bytes.
	MemoryInactiveFile
	// MemoryDirty, gauge, bytes of file pages to be written.
	MemoryDirty
	// MemoryWriteback, gauge, bytes of file pages being written.
	MemoryWriteback
	// PageFaults, counter, of the cgroup and those below.
	PageFaults
	// MajorPageFaults, counter, of the cgroup and those below.
	MajorPageFaults
	// PageFaultsLocal, counter, of the cgroup alone. v1 only.
	PageFaultsLocal
	// MajorPageFaultsLocal, counter, of the cgroup alone. v1 only.
	MajorPageFaultsLocal
	// PagesScanned, counter: pgscan. v2 only.
	PagesScanned
	// PagesStolen, counter: pgsteal. v2 only.
	PagesStolen
	// RefaultFile, counter: file pages read again after eviction.
	RefaultFile
	// RefaultAnon, counter: anonymous pages read again after eviction.
	RefaultAnon
	// MemoryEventsHigh, counter: throttled for memory.high. v2 only.
	MemoryEventsHigh
	// MemoryEventsMax, counter: hits of memory.max. v2 only.
	MemoryEventsMax
	// OOMKills, counter: processes killed for want of memory, over all
	// restarts of the container (all containers, for a pod) that this Meter
	// saw. v1 memory.oom_control; v2 memory.events.
	OOMKills

	// Threads, gauge. pids.current; node: /proc/loadavg.
	Threads
	// Processes, gauge: lines of cgroup.procs, of containers only.
	Processes
	// FileDescriptors, gauge: open files of the processes, of containers and
	// system containers only, by the size of /proc/PID/fd. Linux 6.2.
	FileDescriptors

	// Sockets, gauge: those among the open files, if Config.Sockets is set. Of two
	// processes that share one both count it, as cAdvisor does.
	Sockets

	// IOReadBytes, counter: the sum over devices, as the next three.
	IOReadBytes
	// IOWriteBytes, counter.
	IOWriteBytes
	// IOReads, counter: operations.
	IOReads
	// IOWrites, counter: operations.
	IOWrites

	// NetRxBytes, counter: the sum over interfaces without lo (of the node:
	// the interface of the default route), as the next seven.
	NetRxBytes
	// NetRxPackets, counter.
	NetRxPackets
	// NetRxErrors, counter.
	NetRxErrors
	// NetRxDropped, counter.
	NetRxDropped
	// NetTxBytes, counter.
	NetTxBytes
	// NetTxPackets, counter.
	NetTxPackets
	// NetTxErrors, counter.
	NetTxErrors
	// NetTxDropped, counter.
	NetTxDropped

	// CPUSomeTotal, counter, us: pressure stall, some or all tasks waited.
	// Pressure comes from v2 (also of a hybrid machine); node /proc/pressure.
	CPUSomeTotal
	// CPUSomeAvg10, gauge, hundredths of a percent; Avg60 and Avg300 alike.
	CPUSomeAvg10
	CPUSomeAvg60
	CPUSomeAvg300
	// CPUFullTotal, counter, us: all tasks waited at once.
	CPUFullTotal
	CPUFullAvg10
	CPUFullAvg60
	CPUFullAvg300
	// MemorySomeTotal and the rest: as for CPU.
	MemorySomeTotal
	MemorySomeAvg10
	MemorySomeAvg60
	MemorySomeAvg300
	MemoryFullTotal
	MemoryFullAvg10
	MemoryFullAvg60
	MemoryFullAvg300
	// IOSomeTotal and the rest: as for CPU.
	IOSomeTotal
	IOSomeAvg10
	IOSomeAvg60
	IOSomeAvg300
	IOFullTotal
	IOFullAvg10
	IOFullAvg60
	IOFullAvg300

	// LimitCPUShares, gauge. v1 cpu.shares; v2 cpu.weight as shares, by
	// cAdvisor's 2+((weight-1)*262142)/9999.
	LimitCPUShares
	// LimitCPUPeriod, gauge, us.
	LimitCPUPeriod
	// LimitCPUQuota, gauge, us per period, or Unlimited.
	LimitCPUQuota
	// LimitMemory, gauge, bytes, or at least 1<<62 for none; node MemTotal.
	LimitMemory
	// LimitSwap, gauge, bytes, as the kernel says it: v1 memory and swap
	// together, v2 swap alone; node SwapTotal.
	LimitSwap
	// LimitMemoryReservation, gauge, bytes. v1 memory.soft_limit_in_bytes; v2 memory.min.
	LimitMemoryReservation
	// LimitThreads, gauge, or Unlimited. pids.max; node: kernel.pid_max or threads-max, the smaller.
	LimitThreads
	// LimitOpenFiles, gauge: the soft limit of the first process, of containers
	// and system containers, or Unlimited. /proc/PID/limits.
	LimitOpenFiles

	numFields
)

// Unlimited is the value of a limit that is "max" or -1 in its file.
const Unlimited = ^uint64(0)

// group is what is read together and bears one time.
type group uint8

const (
	groupCPU group = iota
	groupMemory
	groupPids
	groupIO
	groupNetwork
	groupPressure
	groupLimits // and what changes little, or is dear to read
	numGroups
)

func groupOf(f Field) group {
	switch {
	case f == MemoryMaxUsage || f == MemoryFailures || f == Processes || f == FileDescriptors || f == Sockets:
		return groupLimits
	case f <= CPURate:
		return groupCPU
	case f <= OOMKills:
		return groupMemory
	case f <= Threads:
		return groupPids
	case f <= IOWrites:
		return groupIO
	case f <= NetTxDropped:
		return groupNetwork
	case f <= IOFullAvg300:
		return groupPressure
	default:
		return groupLimits
	}
}

// fieldSet is a set of fields, one bit each.
type fieldSet [2]uint64

func (s *fieldSet) add(f Field)      { s[f>>6] |= 1 << (f & 63) }
func (s *fieldSet) has(f Field) bool { return s[f>>6]&(1<<(f&63)) != 0 }

// ofGroup has, for each group, its fields.
var ofGroup = func() (sets [numGroups]fieldSet) {
	for f := Field(0); f < numFields; f++ {
		sets[groupOf(f)].add(f)
	}
	return sets
}()
