package proxyrules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// ManagedBy is the value of label endpointslice.kubernetes.io/managed-by on
// what Endpoints returns.
const ManagedBy = "nodekit-proxyrules"

// Endpoints makes the EndpointSlices of a Service from pods, as the
// EndpointSlice controller of a cluster would (Kubernetes v1.37.0
// staging/src/k8s.io/endpointslice): pods of the same namespace that the
// selector takes, that have an address and have not ended. An endpoint is
// ready if its pod is and is not being deleted, or if publishNotReadyAddresses
// is set; a pod that is deleted and still ready is serving and terminating.
// Named target ports are resolved in each pod.
//
// There is one slice for each address family and each set of port numbers,
// sorted by name; endpoints are sorted by address. The result is nil for a
// Service without a selector and for ExternalName. pods may be all pods of a
// node or a cluster; nothing is kept.
func Endpoints(service *corev1.Service, pods []*corev1.Pod) []*discoveryv1.EndpointSlice {
	if len(service.Spec.Selector) == 0 || service.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	selector := labels.SelectorFromSet(service.Spec.Selector)
	var out []*discoveryv1.EndpointSlice
	for _, family := range serviceFamilies(service) {
		byPorts := make(map[string]*discoveryv1.EndpointSlice)
		var order []string
		for _, pod := range pods {
			if pod == nil || pod.Namespace != service.Namespace || ended(pod) || !selector.Matches(labels.Set(pod.Labels)) {
				continue
			}
			addr, ok := podAddr(pod, family)
			if !ok {
				continue
			}
			ports := podPorts(service, pod)
			key := portsKey(ports)
			slice := byPorts[key]
			if slice == nil {
				slice = newSlice(service, family, ports)
				byPorts[key] = slice
				order = append(order, key)
			}
			slice.Endpoints = append(slice.Endpoints, podEndpoint(service, pod, addr))
		}
		slices.Sort(order)
		for i, key := range order {
			slice := byPorts[key]
			slice.Name = fmt.Sprintf("%s-%s-%d", service.Name, strings.ToLower(string(family)), i+1)
			slices.SortStableFunc(slice.Endpoints, func(a, b discoveryv1.Endpoint) int {
				return strings.Compare(a.Addresses[0], b.Addresses[0])
			})
			out = append(out, slice)
		}
	}
	return out
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
}

// serviceFamilies are the Service's, or those of its addresses, or IPv4.
func serviceFamilies(service *corev1.Service) []discoveryv1.AddressType {
	var out []discoveryv1.AddressType
	add := func(v6 bool) {
		family := discoveryv1.AddressTypeIPv4
		if v6 {
			family = discoveryv1.AddressTypeIPv6
		}
		if !slices.Contains(out, family) {
			out = append(out, family)
		}
	}
	for _, family := range service.Spec.IPFamilies {
		add(family == corev1.IPv6Protocol)
	}
	if len(out) == 0 {
		for _, ip := range append([]string{service.Spec.ClusterIP}, service.Spec.ClusterIPs...) {
			if addr, err := netip.ParseAddr(ip); err == nil {
				add(addr.Unmap().Is6())
			}
		}
	}
	if len(out) == 0 {
		add(false)
	}
	return out
}

func podAddr(pod *corev1.Pod, family discoveryv1.AddressType) (netip.Addr, bool) {
	ips := make([]string, 0, len(pod.Status.PodIPs)+1)
	for _, ip := range pod.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	for _, ip := range append(ips, pod.Status.PodIP) {
		addr, err := netip.ParseAddr(ip)
		if err == nil && addr.Unmap().Is6() == (family == discoveryv1.AddressTypeIPv6) {
			return addr.Unmap(), true
		}
	}
	return netip.Addr{}, false
}

func newSlice(service *corev1.Service, family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{AddressType: family, Ports: ports}
	slice.TypeMeta = metav1.TypeMeta{APIVersion: discoveryv1.SchemeGroupVersion.String(), Kind: "EndpointSlice"}
	slice.Namespace = service.Namespace
	slice.Labels = map[string]string{
		discoveryv1.LabelServiceName: service.Name,
		discoveryv1.LabelManagedBy:   ManagedBy,
	}
	if service.Spec.ClusterIP == corev1.ClusterIPNone {
		slice.Labels[corev1.IsHeadlessService] = ""
	}
	return slice
}

func podEndpoint(service *corev1.Service, pod *corev1.Pod, addr netip.Addr) discoveryv1.Endpoint {
	serving := podReady(pod)
	terminating := pod.DeletionTimestamp != nil
	ready := service.Spec.PublishNotReadyAddresses || serving && !terminating
	endpoint := discoveryv1.Endpoint{
		Addresses:  []string{addr.String()},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
	if pod.Spec.NodeName != "" {
		name := pod.Spec.NodeName
		endpoint.NodeName = &name
	}
	if pod.Spec.Subdomain == service.Name && pod.Spec.Hostname != "" {
		hostname := pod.Spec.Hostname
		endpoint.Hostname = &hostname
	}
	return endpoint
}

func podReady(pod *corev1.Pod) bool {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == corev1.PodReady {
			return pod.Status.Conditions[i].Status == corev1.ConditionTrue
		}
	}
	return false
}

// podPorts resolves the Service's target ports in one pod. A name that the pod
// does not have is left out.
func podPorts(service *corev1.Service, pod *corev1.Pod) []discoveryv1.EndpointPort {
	out := make([]discoveryv1.EndpointPort, 0, len(service.Spec.Ports))
	for i := range service.Spec.Ports {
		port := &service.Spec.Ports[i]
		protocol := port.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		number, ok := targetPort(port, protocol, pod)
		if !ok {
			continue
		}
		name := port.Name
		out = append(out, discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &number, AppProtocol: port.AppProtocol})
	}
	return out
}

func targetPort(port *corev1.ServicePort, protocol corev1.Protocol, pod *corev1.Pod) (int32, bool) {
	name := port.TargetPort.StrVal
	if name == "" {
		if port.TargetPort.IntVal != 0 {
			return port.TargetPort.IntVal, true
		}
		return port.Port, true
	}
	find := func(containers []corev1.Container, fit func(c *corev1.Container) bool) (int32, bool) {
		for i := range containers {
			for _, p := range containers[i].Ports {
				same := p.Protocol == protocol || p.Protocol == "" && protocol == corev1.ProtocolTCP
				if p.Name == name && same && fit(&containers[i]) {
					return p.ContainerPort, true
				}
			}
		}
		return 0, false
	}
	if number, ok := find(pod.Spec.Containers, func(*corev1.Container) bool { return true }); ok {
		return number, true
	}
	return find(pod.Spec.InitContainers, func(c *corev1.Container) bool {
		return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	})
}

func portsKey(ports []discoveryv1.EndpointPort) string {
	var b strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&b, "%s/%s/%05d,", *p.Name, *p.Protocol, *p.Port)
	}
	return b.String()
}
