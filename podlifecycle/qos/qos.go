package qos

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
)

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
	// CgroupRoot is the parent of all pods' cgroups; "" means "/kubepods".
	CgroupRoot string
}

// Class gives the pod's quality of service from its containers' requests and
// limits, or from those of the pod itself.
func Class(pod *corev1.Pod) corev1.PodQOSClass { return "" }

// Critical tells whether the pod's priority is that of a system pod.
func Critical(pod *corev1.Pod) bool { return false }

// Requests sums what the pod asks for, as the scheduler counts it: the larger
// of the sum of containers and sidecars and the peak of the init containers,
// pod-level values over both, plus overhead. The list is the caller's.
func Requests(pod *corev1.Pod) corev1.ResourceList { return nil }

// Limits sums the limits likewise. A resource that one of the containers does
// not limit is left out: the pod as a whole is not limited in it.
func Limits(pod *corev1.Pod) corev1.ResourceList { return nil }

// OOMScoreAdj gives the oom_score_adj of a container's processes.
func (n Node) OOMScoreAdj(pod *corev1.Pod, container *corev1.Container) int { return 0 }

// ContainerResources gives the limits of one container's cgroup; never nil.
func (n Node) ContainerResources(pod *corev1.Pod, container *corev1.Container) *specs.LinuxResources {
	return &specs.LinuxResources{}
}

// PodResources gives the limits of the pod's cgroup; never nil.
func (n Node) PodResources(pod *corev1.Pod) *specs.LinuxResources { return &specs.LinuxResources{} }

// PodCgroup gives the path of the pod's cgroup, absolute from each hierarchy's
// root, such as /kubepods/burstable/pod0e1f. The pod has a UID.
func (n Node) PodCgroup(pod *corev1.Pod) string { return "" }

// ClassCgroup gives the cgroup above the pods of a class, such as
// /kubepods/besteffort; that of Guaranteed pods is the root itself.
func (n Node) ClassCgroup(class corev1.PodQOSClass) string { return "" }
