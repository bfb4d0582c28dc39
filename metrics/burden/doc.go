// Package burden answers what a scheduler and an operator ask of a node: what it
// can give, what is asked of it and what is used, how hard pressed it is, and
// who burdens it now, the heaviest first.
//
//	ranking, err := burden.New(burden.Config{Meter: meter})
//	if err != nil {
//		return err
//	}
//	report, err := ranking.Report(ctx)
//	fmt.Print(report)
//
// A burden is a pod, or a cgroup that is of no pod and has no other target below
// it, so that nothing is counted twice. Its Share is the larger part of the node
// that it takes, of CPU or of memory: who has the first place is the one whose
// end would relieve the node most, in what it takes most of.
//
// Requests of CPU are read off the cgroup (cpu.shares, cpu.weight), limits of
// both as well; a request of memory leaves no trace in the kernel, and is known
// where Config.Requests tells it. The kernel rounds: on cgroup v2 a request of
// CPU is right within 3 %.
//
// It ranks and explains; it decides nothing. Eviction is podlifecycle's.
package burden
