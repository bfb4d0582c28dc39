package qos

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	componentresource "k8s.io/component-helpers/resource"
)

// Source: Kubernetes v1.37.0 pkg/kubelet/cm/helpers_linux.go.
const (
	minShares    = 2
	maxShares    = 262144
	quotaPeriod  = 100_000 // microseconds
	minQuota     = 1_000   // microseconds
	sharesPerCPU = 1024
)

// Source: Kubernetes v1.37.0 pkg/kubelet/qos/policy.go.
const (
	guaranteedOOMScoreAdj = -997
	bestEffortOOMScoreAdj = 1000
)

// OOMScoreAdj gives the oom_score_adj of a container's processes: -997 for
// Guaranteed and node-critical pods, 1000 for BestEffort, and for Burstable the
// lower the more memory was asked for, from 3 to 999. A sidecar is never killed
// before the regular containers.
func (n Node) OOMScoreAdj(pod *corev1.Pod, container *corev1.Container) int {
	if nodeCritical(pod) {
		return guaranteedOOMScoreAdj
	}
	switch Class(pod) {
	case corev1.PodQOSGuaranteed:
		return guaranteedOOMScoreAdj
	case corev1.PodQOSBestEffort:
		return bestEffortOOMScoreAdj
	}
	score := n.burstableScore(pod, container)
	if isSidecar(container) {
		for i := range pod.Spec.Containers {
			score = min(score, n.burstableScore(pod, &pod.Spec.Containers[i]))
		}
	}
	return score
}

func (n Node) burstableScore(pod *corev1.Pod, container *corev1.Container) int {
	if n.MemoryCapacity <= 0 {
		return bestEffortOOMScoreAdj - 1
	}
	request := container.Resources.Requests.Memory().Value() + spareMemory(pod)
	// In float, because 1000*request may leave int64 for absurd requests.
	score := 1000 - int(min(1000, 1000*float64(request)/float64(n.MemoryCapacity)))
	return max(1000+guaranteedOOMScoreAdj, min(bestEffortOOMScoreAdj-1, score))
}

// spareMemory is each container's part of what the pod asks for beyond its
// containers' requests.
func spareMemory(pod *corev1.Pod) int64 {
	if pod.Spec.Resources == nil {
		return 0
	}
	whole, ok := pod.Spec.Resources.Requests[corev1.ResourceMemory]
	if !ok {
		return 0
	}
	sum := componentresource.AggregateContainerRequests(pod, componentresource.PodResourcesOptions{})
	count := int64(len(pod.Spec.Containers))
	for i := range pod.Spec.InitContainers {
		if isSidecar(&pod.Spec.InitContainers[i]) {
			count++
		}
	}
	spare := whole.Value() - sum.Memory().Value()
	if spare <= 0 || count == 0 {
		return 0
	}
	return spare / count
}

func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// ContainerResources gives the limits of one container's cgroup; never nil. A
// container without a limit of CPU or memory has that of the pod's
// spec.resources, if there is one, and one without a limit of a size of huge pages
// that the node has is limited to none. Source: Kubernetes v1.37.0
// pkg/kubelet/kuberuntime/kuberuntime_container_linux.go getCPULimit and
// GetHugepageLimitsFromResources.
func (n Node) ContainerResources(pod *corev1.Pod, container *corev1.Container) *specs.LinuxResources {
	request := container.Resources.Requests.Cpu().MilliValue()
	limit := limitOf(pod, container, corev1.ResourceCPU).MilliValue()
	if _, set := container.Resources.Requests[corev1.ResourceCPU]; !set {
		request = limit
	}
	result := &specs.LinuxResources{CPU: cpu(request, limit)}
	if memory := limitOf(pod, container, corev1.ResourceMemory).Value(); memory > 0 {
		result.Memory = n.memory(memory)
		if n.CgroupV2 {
			result.Unified = map[string]string{"memory.oom.group": "1"}
		}
	}
	result.HugepageLimits = hugepages(container.Resources.Limits, n.HugePageSizes)
	return result
}

func limitOf(pod *corev1.Pod, container *corev1.Container, name corev1.ResourceName) *resource.Quantity {
	limit := container.Resources.Limits[name]
	if limit.IsZero() && pod.Spec.Resources != nil {
		limit = pod.Spec.Resources.Limits[name]
	}
	return &limit
}

// PodResources gives the limits of the pod's cgroup; never nil. CPU and memory
// are limited only if the pod, or every container of it, says so.
func (n Node) PodResources(pod *corev1.Pod) *specs.LinuxResources {
	result := &specs.LinuxResources{}
	if n.PodPidsLimit > 0 {
		result.Pids = &specs.LinuxPids{Limit: &n.PodPidsLimit}
	}
	if Class(pod) == corev1.PodQOSBestEffort {
		result.CPU = cpu(0, 0)
		return result
	}
	requests, limits := Requests(pod), Limits(pod)
	result.CPU = cpu(requests.Cpu().MilliValue(), limits.Cpu().MilliValue())
	if memory := limits.Memory().Value(); memory > 0 {
		// No swap limit here: containers have it, and the kernel's order of
		// writes for both would differ between growing and shrinking.
		result.Memory = &specs.LinuxMemory{Limit: &memory}
	}
	result.HugepageLimits = hugepages(limits, nil) // the containers have none of what they do not ask for
	return result
}

func (n Node) memory(limit int64) *specs.LinuxMemory {
	memory := &specs.LinuxMemory{Limit: &limit}
	if n.LimitSwap {
		// Memory and swap together, as v1 counts.
		memory.Swap = &limit
	}
	return memory
}

func cpu(requestMilli, limitMilli int64) *specs.LinuxCPU {
	shares := uint64(max(minShares, min(maxShares, requestMilli*sharesPerCPU/1000)))
	result := &specs.LinuxCPU{Shares: &shares}
	if limitMilli > 0 {
		quota, period := max(minQuota, limitMilli*quotaPeriod/1000), uint64(quotaPeriod)
		result.Quota, result.Period = &quota, &period
	}
	return result
}

// hugepages turns hugepages-2Mi into the page size 2MB that OCI runtimes know, and
// limits to 0 the sizes that limits does not name.
func hugepages(limits corev1.ResourceList, sizes []int64) []specs.LinuxHugepageLimit {
	byPage := map[string]uint64{}
	for _, size := range sizes {
		byPage[pageSize(size)] = 0
	}
	for name, amount := range limits {
		text, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix)
		if !ok {
			continue
		}
		size, err := resource.ParseQuantity(text)
		if err != nil {
			continue // Validate refuses it
		}
		byPage[pageSize(size.Value())] = uint64(max(0, amount.Value()))
	}
	var result []specs.LinuxHugepageLimit
	for _, page := range slices.Sorted(maps.Keys(byPage)) {
		result = append(result, specs.LinuxHugepageLimit{Pagesize: page, Limit: byPage[page]})
	}
	return result
}

func pageSize(bytes int64) string {
	units := []string{"B", "KB", "MB", "GB", "TB"}
	unit := 0
	for bytes >= 1024 && bytes%1024 == 0 && unit < len(units)-1 {
		bytes, unit = bytes/1024, unit+1
	}
	return fmt.Sprintf("%d%s", bytes, units[unit])
}
