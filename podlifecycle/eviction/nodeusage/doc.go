// Package nodeusage reads what a Linux node has left and what its pods use:
// memory from the root memory cgroup or /proc/meminfo, file systems by statfs,
// processes from /proc, pods from their cgroups, directories by walking them.
//
//	node, err := nodeusage.New(nodeusage.Config{NodeFS: "/var/lib/agent"})
//	reading, err := node.Read(ctx)                        // for eviction.Policy.Assess
//	memory, processes, err := node.Cgroup(ctx, podCgroup)
//	disk, err := node.Disk(ctx, "/var/lib/agent/pods/1f4c/volumes/kubernetes.io~empty-dir/cache")
//
// Figures are the kubelet's (Kubernetes v1.37.0 pkg/kubelet/stats and
// pkg/volume/util/fs, cAdvisor v0.60): memory.available is the machine's memory
// less the working set of the root cgroup, which on cgroup v2, where the root
// has no usage of its own, is anonymous and file pages less inactive file pages;
// a disk's figure is blocks in use, each file counted once whatever its names,
// other file systems below it not at all.
//
// # Traps
//
//   - Disk reads every name below the directory, Config.Entries of them a second.
//     What lies deeper than 255 directories is not counted.
//   - Elsewhere than on Linux everything is ErrNotSupported.
package nodeusage
