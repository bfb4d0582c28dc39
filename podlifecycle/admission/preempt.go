package admission

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle/qos"
)

// What a pod that was preempted shows. Source: Kubernetes v1.37.0
// pkg/kubelet/preemption/preemption.go.
const (
	ReasonPreempting  = "Preempting"
	MessagePreempting = "Preempted in order to admit critical pod"
	// MessageDisruption is that of the condition DisruptionTarget.
	MessageDisruption = "Pod was preempted by Kubelet to accommodate a critical pod."
)

// need is how much must become free, by resource, in the order of shortages.
type need struct {
	resource corev1.ResourceName
	amount   int64
}

type candidate struct {
	pod      *corev1.Pod
	requests map[corev1.ResourceName]int64
}

// request of one resource; each pod counts as one of "pods".
func (c candidate) request(name corev1.ResourceName) int64 {
	if name == corev1.ResourcePods {
		return 1
	}
	return c.requests[name]
}

// preempt chooses whom to end so that a critical pod fits: as few and as small
// Guaranteed pods as possible, given that all others went; then Burstable ones,
// given that all BestEffort ones went; then BestEffort ones.
func (l *Load) preempt(pod *corev1.Pod, short []Shortage) ([]*corev1.Pod, error) {
	var needs []need
	for _, s := range short {
		needs = append(needs, need{s.Resource, s.Requested - (s.Capacity - s.Used)})
	}
	classes := map[corev1.PodQOSClass][]candidate{}
	var all []candidate
	for _, other := range l.pods {
		if !preemptable(pod, other) {
			continue
		}
		c := candidate{other, amounts(qos.Requests(other))}
		class := qos.Class(other)
		classes[class] = append(classes[class], c)
		all = append(all, c)
	}
	if left := subtract(needs, all); len(left) > 0 {
		return nil, shortOf(left)
	}
	bestEffort, burstable := classes[corev1.PodQOSBestEffort], classes[corev1.PodQOSBurstable]
	guaranteedOut, err := nearest(classes[corev1.PodQOSGuaranteed], subtract(needs, slices.Concat(bestEffort, burstable)))
	if err != nil {
		return nil, err
	}
	burstableOut, err := nearest(burstable, subtract(needs, slices.Concat(bestEffort, guaranteedOut)))
	if err != nil {
		return nil, err
	}
	bestEffortOut, err := nearest(bestEffort, subtract(needs, slices.Concat(burstableOut, guaranteedOut)))
	if err != nil {
		return nil, err
	}
	var out []*corev1.Pod
	for _, c := range slices.Concat(bestEffortOut, burstableOut, guaranteedOut) {
		out = append(out, c.pod)
	}
	return out, nil
}

// preemptable tells whether other may be ended for the critical pod.
func preemptable(pod, other *corev1.Pod) bool {
	if !qos.Critical(other) {
		return true
	}
	return pod.Spec.Priority != nil && other.Spec.Priority != nil && *pod.Spec.Priority > *other.Spec.Priority
}

// nearest takes again and again the candidate that leaves least to be wished
// for, the smaller of two that leave as much.
func nearest(candidates []candidate, needs []need) ([]candidate, error) {
	candidates = slices.Clone(candidates)
	var out []candidate
	for len(needs) > 0 {
		if len(candidates) == 0 {
			return nil, shortOf(needs)
		}
		best, least := 0, distance(needs, candidates[0])
		for i := 1; i < len(candidates); i++ {
			d := distance(needs, candidates[i])
			if d < least || d == least && smaller(candidates[i], candidates[best]) {
				best, least = i, d
			}
		}
		needs = subtract(needs, candidates[best:best+1])
		out = append(out, candidates[best])
		candidates = slices.Delete(candidates, best, best+1)
	}
	return out, nil
}

// distance sums the squares of the parts of the needs that stay open.
func distance(needs []need, c candidate) float64 {
	sum := 0.0
	for _, n := range needs {
		if open := float64(n.amount - c.request(n.resource)); open > 0 {
			part := open / float64(n.amount)
			sum += part * part
		}
	}
	return sum
}

func smaller(a, b candidate) bool {
	for _, name := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceCPU} {
		if a.requests[name] != b.requests[name] {
			return a.requests[name] < b.requests[name]
		}
	}
	return false
}

// subtract gives the needs that stay open when candidates have gone.
func subtract(needs []need, candidates []candidate) []need {
	var open []need
	for _, n := range needs {
		for _, c := range candidates {
			n.amount -= c.request(n.resource)
		}
		if n.amount > 0 {
			open = append(open, n)
		}
	}
	return open
}

func shortOf(needs []need) error {
	text := ""
	for _, n := range needs {
		text += fmt.Sprintf("(res: %s, q: %d), ", n.resource, n.amount)
	}
	return fmt.Errorf("no set of running pods found to reclaim resources: [%s]", text)
}
