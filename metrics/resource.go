package metrics

import "time"

// under exposes a field under fewer labels than /metrics/cadvisor has.
func under(list labelSet, f Field) func(*exposer) {
	return func(x *exposer) {
		if n, ok := x.v.sample.Get(f); ok {
			x.list = list
			x.put(n, x.v.sample.Time(f))
		}
	}
}

// SwapLimit returns the bytes of swap that a target may use, given the swap of
// the node (its LimitSwap): v1 limits memory and swap together, v2 swap alone.
func (s *Sample) SwapLimit(node uint64) (uint64, bool) {
	limit, ok := s.Get(LimitSwap)
	if !ok {
		return 0, false
	}
	if s.swapWithMemory && limit < 1<<62 {
		memory, _ := s.Get(LimitMemory)
		limit -= min(limit, memory)
	}
	return min(limit, node), true
}

func swapLimit(x *exposer) {
	node, ok := x.views[0].sample.Get(LimitSwap)
	if !ok {
		return
	}
	if n, ok := x.v.sample.SwapLimit(node); ok {
		x.list = leanLabels
		x.put(n, x.v.sample.at[groupLimits])
	}
}

// resourceFamilies are those of Kubernetes v1.37.0
// pkg/kubelet/metrics/collectors/resource_metrics.go, with the stability that
// its registry writes before the help.
var resourceFamilies = heads([]family{
	{name: "container_cpu_usage_seconds_total", help: "[STABLE] Cumulative cpu time consumed by the container in core-seconds", counter: true, unit: nanos, who: kindContainer, each: under(leanLabels, CPUUsage)},
	{name: "container_memory_working_set_bytes", help: "[STABLE] Current working set of the container in bytes", who: kindContainer, each: under(leanLabels, MemoryWorkingSet)},
	{name: "container_start_time_seconds", help: "[STABLE] Start time of the container since unix epoch in seconds", unit: nanos, who: kindContainer, each: func(x *exposer) {
		if t := x.v.sample.Target.StartedAt; t.Unix() > 0 {
			x.list = leanLabels
			x.put(uint64(t.UnixNano()), time.Time{})
		}
	}},
	{name: "container_swap_limit_bytes", help: "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems", who: kindContainer, each: swapLimit},
	{name: "container_swap_usage_bytes", help: "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems", who: kindContainer, each: under(leanLabels, MemorySwap)},
	{name: "node_cpu_usage_seconds_total", help: "[STABLE] Cumulative cpu time consumed by the node in core-seconds", counter: true, unit: nanos, who: kindNode, each: under(noLabels, CPUUsage)},
	{name: "node_memory_working_set_bytes", help: "[STABLE] Current working set of the node in bytes", who: kindNode, each: under(noLabels, MemoryWorkingSet)},
	{name: "node_swap_usage_bytes", help: "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems", who: kindNode, each: under(noLabels, MemorySwap)},
	{name: "pod_cpu_usage_seconds_total", help: "[STABLE] Cumulative cpu time consumed by the pod in core-seconds", counter: true, unit: nanos, who: kindPod, each: under(podLabels, CPUUsage)},
	{name: "pod_memory_working_set_bytes", help: "[STABLE] Current working set of the pod in bytes", who: kindPod, each: under(podLabels, MemoryWorkingSet)},
	{name: "pod_swap_usage_bytes", help: "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems", who: kindPod, each: under(podLabels, MemorySwap)},
	{name: "resource_scrape_error", help: "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise", whole: noError},
	{name: "scrape_error", help: "[ALPHA] (Deprecated since 1.29.0) 1 if there was an error while getting container metrics, 0 otherwise", whole: noError},
})
