// Package qos turns a pod's requests and limits into what the kernel is told:
// the quality of service class, cgroup limits and names, oom_score_adj. It is
// pure, and its numbers are those of the kubelet, so that a pod does not notice
// which agent runs it.
//
//	node := qos.Node{MemoryCapacity: 8 << 30}
//	parent := node.PodCgroup(pod) // /kubepods/burstable/pod1f4c...
//	limits := node.PodResources(pod)
//	for i := range pod.Spec.Containers {
//		c := &pod.Spec.Containers[i]
//		spec.Resources = node.ContainerResources(pod, c)
//		spec.OOMScoreAdj = node.OOMScoreAdj(pod, c)
//	}
//
// It neither makes cgroups (package cgroup does) nor decides who fits on a node.
//
// # Traps
//
//   - The pod has been defaulted: a limit without a request is a request too
//     (manifest.Default does that).
//   - Values are in the words of cgroup v1 (shares, quota); OCI runtimes convert
//     them to weights on v2.
//   - LimitSwap on a kernel that does not account swap makes the OCI runtime
//     refuse the container.
package qos
