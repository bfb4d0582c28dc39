package qos

import (
	"path"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
)

// The lowest priority of system-critical pods, and names under which the older
// critical pods are known. Source: Kubernetes v1.37.0 pkg/kubelet/types.
const (
	systemCriticalPriority = 2_000_000_000
	sourceAnnotation       = "kubernetes.io/config.source"
	mirrorAnnotation       = "kubernetes.io/config.mirror"
)

const defaultCgroupRoot = "/kubepods"

// Node is what of the node decides how a pod's numbers become a cgroup's. The
// zero value is a node of unknown memory on cgroup v1 without limits of its own.
type Node struct {
	// MemoryCapacity of the node in bytes, for OOMScoreAdj; 0 means unknown, and
	// every Burstable container then gets 999.
	MemoryCapacity int64
	// CgroupV2 adds memory.oom.group, so that a container dies as a whole.
	CgroupV2 bool
	// LimitSwap forbids swap to a container with a memory limit. The kernel
	// must account swap (memory.memsw.* on v1, memory.swap.* on v2).
	LimitSwap bool
	// PodPidsLimit bounds the processes of each pod; 0 means no bound.
	PodPidsLimit int64
	// HugePageSizes are the sizes of huge pages that the node has, in bytes, as in
	// /sys/kernel/mm/hugepages: a container has none of those that it does not ask
	// for, if its runtime can limit them (cri-dockerd cannot, and refuses). With nil
	// only what is asked for is limited.
	HugePageSizes []int64
	// CgroupRoot is the parent of all pods' cgroups; "" means "/kubepods".
	CgroupRoot string
}

// Class gives the pod's quality of service from its containers' requests and
// limits of CPU and memory, or from those of the pod itself if it has any.
// Source: Kubernetes v1.37.0 pkg/apis/core/v1/helper/qos.
func Class(pod *corev1.Pod) corev1.PodQOSClass {
	var holders []corev1.ResourceRequirements
	if resource.IsPodLevelResourcesSet(pod) {
		holders = []corev1.ResourceRequirements{*pod.Spec.Resources}
	} else {
		for c := range containers(pod) {
			holders = append(holders, c.Resources)
		}
	}
	any, guaranteed := false, true
	for _, r := range holders {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			limit := r.Limits[name]
			request, set := r.Requests[name]
			any = any || request.Sign() > 0 || limit.Sign() > 0
			// A request that is not set counts as its limit, which is what
			// defaulting makes of it.
			if limit.Sign() <= 0 || (set && request.Cmp(limit) != 0) {
				guaranteed = false
			}
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	default:
		return corev1.PodQOSBurstable
	}
}

// Critical tells whether the pod is a static pod, the mirror of one, or of a
// priority of 2,000,000,000 and more: the kubelet makes room for those, and the
// kernel's memory killer comes to them last if their priority says so.
func Critical(pod *corev1.Pod) bool {
	if source, ok := pod.Annotations[sourceAnnotation]; ok && source != "api" {
		return true
	}
	if _, ok := pod.Annotations[mirrorAnnotation]; ok {
		return true
	}
	return nodeCritical(pod)
}

func nodeCritical(pod *corev1.Pod) bool {
	return pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCriticalPriority
}

// Requests sums what the pod asks for, as the scheduler counts it: the larger
// of the sum of containers and sidecars and the peak of the init containers,
// pod-level values over both, plus overhead. The list is the caller's.
func Requests(pod *corev1.Pod) corev1.ResourceList {
	return resource.PodRequests(pod, resource.PodResourcesOptions{})
}

// Limits sums the limits likewise. A resource that one of the containers does
// not limit, and the pod neither, is left out: the pod as a whole is not limited
// in it. The list is the caller's.
func Limits(pod *corev1.Pod) corev1.ResourceList {
	limits := resource.PodLimits(pod, resource.PodResourcesOptions{})
	for name := range limits {
		if pod.Spec.Resources != nil {
			if limit, ok := pod.Spec.Resources.Limits[name]; ok && limit.Sign() > 0 {
				continue
			}
		}
		for c := range containers(pod) {
			if limit, ok := c.Resources.Limits[name]; !ok || limit.Sign() <= 0 {
				delete(limits, name)
				break
			}
		}
	}
	return limits
}

// ClassCgroup gives the cgroup above the pods of a class, such as
// /kubepods/besteffort; that of Guaranteed pods is the root itself.
func (n Node) ClassCgroup(class corev1.PodQOSClass) string {
	root := n.CgroupRoot
	if root == "" {
		root = defaultCgroupRoot
	}
	switch class {
	case corev1.PodQOSBestEffort:
		return path.Join(root, "besteffort")
	case corev1.PodQOSBurstable:
		return path.Join(root, "burstable")
	default:
		return root
	}
}

// PodCgroup gives the path of the pod's cgroup, absolute from each hierarchy's
// root, such as /kubepods/burstable/pod0e1f. The pod has a UID.
func (n Node) PodCgroup(pod *corev1.Pod) string {
	return path.Join(n.ClassCgroup(Class(pod)), "pod"+string(pod.UID))
}

// containers yields init containers and containers, in order of the manifest.
func containers(pod *corev1.Pod) func(yield func(*corev1.Container) bool) {
	return func(yield func(*corev1.Container) bool) {
		for i := range pod.Spec.InitContainers {
			if !yield(&pod.Spec.InitContainers[i]) {
				return
			}
		}
		for i := range pod.Spec.Containers {
			if !yield(&pod.Spec.Containers[i]) {
				return
			}
		}
	}
}
