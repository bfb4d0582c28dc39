// Package eviction decides when a node is short of memory, disk or processes,
// what is said about it, and which pod must go: the kubelet's thresholds, order
// and messages as pure functions. It reads nothing and ends nothing.
//
//	policy, err := eviction.New(eviction.Config{}) // the kubelet's hard thresholds
//	a := policy.Assess(state, reading, now)        // a.Conditions, a.State, a.Next
//	victims := policy.OverLimit(pods, reading.DedicatedImageFS)
//	if a.Starved != nil {
//		reclaim(a.Starved.Signal)                  // garbage first, if it is a disk
//		victim, spared := policy.Pick(*a.Starved, pods, reading.DedicatedImageFS)
//	}
//	reason, message := policy.Refuse(a.Conditions, newPod) // what is not let in meanwhile
//
// Package nodeusage reads a Linux node; podlifecycle.Config.Eviction wires both
// into a Manager. Behaviour is that of Kubernetes v1.37.0 pkg/kubelet/eviction
// (eviction_manager.go, helpers.go).
//
// # What the kubelet has beside it
//
//   - allocatableMemory.available: give the cgroup of all pods a limit, and the
//     kernel keeps it.
//   - containerfs.available and .inodesFree, which the kubelet derives from those
//     of nodefs or imagefs, and a container file system apart from both.
//   - Notifications by the kernel when memory falls; it is looked at each interval.
//
// # Traps
//
//   - Static pods, which is what files, URLs and streams give, are critical, and
//     critical pods are never evicted. Config.Critical decides otherwise.
//   - A pod whose usage is not known goes before all others.
//   - The kubelet's limit on a pod's ephemeral storage is the sum of those
//     containers' limits that have one, whatever the others write.
package eviction
