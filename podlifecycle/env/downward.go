package env

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// metadata.labels['app.kubernetes.io/name']
var subscript = regexp.MustCompile(`^(metadata\.(?:labels|annotations))\['([^']*)'\]$`)

// Field gives the value of a downward API path such as metadata.name,
// metadata.labels['app'] or status.podIP. Paths that only a volume knows
// (metadata.labels, metadata.annotations) are given as lines of key="value",
// sorted. The error wraps ErrField.
// Source: Kubernetes v1.37.0 pkg/fieldpath and pkg/kubelet/kubelet_pods.go.
func Field(pod *corev1.Pod, path string) (string, error) {
	if m := subscript.FindStringSubmatch(path); m != nil {
		if m[1] == "metadata.labels" {
			return pod.Labels[m[2]], nil
		}
		return pod.Annotations[m[2]], nil
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return lines(pod.Labels), nil
	case "metadata.annotations":
		return lines(pod.Annotations), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return pod.Status.HostIP, nil
	case "status.hostIPs":
		ips := make([]string, 0, len(pod.Status.HostIPs))
		for _, ip := range pod.Status.HostIPs {
			ips = append(ips, ip.IP)
		}
		return strings.Join(ips, ","), nil
	case "status.podIP":
		return pod.Status.PodIP, nil
	case "status.podIPs":
		ips := make([]string, 0, len(pod.Status.PodIPs))
		for _, ip := range pod.Status.PodIPs {
			ips = append(ips, ip.IP)
		}
		return strings.Join(ips, ","), nil
	}
	return "", fmt.Errorf("%q: %w", path, ErrField)
}

func lines(m map[string]string) string {
	var out strings.Builder
	for i, key := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			out.WriteByte('\n')
		}
		fmt.Fprintf(&out, "%s=%q", key, m[key])
	}
	return out.String()
}

// Resource gives the value of a resourceFieldRef for container of pod: the
// resource divided by the divisor, rounded up. A limit that is not set is that of
// the pod's own resources, or else allocatable's; a request that is not set is 0.
// The error wraps ErrField. Source: Kubernetes v1.37.0
// pkg/kubelet/kubelet_resources.go.
func Resource(pod *corev1.Pod, container *corev1.Container, ref *corev1.ResourceFieldSelector, allocatable corev1.ResourceList) (string, error) {
	kind, name, _ := strings.Cut(ref.Resource, ".")
	resourceName := corev1.ResourceName(name)
	switch {
	case resourceName == corev1.ResourceCPU, resourceName == corev1.ResourceMemory,
		resourceName == corev1.ResourceEphemeralStorage, strings.HasPrefix(name, corev1.ResourceHugePagesPrefix):
	default:
		return "", fmt.Errorf("resource %q: %w", ref.Resource, ErrField)
	}
	var quantity resource.Quantity
	switch kind {
	case "limits":
		quantity = container.Resources.Limits[resourceName]
		if own := pod.Spec.Resources; quantity.Sign() <= 0 && own != nil && (resourceName == corev1.ResourceCPU || resourceName == corev1.ResourceMemory) {
			quantity = own.Limits[resourceName]
		}
		if quantity.Sign() <= 0 {
			quantity = allocatable[resourceName]
		}
	case "requests":
		quantity = container.Resources.Requests[resourceName]
	default:
		return "", fmt.Errorf("resource %q: %w", ref.Resource, ErrField)
	}
	divisor := ref.Divisor
	if divisor.Sign() <= 0 {
		divisor = resource.MustParse("1")
	}
	if resourceName == corev1.ResourceCPU {
		return ceil(quantity.MilliValue(), divisor.MilliValue()), nil
	}
	return ceil(quantity.Value(), divisor.Value()), nil
}

func ceil(value, divisor int64) string {
	quotient := value / divisor
	if value%divisor > 0 {
		quotient++
	}
	return strconv.FormatInt(quotient, 10)
}
