package metrics

import (
	"strconv"
	"strings"
	"time"
)

// kind of target, one bit each.
type kind uint8

const (
	kindNode kind = 1 << iota
	kindSystem
	kindPod
	kindContainer
	kindSandbox

	everyone = kindNode | kindSystem | kindPod | kindContainer | kindSandbox
	grouped  = everyone &^ kindNode
	working  = everyone &^ kindSandbox
	running  = kindContainer | kindSystem | kindSandbox
)

func (k kind) has(one kind) bool { return k&one != 0 }

func kindOf(t *Target) kind {
	switch {
	case t.Cgroup == "/":
		return kindNode
	case t.Pod == "":
		return kindSystem
	case t.Sandbox():
		return kindSandbox
	case t.Container == "":
		return kindPod
	default:
		return kindContainer
	}
}

// family is a metric family. Either each is called for each view of who, or
// whole once.
type family struct {
	name, help string
	counter    bool
	unit       unit
	who        kind
	each       func(x *exposer)
	whole      func(x *exposer)
	head       []byte // of the text format
	openHead   []byte // of OpenMetrics
}

// value exposes one field.
func value(f Field) func(*exposer) {
	return func(x *exposer) {
		if n, ok := x.v.sample.Get(f); ok {
			x.put(n, x.v.sample.Time(f))
		}
	}
}

// withQuota exposes one field of those that have a CPU quota.
func withQuota(f Field) func(*exposer) {
	each := value(f)
	return func(x *exposer) {
		if quota, ok := x.v.sample.Get(LimitCPUQuota); ok && quota != Unlimited {
			each(x)
		}
	}
}

// memoryLimit exposes a limit as cAdvisor does: 0 for none.
func memoryLimit(f Field) func(*exposer) {
	return func(x *exposer) {
		n, ok := x.v.sample.Get(f)
		if !ok {
			return
		}
		if n > 1<<62 {
			n = 0
		}
		x.put(n, x.v.sample.Time(f))
	}
}

// perDevice exposes what get tells of each block device for key.
func perDevice[K Op | Cost](get func(*Device, K) (uint64, bool), key K) func(*exposer) {
	return func(x *exposer) {
		for i := range x.v.sample.Devices {
			d := &x.v.sample.Devices[i]
			if n, ok := get(d, key); ok {
				x.with("device", d.Name)
				x.put(n, x.v.sample.at[groupIO])
			}
		}
	}
}

func deviceUsage(x *exposer) {
	for i := range x.v.sample.Devices {
		d := &x.v.sample.Devices[i]
		for op := range numOps {
			n, ok := d.Bytes(op)
			if !ok {
				continue
			}
			x.with("device", d.Name)
			x.with("major", number(d.Major))
			x.with("minor", number(d.Minor))
			x.with("operation", op.String())
			x.put(n, x.v.sample.at[groupIO])
		}
	}
}

// number is strconv.Itoa without allocation for the numbers that devices have.
func number(n uint32) string {
	if int(n) < len(numbers) {
		return numbers[n]
	}
	return strconv.FormatUint(uint64(n), 10)
}

var numbers = func() (s [512]string) {
	for i := range s {
		s[i] = strconv.Itoa(i)
	}
	return s
}()

func network(get func(*Interface) uint64) func(*exposer) {
	return func(x *exposer) {
		if !x.v.sample.known.has(NetRxBytes) && len(x.v.sample.Interfaces) == 0 {
			return
		}
		for i := range x.v.sample.Interfaces {
			n := &x.v.sample.Interfaces[i]
			x.with("interface", n.Name)
			x.put(get(n), x.v.sample.at[groupNetwork])
		}
	}
}

func faults(x *exposer) {
	s := &x.v.sample
	for _, one := range [...]struct {
		kind, scope string
		field, or   Field
	}{
		{"pgfault", "container", PageFaultsLocal, PageFaults},
		{"pgmajfault", "container", MajorPageFaultsLocal, MajorPageFaults},
		{"pgfault", "hierarchy", PageFaults, PageFaults},
		{"pgmajfault", "hierarchy", MajorPageFaults, MajorPageFaults},
	} {
		n, ok := s.Get(one.field)
		if !ok {
			n, ok = s.Get(one.or)
		}
		if ok {
			x.with("failure_type", one.kind)
			x.with("scope", one.scope)
			x.put(n, s.at[groupMemory])
		}
	}
}

func threadsMax(x *exposer) {
	if n, ok := x.v.sample.Get(LimitThreads); ok {
		if n == Unlimited {
			n = 0
		}
		x.put(n, x.v.sample.at[groupLimits])
	}
}

// openFilesLimit leaves out a limit of none: a series says -1 then, which the
// unsigned figures here do not have.
func openFilesLimit(x *exposer) {
	if n, ok := x.v.sample.Get(LimitOpenFiles); ok && n != Unlimited {
		x.with("ulimit", "max_open_files")
		x.put(n, x.v.sample.at[groupLimits])
	}
}

// used exposes the node's file systems, and what containers have written.
func used(x *exposer) {
	if w := &x.v.sample.Written; !w.At.IsZero() {
		x.with("device", w.Device)
		x.put(w.Bytes, w.At)
	}
	filesystem(func(f *Filesystem) uint64 { return f.Used })(x)
}

func filesystem(get func(*Filesystem) uint64) func(*exposer) {
	return func(x *exposer) {
		for i := range x.v.sample.Filesystems {
			f := &x.v.sample.Filesystems[i]
			x.with("device", f.Device)
			x.put(get(f), x.v.sample.at[groupLimits])
		}
	}
}

// hugePages exposes a figure of each size of pages that the node has or the
// cgroup uses; cAdvisor has zeros for the others.
func hugePages(get func(*HugePages) (uint64, bool)) func(*exposer) {
	return func(x *exposer) {
		for i := range x.v.sample.HugePages {
			p := &x.v.sample.HugePages[i]
			of := x.views[0].sample.pages(p.Size)
			if n, ok := get(p); ok && (p.Used > 0 || of != nil && of.Total > 0) {
				x.with("pagesize", sizeName(p.Size))
				x.put(n, x.v.sample.at[groupLimits])
			}
		}
	}
}

func startTime(x *exposer) {
	if t := x.v.sample.Target.StartedAt; t.Unix() > 0 {
		x.put(uint64(t.Unix()), time.Time{})
	}
}

// cadvisorFamilies are those of cAdvisor v0.60.5 metrics/prometheus.go with
// the kubelet's settings, with its help texts' meaning, sorted by what they
// are about.
var cadvisorFamilies = heads([]family{
	{name: "container_cpu_usage_seconds_total", help: "Cumulative cpu time consumed in seconds.", counter: true, unit: nanos, who: everyone, each: func(x *exposer) {
		if n, ok := x.v.sample.Get(CPUUsage); ok {
			x.with("cpu", "total")
			x.put(n, x.v.sample.at[groupCPU])
		}
	}},
	{name: "container_cpu_user_seconds_total", help: "Cumulative user cpu time consumed in seconds.", counter: true, unit: nanos, who: everyone, each: value(CPUUser)},
	{name: "container_cpu_system_seconds_total", help: "Cumulative system cpu time consumed in seconds.", counter: true, unit: nanos, who: everyone, each: value(CPUSystem)},
	{name: "container_cpu_cfs_periods_total", help: "Number of elapsed enforcement period intervals.", counter: true, who: grouped, each: withQuota(CFSPeriods)},
	{name: "container_cpu_cfs_throttled_periods_total", help: "Number of throttled period intervals.", counter: true, who: grouped, each: withQuota(CFSThrottledPeriods)},
	{name: "container_cpu_cfs_throttled_seconds_total", help: "Total time duration the container has been throttled.", counter: true, unit: nanos, who: grouped, each: withQuota(CFSThrottledTime)},
	{name: "container_cpu_cfs_burst_periods_total", help: "Number of periods when burst occurs.", counter: true, who: grouped, each: withQuota(CFSBurstPeriods)},
	{name: "container_cpu_cfs_burst_seconds_total", help: "Total time duration the container has been bursted.", counter: true, unit: nanos, who: grouped, each: withQuota(CFSBurstTime)},

	{name: "container_memory_usage_bytes", help: "Current memory usage in bytes, including all memory regardless of when it was accessed", who: everyone, each: value(MemoryUsage)},
	{name: "container_memory_working_set_bytes", help: "Current working set in bytes.", who: everyone, each: value(MemoryWorkingSet)},
	{name: "container_memory_rss", help: "Size of RSS in bytes.", who: everyone, each: value(MemoryRSS)},
	{name: "container_memory_cache", help: "Number of bytes of page cache memory.", who: everyone, each: value(MemoryCache)},
	{name: "container_memory_mapped_file", help: "Size of memory mapped files in bytes.", who: everyone, each: value(MemoryMappedFile)},
	{name: "container_memory_swap", help: "Container swap usage in bytes.", who: everyone, each: value(MemorySwap)},
	{name: "container_memory_max_usage_bytes", help: "Maximum memory usage recorded in bytes", who: grouped, each: value(MemoryMaxUsage)},
	{name: "container_memory_kernel_usage", help: "Size of kernel memory allocated in bytes.", who: grouped, each: value(MemoryKernel)},
	{name: "container_memory_total_active_file_bytes", help: "Current total active file in bytes.", who: everyone, each: value(MemoryActiveFile)},
	{name: "container_memory_total_inactive_file_bytes", help: "Current total inactive file in bytes.", who: everyone, each: value(MemoryInactiveFile)},
	{name: "container_memory_file_dirty_bytes", help: "Number of bytes of file cache that has been modified but not yet written back to disk.", who: everyone, each: value(MemoryDirty)},
	{name: "container_memory_file_writeback_bytes", help: "Number of bytes of file cache that is currently being written back to disk.", who: everyone, each: value(MemoryWriteback)},
	{name: "container_memory_failcnt", help: "Number of memory usage hits limits", counter: true, who: grouped, each: value(MemoryFailures)},
	{name: "container_memory_failures_total", help: "Cumulative count of memory allocation failures.", counter: true, who: grouped, each: faults},
	{name: "container_memory_events_high_total", help: "Cumulative count of memory.high throttle events for the container", counter: true, who: grouped, each: value(MemoryEventsHigh)},
	{name: "container_memory_events_max_total", help: "Cumulative count of memory.max limit hit events for the container", counter: true, who: grouped, each: value(MemoryEventsMax)},
	{name: "container_memory_pgscan_total", help: "Cumulative number of pages scanned by the page reclaim algorithm.", counter: true, who: grouped, each: value(PagesScanned)},
	{name: "container_memory_pgsteal_total", help: "Cumulative number of pages reclaimed by the page reclaim algorithm.", counter: true, who: grouped, each: value(PagesStolen)},
	{name: "container_memory_workingset_refault_file_total", help: "Cumulative number of refaults of previously evicted file pages.", counter: true, who: grouped, each: value(RefaultFile)},
	{name: "container_memory_workingset_refault_anon_total", help: "Cumulative number of refaults of previously evicted anonymous pages.", counter: true, who: grouped, each: value(RefaultAnon)},
	{name: "container_oom_events_total", help: "Count of out of memory events observed for the container", counter: true, who: grouped, each: value(OOMKills)},

	{name: "container_hugetlb_usage_bytes", help: "Current hugepage usage in bytes", who: grouped, each: hugePages(func(p *HugePages) (uint64, bool) { return p.Used, true })},
	{name: "container_hugetlb_max_usage_bytes", help: "Maximum hugepage usage recorded in bytes", who: grouped, each: hugePages((*HugePages).Most)},
	{name: "container_hugetlb_failcnt", help: "Number of hugepage usage hits limits", counter: true, who: grouped, each: hugePages((*HugePages).Failures)},

	{name: "container_fs_reads_bytes_total", help: "Cumulative count of bytes read", counter: true, who: everyone, each: perDevice((*Device).Bytes, OpRead)},
	{name: "container_fs_writes_bytes_total", help: "Cumulative count of bytes written", counter: true, who: everyone, each: perDevice((*Device).Bytes, OpWrite)},
	{name: "container_fs_reads_total", help: "Cumulative count of reads completed", counter: true, who: everyone, each: perDevice((*Device).Count, OpRead)},
	{name: "container_fs_writes_total", help: "Cumulative count of writes completed", counter: true, who: everyone, each: perDevice((*Device).Count, OpWrite)},
	{name: "container_blkio_device_usage_total", help: "Blkio Device bytes usage", counter: true, who: everyone, each: deviceUsage},

	{name: "container_fs_io_cost_usage_seconds_total", help: "Cumulative IOCost usage in seconds", counter: true, unit: micros, who: grouped, each: perDevice((*Device).Cost, CostUsage)},
	{name: "container_fs_io_cost_wait_seconds_total", help: "Cumulative IOCost wait in seconds", counter: true, unit: micros, who: grouped, each: perDevice((*Device).Cost, CostWait)},
	{name: "container_fs_io_cost_indebt_seconds_total", help: "Cumulative IOCost debt in seconds", counter: true, unit: micros, who: grouped, each: perDevice((*Device).Cost, CostInDebt)},
	{name: "container_fs_io_cost_indelay_seconds_total", help: "Cumulative IOCost delay in seconds", counter: true, unit: micros, who: grouped, each: perDevice((*Device).Cost, CostInDelay)},

	{name: "container_fs_usage_bytes", help: "Number of bytes that are consumed by the container on this filesystem.", who: kindNode | kindContainer, each: used},
	{name: "container_fs_limit_bytes", help: "Number of bytes that can be consumed by the container on this filesystem.", who: kindNode, each: filesystem(func(f *Filesystem) uint64 { return f.Capacity })},
	{name: "container_fs_inodes_free", help: "Number of available Inodes", who: kindNode, each: filesystem(func(f *Filesystem) uint64 { return f.InodesFree })},
	{name: "container_fs_inodes_total", help: "Number of Inodes", who: kindNode, each: filesystem(func(f *Filesystem) uint64 { return f.Inodes })},

	{name: "container_network_receive_bytes_total", help: "Cumulative count of bytes received", counter: true, who: everyone, each: network(func(n *Interface) uint64 { return n.RxBytes })},
	{name: "container_network_receive_packets_total", help: "Cumulative count of packets received", counter: true, who: everyone, each: network(func(n *Interface) uint64 { return n.RxPackets })},
	{name: "container_network_receive_packets_dropped_total", help: "Cumulative count of packets dropped while receiving", counter: true, who: everyone, each: network(func(n *Interface) uint64 { return n.RxDropped })},
	{name: "container_network_receive_errors_total", help: "Cumulative count of errors encountered while receiving", counter: true, who: everyone, each: network(func(n *Interface) uint64 { return n.RxErrors })},
	{name: "container_network_transmit_bytes_total", help: "Cumulative count of bytes transmitted", counter: true, who: everyone, each: network(func(n *Interface) uint64 { return n.TxBytes })},
	{name: "container_network_transmit_packets_total", help: "Cumulative count of packets transmitted", counter: true, who: everyone, each: network(func(n *Interface) uint64 { return n.TxPackets })},
	{name: "container_network_transmit_packets_dropped_total", help: "Cumulative count of packets dropped while transmitting", counter: true, who: everyone, each: network(func(n *Interface) uint64 { return n.TxDropped })},
	{name: "container_network_transmit_errors_total", help: "Cumulative count of errors encountered while transmitting", counter: true, who: everyone, each: network(func(n *Interface) uint64 { return n.TxErrors })},

	{name: "container_processes", help: "Number of processes running inside the container.", who: running, each: value(Processes)},
	{name: "container_file_descriptors", help: "Number of open file descriptors for the container.", who: running, each: value(FileDescriptors)},
	{name: "container_sockets", help: "Number of open sockets for the container.", who: running, each: value(Sockets)},
	{name: "container_ulimits_soft", help: "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice", who: running, each: openFilesLimit},
	{name: "container_threads", help: "Number of threads running inside the container", who: everyone, each: value(Threads)},
	{name: "container_threads_max", help: "Maximum number of threads allowed inside the container, infinity if value is zero", who: everyone, each: threadsMax},

	{name: "container_pressure_cpu_stalled_seconds_total", help: "Total time duration no tasks in the container could make progress due to CPU congestion.", counter: true, unit: micros, who: working, each: value(CPUFullTotal)},
	{name: "container_pressure_cpu_waiting_seconds_total", help: "Total time duration tasks in the container have waited due to CPU congestion.", counter: true, unit: micros, who: working, each: value(CPUSomeTotal)},
	{name: "container_pressure_memory_stalled_seconds_total", help: "Total time duration no tasks in the container could make progress due to memory congestion.", counter: true, unit: micros, who: working, each: value(MemoryFullTotal)},
	{name: "container_pressure_memory_waiting_seconds_total", help: "Total time duration tasks in the container have waited due to memory congestion.", counter: true, unit: micros, who: working, each: value(MemorySomeTotal)},
	{name: "container_pressure_io_stalled_seconds_total", help: "Total time duration no tasks in the container could make progress due to IO congestion.", counter: true, unit: micros, who: working, each: value(IOFullTotal)},
	{name: "container_pressure_io_waiting_seconds_total", help: "Total time duration tasks in the container have waited due to IO congestion.", counter: true, unit: micros, who: working, each: value(IOSomeTotal)},

	{name: "container_spec_cpu_period", help: "CPU period of the container.", who: grouped, each: value(LimitCPUPeriod)},
	{name: "container_spec_cpu_quota", help: "CPU quota of the container.", who: grouped, each: withQuota(LimitCPUQuota)},
	{name: "container_spec_cpu_shares", help: "CPU share of the container.", who: grouped, each: value(LimitCPUShares)},
	{name: "container_spec_memory_limit_bytes", help: "Memory limit for the container.", who: everyone, each: memoryLimit(LimitMemory)},
	{name: "container_spec_memory_swap_limit_bytes", help: "Memory swap limit for the container.", who: everyone, each: memoryLimit(LimitSwap)},
	{name: "container_spec_memory_reservation_limit_bytes", help: "Memory reservation limit for the container.", who: grouped, each: memoryLimit(LimitMemoryReservation)},
	{name: "container_start_time_seconds", help: "Start time of the container since unix epoch in seconds.", who: everyone, each: startTime},
	{name: "container_last_seen", help: "Last time a container was seen by the exporter", who: everyone, each: func(x *exposer) {
		if x.list == fullLabels {
			x.put(uint64(x.now.Unix()), time.Time{})
		}
	}},
	{name: "container_scrape_error", help: "1 if there was an error while getting container metrics, 0 otherwise", whole: noError},
})

// noError is exposed by each scrape that succeeds; one that does not has an
// error in place of text.
func noError(x *exposer) {
	x.list = noLabels
	x.put(0, time.Time{})
}

// heads renders the headings. OpenMetrics has the name of a counter without
// _total, and knows no counter without it.
func heads(families []family) []family {
	head := func(name, help, typ string) []byte {
		return []byte("# HELP " + name + " " + help + "\n# TYPE " + name + " " + typ + "\n")
	}
	for i := range families {
		f := &families[i]
		typ, openType, openName := "gauge", "gauge", f.name
		if f.counter {
			var total bool
			typ, openType = "counter", "counter"
			if openName, total = strings.CutSuffix(f.name, "_total"); !total {
				openType = "unknown"
			}
		}
		f.head, f.openHead = head(f.name, f.help, typ), head(openName, f.help, openType)
	}
	return families
}
