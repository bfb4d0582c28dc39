// Package shutdown says which pods end when a node shuts down, in which order and
// with how much time: the kubelet's graceful node shutdown as pure functions.
//
//	periods, err := shutdown.Periods(30*time.Second, 10*time.Second)
//	for _, group := range shutdown.Groups(periods, pods) {
//		// end group.Pods with at most group.Grace, and wait so long for them
//	}
//
// podlifecycle.Manager.Shutdown does that; package shutdown/logind tells when.
//
// Source: Kubernetes v1.37.0 pkg/kubelet/nodeshutdown.
package shutdown
