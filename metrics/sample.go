package metrics

import "time"

// A Target is a cgroup to meter and what to call it. The caller knows both;
// the meter guesses neither. Its key is Cgroup: figures and history stay when
// any other field but ID changes, so that labels may come later.
type Target struct {
	// Cgroup is the path below the root of each hierarchy, such as
	// /kubepods/burstable/pod<uid>/<id>. Required; "/" is the node itself,
	// which is always metered and must not be listed.
	Cgroup string
	// Namespace, Pod and PodUID are empty for a cgroup that is of no pod.
	Namespace, Pod, PodUID string
	// Container is empty for the pod's own cgroup, and for that of its sandbox,
	// where a pause process sleeps. With no Pod it names a system container, such
	// as "kubelet" or "runtime".
	Container string
	// ID is the runtime's identifier without scheme, of a container or a
	// sandbox; empty for a pod, which alone tells it from its sandbox.
	ID string
	// Image and ImageID are the container's, empty for a pod.
	Image, ImageID string
	// PID is a process of a pod's target whose network is the pod's; 0 for
	// none. It must run in the cgroup of the target or below.
	PID int
	// HostNetwork says that the pod has no network of its own to meter.
	HostNetwork bool
	// StartedAt is the start of the container or pod; zero for unknown.
	StartedAt time.Time
}

// Sandbox says that the target is the cgroup of a pod's sandbox. Only Compat
// exposes it, without its pressure, as cAdvisor does a pause container.
func (t *Target) Sandbox() bool { return t.Pod != "" && t.Container == "" && t.ID != "" }

// A Sample is what is known of one target. A figure that could not be read is
// absent, never zero and never the one before. Time tells when each was read.
type Sample struct {
	Target Target
	// Gone says that the cgroup is no more and this is its last sample, or
	// that it is not there yet and the sample is empty.
	Gone bool
	// Devices are the block devices that the kernel has figures of, in its order.
	Devices []Device
	// Interfaces are the network interfaces of a pod or the node, without lo
	// and host ends of containers, in the kernel's order.
	Interfaces []Interface
	// HugePages are the sizes of huge pages that the machine has: of a target
	// what it uses, of the node what there are. Read as often as limits.
	HugePages []HugePages
	// Filesystems are those on block devices, of the node alone, each device
	// once, in the order of their mounts. Read as often as limits.
	Filesystems []Filesystem
	// Written is what Config.OnDisk tells of a container's writable layer, or of
	// a pod's own files, such as those of its emptyDirs; Logs is of its logs.
	// Asked for as often as limits.
	Written, Logs DiskUse
	// DefaultInterface is the one of the node's default route; empty for
	// targets, and for a node without one.
	DefaultInterface string
	// Gaps tell what could not be read in the last round and why.
	Gaps []Gap

	figures
	swapWithMemory bool // LimitSwap is of memory and swap together
	first          int  // process in the cgroup, 0 for none
	// Of disks on v1: no operation was counted since they were read before, and
	// the CPUUsage when their bytes were read.
	steady    bool
	usageAtIO uint64
}

// figures are the values by field, which of them are known, and since when.
type figures struct {
	value [numFields]uint64
	known fieldSet
	at    [numGroups]time.Time
}

// Get returns a figure, and whether it is known.
func (f *figures) Get(field Field) (uint64, bool) {
	if field >= numFields || !f.known.has(field) {
		return 0, false
	}
	return f.value[field], true
}

// Time is when the file of the field was read; zero if it never was.
func (f *figures) Time(field Field) time.Time {
	if field >= numFields {
		return time.Time{}
	}
	return f.at[groupOf(field)]
}

func (f *figures) set(field Field, v uint64) {
	f.value[field] = v
	f.known.add(field)
}

func (f *figures) forget(g group) {
	for i := range f.known {
		f.known[i] &^= ofGroup[g][i]
	}
}

// A Gap is a file that gave no figures.
type Gap struct {
	// File is the name of the file, such as memory.stat, or the controller.
	File string
	// Err is one of this package's errors or an errno.
	Err error

	group group
}

// Op is a kind of block I/O.
type Op uint8

// The kinds of block I/O. Sync, async and total are told by v1 alone.
const (
	OpRead Op = iota
	OpWrite
	OpDiscard
	OpSync
	OpAsync
	OpTotal
	numOps
)

// String is the name as cAdvisor's operation label has it.
func (o Op) String() string {
	return [...]string{"Read", "Write", "Discard", "Sync", "Async", "Total"}[o]
}

// Device is the I/O of one block device, as counters.
type Device struct {
	Major, Minor uint32
	// Name is such as /dev/vda, or empty for a device that /proc/diskstats
	// does not list.
	Name string

	bytes, count                [numOps]uint64
	cost                        [numCosts]uint64
	hasBytes, hasCount, hasCost uint8
}

// Cost is a part of what io.cost charges for.
type Cost uint8

// The parts of io.stat's cost.usage, cost.wait, cost.indebt and cost.indelay.
const (
	CostUsage Cost = iota
	CostWait
	CostInDebt
	CostInDelay
	numCosts
)

// Bytes returns the bytes moved, and whether the kernel tells them.
func (d *Device) Bytes(op Op) (uint64, bool) {
	return d.bytes[op], d.hasBytes&(1<<op) != 0
}

// Count returns the operations done, and whether the kernel tells them.
func (d *Device) Count(op Op) (uint64, bool) {
	return d.count[op], d.hasCount&(1<<op) != 0
}

// Cost returns a time in us, and whether the kernel tells it: v2 alone, of
// devices that io.cost.qos enables, all but CostUsage with blkcg_debug_stats.
func (d *Device) Cost(part Cost) (uint64, bool) {
	return d.cost[part], d.hasCost&(1<<part) != 0
}

// Interface is the traffic of one network interface, as counters.
type Interface struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// HugePages are the huge pages of one size.
type HugePages struct {
	// Size of a page, in bytes.
	Size uint64
	// Used bytes; of a target by it and those below, v1
	// hugetlb.SIZE.usage_in_bytes, v2 hugetlb.SIZE.current (Linux 5.6).
	Used uint64
	// Total bytes, of the node alone.
	Total uint64

	most, failures       uint64
	hasMost, hasFailures bool
}

// Most returns the most bytes that a target used at a time, and whether the
// kernel tells: v1 hugetlb.SIZE.max_usage_in_bytes, v2 nothing.
func (h *HugePages) Most() (uint64, bool) { return h.most, h.hasMost }

// Failures returns how often the limit of a target refused pages, and whether
// the kernel tells: v1 hugetlb.SIZE.failcnt, v2 hugetlb.SIZE.events max.
func (h *HugePages) Failures() (uint64, bool) { return h.failures, h.hasFailures }

// DiskUse is what somebody has on disk, as whoever counts it tells.
type DiskUse struct {
	// Device is that of its file system, such as /dev/vda1; empty for not known.
	Device        string
	Bytes, Inodes uint64
	// At is when it was counted; zero says that it was not.
	At time.Time
}

// Filesystem is one on a block device, after statfs(2).
type Filesystem struct {
	// Device is such as /dev/vda1, Path where it is mounted.
	Device, Path string
	// Capacity and Available (to who is not root), in bytes. Used is Capacity
	// less what is free to root.
	Capacity, Available, Used uint64
	// Inodes are zero where the file system has no fixed number.
	Inodes, InodesFree uint64
}
