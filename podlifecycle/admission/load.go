package admission

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle/qos"
)

// Load is the pods that take up a node. It must not be used concurrently.
type Load struct {
	node *Node
	pods []*corev1.Pod
	used map[corev1.ResourceName]int64
}

// Load gives a load of pods, which are not judged.
func (n *Node) Load(pods ...*corev1.Pod) *Load {
	l := &Load{node: n, used: map[corev1.ResourceName]int64{}}
	for _, pod := range pods {
		l.Add(pod)
	}
	return l
}

// Add takes a pod in without judging it.
func (l *Load) Add(pod *corev1.Pod) {
	l.pods = append(l.pods, pod)
	if len(l.node.capacity) == 0 {
		return // nothing is limited, and so nothing need be summed
	}
	for name, amount := range amounts(qos.Requests(pod)) {
		l.used[name] += amount
	}
}

// Remove takes a pod out that was added.
func (l *Load) Remove(pod *corev1.Pod) {
	i := slices.Index(l.pods, pod)
	if i < 0 {
		return
	}
	l.pods = slices.Delete(l.pods, i, i+1)
	for name, amount := range amounts(qos.Requests(pod)) {
		l.used[name] -= amount
	}
}

// Shortage is a resource of which there is too little for a pod, in
// thousandths of a core for cpu, else in units of the resource.
type Shortage struct {
	Resource                  corev1.ResourceName
	Requested, Used, Capacity int64
}

// String gives the kubelet's message.
func (s Shortage) String() string {
	return fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", s.Resource, s.Requested, s.Used, s.Capacity)
}

// Reason gives the reason of a rejection for it, such as OutOfcpu.
func (s Shortage) Reason() string { return outOf + string(s.Resource) }

// Short tells what there is too little of for pod: the number of pods first, then
// cpu, memory, ephemeral-storage, and others by name; nil if it fits. It
// counts init containers, sidecars, overhead and the pod's own resources, as
// qos.Requests does. Source: Kubernetes v1.37.0
// pkg/scheduler/framework/plugins/noderesources/fit.go.
func (l *Load) Short(pod *corev1.Pod) []Shortage {
	if len(l.node.capacity) == 0 {
		return nil
	}
	var short []Shortage
	if capacity, limited := l.node.capacity[corev1.ResourcePods]; limited && int64(len(l.pods))+1 > capacity {
		short = append(short, Shortage{corev1.ResourcePods, 1, int64(len(l.pods)), capacity})
	}
	wanted := amounts(qos.Requests(pod))
	names := make([]corev1.ResourceName, 0, len(wanted))
	for name := range wanted {
		names = append(names, name)
	}
	order := []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage}
	rank := func(name corev1.ResourceName) int {
		if i := slices.Index(order, name); i >= 0 {
			return i
		}
		return len(order)
	}
	slices.SortFunc(names, func(a, b corev1.ResourceName) int { return cmp.Or(rank(a)-rank(b), cmp.Compare(a, b)) })
	for _, name := range names {
		capacity, limited := l.node.capacity[name]
		if limited && wanted[name] > 0 && wanted[name] > capacity-l.used[name] {
			short = append(short, Shortage{name, wanted[name], l.used[name], capacity})
		}
	}
	return short
}

// amounts are quantities as the scheduler counts them.
func amounts(list corev1.ResourceList) map[corev1.ResourceName]int64 {
	out := make(map[corev1.ResourceName]int64, len(list))
	for name, quantity := range list {
		if name == corev1.ResourceCPU {
			out[name] = quantity.MilliValue()
		} else {
			out[name] = quantity.Value()
		}
	}
	return out
}
