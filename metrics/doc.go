// Package metrics meters cgroups: what each container, each pod and the node
// use of CPU, memory, processes, disks and network, from cgroup v1, v2 and
// hybrid machines, at the price of reading the kernel's text and little more.
//
// It is not a runtime client and guesses nothing: the caller says which
// cgroups there are and what they are called. It keeps no series beyond a
// short history, evaluates nothing and sends nothing.
//
//	meter, err := metrics.New(metrics.Config{Targets: myTargets, Interval: time.Second})
//	if err != nil {
//		return err
//	}
//	go meter.Run(ctx) // one loop, whatever the number of containers
//
//	samples, err := meter.Samples(ctx, 5*time.Second)          // values
//	err = meter.WriteCAdvisor(ctx, w)                          // Prometheus text
//	points, err := meter.History("/kubepods/pod1/c1")          // for curves
//	cores, ok := metrics.Rate(points, metrics.CPUUsage, time.Minute)
//
// Sub-packages: discovery finds the cgroups of a machine as they come and go;
// burden ranks who burdens the node; summary (the kubelet's Summary API), machine
// (cAdvisor's MachineInfo for /spec) and prometheus (a collector for
// client_golang) give the same figures in the types of others. The program
// examples/nodemonitor wires them all.
//
// # What the figures are
//
// Each is a Field of a Sample, whose comment names its file on v1 and v2.
// A figure that could not be read is absent and Sample.Gaps says why: a file
// that the kernel does not have (ErrAbsent), one cut short or not as the
// kernel writes it (ErrGarbled), a controller that no hierarchy has
// (ErrNoController), a cgroup that is no more (ErrGone). No figure is ever
// made up. Each bears the time of its own reading, which with
// Config.ColdInterval may be some rounds ago.
//
// # What is read how often
//
// Each Config.Interval: CPU and memory, the out-of-memory kills among it. Each
// Config.ColdInterval: threads, disks, network, pressure. Each
// Config.LimitsInterval: limits, MemoryMaxUsage, MemoryFailures, Processes,
// FileDescriptors, Sockets, HugePages, Filesystems, what OnDisk tells, and errors
// and drops of pods' interfaces. A target that is new, and one that Refresh
// names, is read whole.
//
// A file that cannot have changed is not read again, and its figures count as
// read; Stats.Spared counts them. On v1 these are: user and system time while
// CPUUsage has not grown, whose parts they are; what a quota throttles, of a
// cgroup that had none when the limits were read; and the bytes of disks while
// neither an operation was counted nor CPUUsage has grown. On v2 they are:
// memory.events of cgroups side by side, while that of the cgroup above, which
// counts theirs too, says the same (not before Linux 5.3, nor of a mount with
// memory_localevents); io.stat likewise, of files that are not kept open and of a
// cgroup that has none below; and memory.swap.current of a machine without swap.
// Nothing else is left out because a cgroup sleeps: memory is reclaimed, written
// back and freed by others, waiting goes on, and others' threads do its I/O.
//
// # Memory, and the working set
//
// MemoryUsage is all that is charged to the cgroup: anonymous memory
// (MemoryRSS), page cache (MemoryCache), which includes shared memory and tmpfs,
// and the kernel's own (MemoryKernel, which v1 charges to memory.usage_in_bytes
// as well). MemoryWorkingSet is MemoryUsage less MemoryInactiveFile, the page
// cache that was not used of late and that the kernel takes back first, and not
// below 0. It is what the kubelet evicts by and kubectl top shows. It is an
// upper bound of what cannot be taken back: active page cache, which can be too,
// is in it; so a program that reads many files has a large one and is in no
// danger. MemoryRSS, against that, can only go to swap.
//
// # From which file
//
//	figure                  v1                                       v2
//	CPUUsage                cpuacct.usage                            cpu.stat usage_usec
//	CPUUser, CPUSystem      cpuacct.stat user, system                cpu.stat user_usec, system_usec
//	CFS...                  cpu.stat nr_periods, nr_throttled,       cpu.stat, the same in us
//	                        throttled_time, nr_bursts, burst_time
//	MemoryUsage             memory.usage_in_bytes                    memory.current
//	MemoryMaxUsage          memory.max_usage_in_bytes                memory.peak
//	MemoryFailures          memory.failcnt                           -
//	MemoryKernel            memory.kmem.usage_in_bytes               memory.stat kernel
//	MemoryCache, -RSS       memory.stat total_cache, total_rss       memory.stat file, anon
//	MemoryMappedFile        memory.stat total_mapped_file            memory.stat file_mapped
//	MemorySwap              memory.stat total_swap                   memory.swap.current
//	MemoryActiveFile, ...   memory.stat total_active_file, ...       memory.stat active_file, ...
//	MemoryDirty, ...        memory.stat total_dirty, ...             memory.stat file_dirty, ...
//	PageFaults, Major...    memory.stat total_pgfault, ...           memory.stat pgfault, pgmajfault
//	PagesScanned, -Stolen   -                                        memory.stat pgscan, pgsteal
//	Refault...              memory.stat total_workingset_refault_*   memory.stat workingset_refault_*
//	MemoryEvents...         -                                        memory.events high, max
//	OOMKills                memory.oom_control oom_kill              memory.events oom_kill
//	Threads, Processes      pids.current, cgroup.procs               the same
//	FileDescriptors         the size of /proc/PID/fd                 the same
//	IO..., Devices          blkio.throttle.io_service_bytes_recursive, io.stat
//	                        blkio.throttle.io_serviced_recursive
//	Net..., Interfaces      netlink RTM_GETSTATS, /proc/PID/net/dev  the same
//	...Some..., ...Full...  of the v2 tree of a hybrid machine       cpu.pressure, memory.pressure, io.pressure
//	LimitCPU...             cpu.shares, cpu.cfs_period_us, -quota_us cpu.weight, cpu.max
//	LimitMemory, -Swap      memory.limit_in_bytes, memory.memsw...   memory.max, memory.swap.max
//	LimitMemoryReservation  memory.soft_limit_in_bytes               memory.min
//	LimitThreads            pids.max                                 the same
//	LimitOpenFiles          /proc/PID/limits of the first process    the same
//	HugePages               hugetlb.SIZE.usage_in_bytes,             hugetlb.SIZE.current,
//	                        .max_usage_in_bytes, .failcnt            .events max
//	Sockets                 the links in /proc/PID/fd                the same
//	Device.Cost             -                                        io.stat cost.usage, ...
//	Written, Logs           Config.OnDisk                            the same
//
// The node's are of /proc (meminfo, loadavg, diskstats, net/dev, pressure), its
// CPU of the root cgroup, its file systems of statfs(2).
//
// # On which kernels it is missing
//
//	memory.peak                    before Linux 5.19
//	memory.stat kernel             before 5.18
//	cpu.stat nr_bursts             before 5.15
//	cpu.stat nr_periods, ...       on v2 where cpu is not delegated to the cgroup
//	oom_kill                       before 4.13, a Gap with ErrGarbled
//	workingset_refault_file, _anon before 5.9
//	swap                           before 6.1 without swapaccount=1
//	io.stat cost.usage             before 5.4, and of devices that io.cost.qos leaves out
//	cpu.pressure, full             before 5.13; all pressure before 4.20 or with psi=0
//	the size of /proc/PID/fd       before 6.2
//	hugetlb on v2                  before 5.6
//	discards in diskstats          before 4.18
//	writes with O_DIRECT on v1     blkio counts none on 6.18
//	memory.kmem.usage_in_bytes     where kernel memory accounting is switched off
//
// What a kernel lacks is a Gap with ErrAbsent, and no figure.
//
// # The network of pods
//
// While Run keeps descriptors, one dump of the node's interfaces has the bytes
// and packets of every pod that a single veth leads to: what the node's end has
// sent, the pod's has received. Errors and drops are of the pod's own end, which
// is read with the limits. Other pods are read through Target.PID, as all are
// without kept descriptors. A pod on the node's network has none of its own.
//
// # Which families
//
// FIGURES.md beside this file lists every family that is written: what it means,
// its file and field on v1 and v2, of whom it is told, and on which kernels it is
// missing. Compat has cAdvisor's labels and container_last_seen, and sandboxes;
// Lean neither those nor the labels id, image and name. container_health_state is
// of neither: a cgroup knows nothing of health. The machine_ families are those of
// package machine.
//
// # Not here
//
// Per-CPU figures, scheduler statistics, what directories hold, which the runtime
// or a quota knows (Config.OnDisk), and GPUs.
//
// # Traps
//
//   - The last sample of a cgroup that was removed stays, with Gone set, until
//     Targets no longer lists it; then it is in Exited. Counters that the process
//     ran up after the last round and before the removal are lost: the kernel has
//     no memory of a removed cgroup. Refresh(cgroup), or Sample(ctx, cgroup, 0),
//     between exit and removal has all; discovery calls the former on v2.
//   - OOMKills add up over restarts that this Meter saw: one that is made anew
//     begins with what the living cgroups say.
//   - MemoryUsage and its parts are of two files read one after the other, so
//     the parts need not add up.
//   - On v1, user and system time come in steps of 10 ms, disk counters of
//     Linux 6 may stay at zero, and memory events and reclaim counters are
//     missing; on v2, failcnt is.
//   - The node's memory is of /proc/meminfo, kernel memory included, as on v2
//     kubelets; on v1 the kubelet shows less.
//   - CPURate and all rates are of the history that Run's rounds make, never of
//     the rounds that Sample makes, so two callers cannot spoil each other's.
package metrics
