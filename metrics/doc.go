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
// Sub-packages give the same figures in the types of others: summary (the
// kubelet's Summary API), machine (cAdvisor's MachineInfo for /spec) and
// prometheus (a collector for client_golang).
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
// # Traps
//
//   - The last sample of a cgroup that was removed stays, with Gone set, until
//     Targets no longer lists it. Counters that the process ran up after the
//     last round and before the removal are lost: the kernel has no memory of
//     a removed cgroup. Sample(ctx, cgroup, 0) between exit and removal has all.
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
