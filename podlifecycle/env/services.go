package env

import (
	"net"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// The service whose variables every pod gets, of namespace default.
const apiService = "kubernetes"

// serviceVariables gives WEB_SERVICE_HOST, WEB_PORT_80_TCP_ADDR and their like.
// Source: Kubernetes v1.37.0 pkg/kubelet/envvars.
func serviceVariables(pod *corev1.Pod, services []*corev1.Service) map[string]string {
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	chosen := map[string]*corev1.Service{}
	for _, service := range services {
		if ip := service.Spec.ClusterIP; ip == "" || ip == corev1.ClusterIPNone || len(service.Spec.Ports) == 0 {
			continue
		}
		switch {
		case service.Namespace == pod.Namespace && (links || service.Name == apiService && pod.Namespace == corev1.NamespaceDefault):
			chosen[service.Name] = service
		case service.Namespace == corev1.NamespaceDefault && service.Name == apiService && chosen[apiService] == nil:
			chosen[apiService] = service
		}
	}
	result := map[string]string{}
	for _, service := range chosen {
		addService(result, service)
	}
	return result
}

func addService(result map[string]string, service *corev1.Service) {
	name, ip := variableName(service.Name), service.Spec.ClusterIP
	first := strconv.Itoa(int(service.Spec.Ports[0].Port))
	result[name+"_SERVICE_HOST"] = ip
	result[name+"_SERVICE_PORT"] = first
	for i, port := range service.Spec.Ports {
		number := strconv.Itoa(int(port.Port))
		if port.Name != "" {
			result[name+"_SERVICE_PORT_"+variableName(port.Name)] = number
		}
		protocol := port.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		lower := strings.ToLower(string(protocol))
		url := lower + "://" + net.JoinHostPort(ip, number)
		if i == 0 {
			result[name+"_PORT"] = url
		}
		prefix := name + "_PORT_" + number + "_" + strings.ToUpper(string(protocol))
		result[prefix] = url
		result[prefix+"_PROTO"] = lower
		result[prefix+"_PORT"] = number
		result[prefix+"_ADDR"] = ip
	}
}

func variableName(name string) string {
	return strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}
