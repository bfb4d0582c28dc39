package eviction

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	componentresource "k8s.io/component-helpers/resource"
)

// Limits of a pod's own, as Victim.Signal names them.
const (
	emptyDirLimit  = "emptydirfs.limit"
	podLimit       = "ephemeralpodfs.limit"
	containerLimit = "ephemeralcontainerfs.limit"
)

// OverLimit gives the pods that take more than they may: an emptyDir on disk
// more than its sizeLimit, the pod or a container more than its limit of
// ephemeral-storage. All of them are to go, critical ones never. Pods whose
// usage is not known stay.
func (p *Policy) OverLimit(pods []Pod, dedicatedImageFS bool) []Victim {
	var out []Victim
	for _, pod := range pods {
		if pod.Usage == nil || p.config.Critical(pod.Pod) {
			continue
		}
		if signal, message := over(pod, dedicatedImageFS); signal != "" {
			out = append(out, Victim{Pod: pod.Pod, Signal: signal, Message: message, Grace: shortGrace})
		}
	}
	return out
}

func over(pod Pod, dedicated bool) (signal, message string) {
	for i := range pod.Pod.Spec.Volumes {
		v := &pod.Pod.Spec.Volumes[i]
		limit := diskLimit(v)
		if limit != nil && pod.Usage.Volumes[v.Name].Bytes > limit.Value() {
			return emptyDirLimit, fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, limit.String())
		}
	}
	limits := componentresource.PodLimits(pod.Pod, componentresource.PodResourcesOptions{})
	if limit, ok := limits[corev1.ResourceEphemeralStorage]; ok && pod.Usage.disk(parts{true, true, true}).Bytes > limit.Value() {
		return podLimit, fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String())
	}
	for _, used := range pod.Usage.Containers {
		bytes := used.Logs.Bytes
		if !dedicated {
			bytes += used.RootFS.Bytes
		}
		if limit := containerLimitOf(pod.Pod, used.Name); limit != nil && bytes > limit.Value() {
			return containerLimit, fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", used.Name, limit.String())
		}
	}
	return "", ""
}

// diskLimit is the sizeLimit of an emptyDir on disk; the kernel keeps that of one in memory.
func diskLimit(v *corev1.Volume) *resource.Quantity {
	if e := v.EmptyDir; e != nil && e.Medium == corev1.StorageMediumDefault && e.SizeLimit != nil && e.SizeLimit.Sign() > 0 {
		return e.SizeLimit
	}
	return nil
}

// containerLimitOf leaves out init containers that end.
func containerLimitOf(pod *corev1.Pod, name string) *resource.Quantity {
	for i := range pod.Spec.Containers {
		if c := &pod.Spec.Containers[i]; c.Name == name {
			return positive(c.Resources.Limits)
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.Name == name && c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			return positive(c.Resources.Limits)
		}
	}
	return nil
}

func positive(limits corev1.ResourceList) *resource.Quantity {
	if limit, ok := limits[corev1.ResourceEphemeralStorage]; ok && limit.Sign() > 0 {
		return &limit
	}
	return nil
}

// Limits names by their paths the limits of a pod that are kept by measuring
// its files: nil if it has none, and need not be measured for OverLimit.
func Limits(pod *corev1.Pod) []string {
	var paths []string
	for i := range pod.Spec.Volumes {
		if diskLimit(&pod.Spec.Volumes[i]) != nil {
			paths = append(paths, fmt.Sprintf("spec.volumes[%d].emptyDir.sizeLimit", i))
		}
	}
	if r := pod.Spec.Resources; r != nil && positive(r.Limits) != nil {
		paths = append(paths, "spec.resources.limits[ephemeral-storage]")
	}
	for _, part := range []struct {
		field string
		list  []corev1.Container
	}{{"initContainers", pod.Spec.InitContainers}, {"containers", pod.Spec.Containers}} {
		for i := range part.list {
			if positive(part.list[i].Resources.Limits) != nil {
				paths = append(paths, fmt.Sprintf("spec.%s[%d].resources.limits[ephemeral-storage]", part.field, i))
			}
		}
	}
	return paths
}
