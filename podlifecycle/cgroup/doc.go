// Package cgroup makes the cgroups of pods, limits them and removes them with
// all that runs inside, on cgroup v1, hybrid and v2. Names and limits come from
// package qos; containers' own cgroups are made by the OCI runtime, below these.
//
//	cgroups := cgroup.New()
//	err := cgroups.Ensure(ctx, "/kubepods/burstable/pod"+uid, node.PodResources(pod))
//	...
//	err = cgroups.Remove(ctx, "/kubepods/burstable/pod"+uid)
//
// It stands on github.com/containerd/cgroups/v3 and is a leaf for that reason:
// podlifecycle does not import it, main hands it over. It reads no usage;
// package metrics does.
//
// # Traps
//
//   - Ensure sets what is given and leaves what is not given as it is.
//   - On a hybrid system limits are v1's; the unified hierarchy has the cgroup too, for its
//     pressure files.
//   - Remove kills. It refuses a cgroup that this process is in, itself or below.
package cgroup
