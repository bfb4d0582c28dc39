package eviction

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodekit/nodekit/podlifecycle/qos"
)

// Reason of the status of a pod that was evicted, or refused under pressure.
const Reason = "Evicted"

// shortGrace is what a pod gets to end in when it must be quick.
const shortGrace = time.Second

// Victim is a pod to evict: its phase becomes Failed with Reason and Message.
type Victim struct {
	Pod *corev1.Pod
	// Signal is what it goes for: one of the Signals, or a limit of its own:
	// "emptydirfs.limit", "ephemeralpodfs.limit", "ephemeralcontainerfs.limit".
	Signal  string
	Message string
	// Grace that it gets to end in.
	Grace time.Duration
	// Disruption is the message of the condition DisruptionTarget; "" for none.
	Disruption string
}

// Pick chooses the one pod to evict, nil if there is none. spared are critical
// pods that would have gone before it. Pods whose usage is not known come first;
// then those that use more than they requested; then the lower priority; then
// the more above its request. For processes priority and number count.
func (p *Policy) Pick(s Starved, pods []Pod, dedicatedImageFS bool) (victim *Victim, spared []*corev1.Pod) {
	order := slices.Clone(pods)
	ranks := make(map[*corev1.Pod]ranked, len(pods))
	for _, pod := range pods {
		ranks[pod.Pod] = rankOf(s, pod, dedicatedImageFS)
	}
	slices.SortStableFunc(order, func(a, b Pod) int { return ranks[a.Pod].compare(ranks[b.Pod]) })
	for _, pod := range order {
		if p.config.Critical(pod.Pod) {
			spared = append(spared, pod.Pod)
			continue
		}
		message := s.message(pod)
		return &Victim{Pod: pod.Pod, Signal: string(s.Signal), Message: message, Disruption: message, Grace: p.grace(s, pod.Pod)}, spared
	}
	return nil, spared
}

func (p *Policy) grace(s Starved, pod *corev1.Pod) time.Duration {
	if s.Grace == 0 {
		return shortGrace
	}
	grace := p.config.MaxGrace
	if own := pod.Spec.TerminationGracePeriodSeconds; own != nil {
		grace = min(grace, time.Duration(*own)*time.Second)
	}
	return max(grace, shortGrace)
}

// ranked is what decides about a pod's place.
type ranked struct {
	known, exceeds bool
	priority       int32
	above          int64
	name           string
}

func rankOf(s Starved, pod Pod, dedicated bool) ranked {
	r := ranked{known: pod.Usage != nil, name: pod.Pod.Namespace + "/" + pod.Pod.Name}
	if pod.Pod.Spec.Priority != nil {
		r.priority = *pod.Pod.Spec.Priority
	}
	if signals[s.Signal].resource == resourcePIDs {
		// Here priority comes first, whatever is known.
		if r.above = math.MaxInt64; r.known {
			r.above = pod.Usage.Processes
		}
		r.known = true
		return r
	}
	if !r.known {
		return r
	}
	requests := qos.Requests(pod.Pod)
	switch signals[s.Signal].resource {
	case resourceMemory:
		r.above = pod.Usage.Memory - requests.Memory().Value()
		r.exceeds = r.above > 0
	case resourceStorage:
		r.above = pod.Usage.disk(partsOf(s.Signal, dedicated)).Bytes - requests.StorageEphemeral().Value()
		r.exceeds = r.above > 0
	case resourceInodes:
		// Inodes cannot be requested. That the request for bytes is taken off is
		// the kubelet's.
		inodes := pod.Usage.disk(partsOf(s.Signal, dedicated)).Inodes
		r.above, r.exceeds = inodes-requests.StorageEphemeral().Value(), inodes > 0
	}
	return r
}

func (r ranked) compare(other ranked) int {
	return cmp.Or(before(!r.known, !other.known), before(r.exceeds, other.exceeds), cmp.Compare(r.priority, other.priority),
		cmp.Compare(other.above, r.above), cmp.Compare(r.name, other.name))
}

// before orders true before false.
func before(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// message is the kubelet's, with its space at the end.
func (s Starved) message(pod Pod) string {
	what := signals[s.Signal].resource
	text := fmt.Sprintf("The node was low on resource: %s. Threshold quantity: %s, available: %s. ", what,
		amount(s.Below.Of(s.Capacity)), s.quantity(s.Available))
	if pod.Usage == nil || what != resourceMemory && what != resourceStorage {
		return text
	}
	name := corev1.ResourceName(what)
	if own := pod.Pod.Spec.Resources; own != nil && what == resourceMemory {
		if request, ok := own.Requests[name]; ok {
			text += fmt.Sprintf("Pod %s was using %s, request is %s, has larger consumption of %s. ", pod.Pod.Name, amount(pod.Usage.Memory), request.String(), what)
		}
	}
	for _, used := range pod.Usage.Containers {
		request, known := requestOf(pod.Pod, used.Name, name)
		usage := used.Memory
		if what == resourceStorage {
			usage = used.RootFS.Bytes + used.Logs.Bytes
		}
		if known && usage > request.Value() {
			text += fmt.Sprintf("Container %s was using %s, request is %s, has larger consumption of %s. ", used.Name, amount(usage), request.String(), what)
		}
	}
	return text
}

// quantity writes inodes and processes as decimal numbers.
func (s Starved) quantity(n int64) string {
	switch signals[s.Signal].resource {
	case resourceInodes, resourcePIDs:
		return resource.NewQuantity(n, resource.DecimalSI).String()
	}
	return amount(n)
}

func requestOf(pod *corev1.Pod, container string, name corev1.ResourceName) (resource.Quantity, bool) {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == container {
				return list[i].Resources.Requests[name], true
			}
		}
	}
	return resource.Quantity{}, false
}
