package main

import (
	corev1 "k8s.io/api/core/v1"
	resource "k8s.io/component-helpers/resource"

	"github.com/nodekit/nodekit/metrics"
	"github.com/nodekit/nodekit/metrics/burden"
	"github.com/nodekit/nodekit/podlifecycle"
)

// requests tells what the pod of a target has requested, which the kernel knows
// of CPU alone.
func requests(manager *podlifecycle.Manager) func(metrics.Target) burden.Amount {
	return func(t metrics.Target) (a burden.Amount) {
		for _, pod := range manager.Pods() {
			if string(pod.UID) != t.PodUID {
				continue
			}
			sum := resource.PodRequests(pod, resource.PodResourcesOptions{})
			if q, ok := sum[corev1.ResourceCPU]; ok {
				cores := q.AsApproximateFloat64()
				a.CPU = &cores
			}
			if q, ok := sum[corev1.ResourceMemory]; ok {
				bytes := uint64(q.Value())
				a.Memory = &bytes
			}
		}
		return a
	}
}
