package shutdown

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// What pods and their status are told.
const (
	// Reason and Message of a pod that ended for a shutdown of its node; the message
	// stands in its condition DisruptionTarget too.
	Reason  = "Terminated"
	Message = "Pod was terminated in response to imminent node shutdown."
	// ReasonRejected and MessageRejected are of a pod that came meanwhile.
	ReasonRejected  = "NodeShutdown"
	MessageRejected = "Pod was rejected as the node is shutting down."
)

// criticalPriority is that of system-cluster-critical, the lowest critical one.
const criticalPriority = 2_000_000_000

// Period is the time that pods of a priority, and above up to the next Period's,
// get when the node shuts down: the kubelet's shutdownGracePeriodByPodPriority.
type Period struct {
	Priority int32
	// Grace bounds how long the pods may take, whatever theirs is, and how long those
	// of the next Period wait for them. In whole seconds.
	Grace time.Duration
}

// Periods are those of the kubelet's shutdownGracePeriod and
// shutdownGracePeriodCriticalPods: critical pods get critical at the end, all others
// what is left of total before. A total of 0 gives none: nothing is waited for.
func Periods(total, critical time.Duration) ([]Period, error) {
	if critical < 0 || critical > total {
		return nil, fmt.Errorf("shutdown: %v for critical pods is not within the %v for all", critical, total)
	}
	if total == 0 {
		return nil, nil
	}
	return []Period{{0, (total - critical).Truncate(time.Second)}, {criticalPriority, critical.Truncate(time.Second)}}, nil
}

// Check tells all that is wrong with periods.
func Check(periods []Period) error {
	var errs []error
	seen := map[int32]bool{}
	for i, p := range periods {
		if p.Grace < 0 {
			errs = append(errs, fmt.Errorf("period %d: Grace must not be negative: %v", i, p.Grace))
		}
		if seen[p.Priority] {
			errs = append(errs, fmt.Errorf("period %d: a second one for priority %d", i, p.Priority))
		}
		seen[p.Priority] = true
	}
	return errors.Join(errs...)
}

// Total is how long a shutdown takes at most.
func Total(periods []Period) time.Duration {
	var sum time.Duration
	for _, p := range periods {
		sum += p.Grace
	}
	return sum
}

// Group are the pods of one Period.
type Group struct {
	Period
	Pods []*corev1.Pod
}

// Groups sorts pods into periods, the lowest priority first, each pod into the
// highest Period that its priority reaches, or the lowest of all. Periods without
// pods are left out. The pods are the caller's.
func Groups(periods []Period, pods []*corev1.Pod) []Group {
	sorted := slices.SortedStableFunc(slices.Values(periods), func(a, b Period) int { return cmp.Compare(a.Priority, b.Priority) })
	groups := make([]Group, len(sorted))
	for i, p := range sorted {
		groups[i].Period = p
	}
	for _, pod := range pods {
		priority := int32(0)
		if pod.Spec.Priority != nil {
			priority = *pod.Spec.Priority
		}
		at := 0
		for i, p := range sorted {
			if p.Priority <= priority {
				at = i
			}
		}
		if len(groups) > 0 {
			groups[at].Pods = append(groups[at].Pods, pod)
		}
	}
	return slices.DeleteFunc(groups, func(g Group) bool { return len(g.Pods) == 0 })
}
