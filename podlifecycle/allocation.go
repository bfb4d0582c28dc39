package podlifecycle

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodekit/nodekit/podlifecycle/qos"
)

// resizable are the resources that may change while a pod runs, in the order
// in which the kubelet changes them.
var resizable = []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceCPU}

// Allocation is what the node has granted a pod. What the pod asks for may be
// more or less: a resize that does not fit waits.
type Allocation struct {
	// Generation of the pod when it was granted.
	Generation int64 `json:"generation,omitempty"`
	// Pod is its spec.resources, nil if it has none.
	Pod *corev1.ResourceRequirements `json:"pod,omitempty"`
	// Containers by name, init containers included.
	Containers map[string]corev1.ResourceRequirements `json:"containers,omitempty"`
}

// AllocationOf gives what pod asks for, as a copy.
func AllocationOf(pod *corev1.Pod) *Allocation {
	a := &Allocation{Generation: pod.Generation, Pod: pod.Spec.Resources.DeepCopy(), Containers: map[string]corev1.ResourceRequirements{}}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			a.Containers[list[i].Name] = *list[i].Resources.DeepCopy()
		}
	}
	return a
}

// Granted gives pod with the resources that it has been granted: pod itself if
// those are what it asks for, else a copy. A nil Allocation grants everything.
func (a *Allocation) Granted(pod *corev1.Pod) *corev1.Pod {
	if a == nil || a.equal(AllocationOf(pod)) {
		return pod
	}
	out := pod.DeepCopy()
	out.Spec.Resources = a.Pod.DeepCopy()
	for _, list := range [][]corev1.Container{out.Spec.InitContainers, out.Spec.Containers} {
		for i := range list {
			if granted, ok := a.Containers[list[i].Name]; ok {
				list[i].Resources = *granted.DeepCopy()
			}
		}
	}
	return out
}

func (a *Allocation) equal(b *Allocation) bool {
	if (a.Pod == nil) != (b.Pod == nil) || a.Pod != nil && !sameResources(*a.Pod, *b.Pod) {
		return false
	}
	return maps.EqualFunc(a.Containers, b.Containers, sameResources)
}

// sameResources is asked at each step of each pod: reflection would be dear.
func sameResources(a, b corev1.ResourceRequirements) bool {
	same := func(a, b resource.Quantity) bool { return a.Cmp(b) == 0 }
	return maps.EqualFunc(a.Limits, b.Limits, same) && maps.EqualFunc(a.Requests, b.Requests, same) && slices.Equal(a.Claims, b.Claims)
}

// resizeFault tells why no node could change pod in place to what it asks for
// now, or "". Source: Kubernetes v1.37.0 pkg/apis/core/validation
// ValidatePodResize, which a pod from an API server has passed.
func resizeFault(granted, pod *corev1.Pod) string {
	if before, after := qos.Class(granted), qos.Class(pod); before != after {
		return fmt.Sprintf("spec: Pod QOS Class may not change as a result of resizing: it is %s and would be %s", before, after)
	}
	var faults []string
	compare := func(path string, before, after corev1.ResourceRequirements) {
		for field, lists := range map[string][2]corev1.ResourceList{"requests": {before.Requests, after.Requests}, "limits": {before.Limits, after.Limits}} {
			faults = append(faults, listFaults(path+".resources."+field, lists[0], lists[1])...)
		}
	}
	if granted.Spec.Resources != nil || pod.Spec.Resources != nil {
		compare("spec", orEmpty(granted.Spec.Resources), orEmpty(pod.Spec.Resources))
	}
	for _, part := range []struct {
		path          string
		before, after []corev1.Container
	}{{"spec.initContainers", granted.Spec.InitContainers, pod.Spec.InitContainers}, {"spec.containers", granted.Spec.Containers, pod.Spec.Containers}} {
		for i := range part.after {
			compare(fmt.Sprintf("%s[%d]", part.path, i), part.before[i].Resources, part.after[i].Resources)
		}
	}
	slices.Sort(faults)
	return strings.Join(faults, "; ")
}

func orEmpty(r *corev1.ResourceRequirements) corev1.ResourceRequirements {
	if r == nil {
		return corev1.ResourceRequirements{}
	}
	return *r
}

func listFaults(path string, before, after corev1.ResourceList) []string {
	var faults []string
	for name, was := range before {
		now, ok := after[name]
		switch {
		case !ok:
			faults = append(faults, fmt.Sprintf("%s[%s]: cannot be removed in place", path, name))
		case name != corev1.ResourceCPU && name != corev1.ResourceMemory && was.Cmp(now) != 0:
			faults = append(faults, fmt.Sprintf("%s[%s]: only cpu and memory resources are mutable", path, name))
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok && name != corev1.ResourceCPU && name != corev1.ResourceMemory {
			faults = append(faults, fmt.Sprintf("%s[%s]: only cpu and memory resources are mutable", path, name))
		}
	}
	return faults
}

// containerSize is what the cgroup of a container is made of: its CPU and
// memory, with the pod's limits where it has none of its own.
// Source: Kubernetes v1.37.0 pkg/kubelet/util/util.go GetLimits.
func containerSize(pod *corev1.Pod, c *corev1.Container) corev1.ResourceRequirements {
	size := corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}
	for _, name := range resizable {
		if limit, ok := c.Resources.Limits[name]; ok && limit.Sign() > 0 {
			size.Limits[name] = limit.DeepCopy()
		} else if pod.Spec.Resources != nil {
			if limit, ok := pod.Spec.Resources.Limits[name]; ok && limit.Sign() > 0 {
				size.Limits[name] = limit.DeepCopy()
			}
		}
		if request, ok := c.Resources.Requests[name]; ok {
			size.Requests[name] = request.DeepCopy()
		}
	}
	return size
}

// podSize is what the pod's cgroup is made of.
func podSize(pod *corev1.Pod) corev1.ResourceRequirements {
	size := corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}
	requests, limits := qos.Requests(pod), qos.Limits(pod)
	for _, name := range resizable {
		if request, ok := requests[name]; ok {
			size.Requests[name] = request
		}
		if limit, ok := limits[name]; ok && limit.Sign() > 0 {
			size.Limits[name] = limit
		}
	}
	return size
}

// sized gives pod as if its cgroup were to be of that size. What is no longer
// needed for that is left out.
func sized(pod *corev1.Pod, size corev1.ResourceRequirements) *corev1.Pod {
	out := pod.DeepCopy()
	out.Spec.Resources, out.Spec.Overhead = &size, nil // size has the overhead in it
	for _, list := range [][]corev1.Container{out.Spec.InitContainers, out.Spec.Containers} {
		for i := range list {
			for _, name := range resizable {
				delete(list[i].Resources.Requests, name)
				delete(list[i].Resources.Limits, name)
			}
		}
	}
	return out
}

// compareLimits: none is more than any.
func compareLimits(a, b corev1.ResourceRequirements, name corev1.ResourceName) int {
	x, limited := a.Limits[name]
	y, alsoLimited := b.Limits[name]
	switch {
	case limited && alsoLimited:
		return x.Cmp(y)
	case limited:
		return -1
	case alsoLimited:
		return 1
	}
	return 0
}

func compareRequests(a, b corev1.ResourceRequirements, name corev1.ResourceName) int {
	x, y := a.Requests[name], b.Requests[name]
	return x.Cmp(y)
}

// larger gives current with what of target is more, for one resource.
func larger(current, target corev1.ResourceRequirements, name corev1.ResourceName) corev1.ResourceRequirements {
	out := *current.DeepCopy()
	if compareLimits(target, current, name) > 0 {
		put(&out.Limits, target.Limits, name)
	}
	if compareRequests(target, current, name) > 0 {
		put(&out.Requests, target.Requests, name)
	}
	return out
}

// withOne gives current with what target has of one resource.
func withOne(current, target corev1.ResourceRequirements, name corev1.ResourceName) corev1.ResourceRequirements {
	out := *current.DeepCopy()
	put(&out.Limits, target.Limits, name)
	put(&out.Requests, target.Requests, name)
	return out
}

func put(to *corev1.ResourceList, from corev1.ResourceList, name corev1.ResourceName) {
	quantity, ok := from[name]
	if !ok {
		delete(*to, name)
		return
	}
	if *to == nil {
		*to = corev1.ResourceList{}
	}
	(*to)[name] = quantity.DeepCopy()
}

// show writes a quantity, or that there is none.
func show(list corev1.ResourceList, name corev1.ResourceName) string {
	if q, ok := list[name]; ok {
		return (&q).String()
	}
	return "none"
}

func quantity(list corev1.ResourceList, name corev1.ResourceName) *resource.Quantity {
	if q, ok := list[name]; ok {
		return &q
	}
	return nil
}
