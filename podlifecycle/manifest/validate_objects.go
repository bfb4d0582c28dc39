package manifest

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxObject is how much data a ConfigMap or Secret may hold.
const maxObject = corev1.MaxSecretSize

// ValidateConfigMap tells what the API server would refuse.
func ValidateConfigMap(configMap *corev1.ConfigMap) field.ErrorList {
	v := validator{errs: objectMeta(&configMap.ObjectMeta)}
	total := 0
	for _, key := range slices.Sorted(maps.Keys(configMap.Data)) {
		v.messages(field.NewPath("data").Key(key), key, validation.IsConfigMapKey(key))
		if _, twice := configMap.BinaryData[key]; twice {
			v.add(field.Invalid(field.NewPath("data").Key(key), key, "duplicate of key present in binaryData"))
		}
		total += len(configMap.Data[key])
	}
	for _, key := range slices.Sorted(maps.Keys(configMap.BinaryData)) {
		v.messages(field.NewPath("binaryData").Key(key), key, validation.IsConfigMapKey(key))
		total += len(configMap.BinaryData[key])
	}
	if total > maxObject {
		v.add(field.TooLong(field.NewPath(""), "", maxObject))
	}
	return v.errs
}

// ValidateSecret tells what the API server would refuse in a defaulted secret.
// No value is in its texts.
func ValidateSecret(secret *corev1.Secret) field.ErrorList {
	v := validator{errs: objectMeta(&secret.ObjectMeta)}
	total := 0
	for _, key := range slices.Sorted(maps.Keys(secret.Data)) {
		v.messages(field.NewPath("data").Key(key), key, validation.IsConfigMapKey(key))
		total += len(secret.Data[key])
	}
	if total > maxObject {
		v.add(field.TooLong(field.NewPath("data"), "", maxObject))
	}
	for _, key := range map[corev1.SecretType][]string{
		corev1.SecretTypeDockerConfigJson: {corev1.DockerConfigJsonKey},
		corev1.SecretTypeDockercfg:        {corev1.DockerConfigKey},
		corev1.SecretTypeTLS:              {corev1.TLSCertKey, corev1.TLSPrivateKeyKey},
		corev1.SecretTypeSSHAuth:          {corev1.SSHAuthPrivateKey},
	}[secret.Type] {
		if _, ok := secret.Data[key]; !ok {
			v.add(field.Required(field.NewPath("data").Key(key), ""))
		}
	}
	return v.errs
}

func objectMeta(meta *metav1.ObjectMeta) field.ErrorList {
	return apivalidation.ValidateObjectMeta(meta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
}

// ValidateService tells what the API server would refuse in a defaulted
// service, and the lack of a cluster IP or node port that it would have allocated.
func ValidateService(service *corev1.Service) field.ErrorList {
	v := validator{errs: apivalidation.ValidateObjectMeta(&service.ObjectMeta, true, apivalidation.NameIsDNS1035Label, field.NewPath("metadata"))}
	p, spec := field.NewPath("spec"), &service.Spec
	oneOf(&v, p.Child("type"), spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName)
	oneOf(&v, p.Child("sessionAffinity"), spec.SessionAffinity, corev1.ServiceAffinityNone, corev1.ServiceAffinityClientIP)
	if spec.Type == corev1.ServiceTypeExternalName {
		v.messages(p.Child("externalName"), spec.ExternalName, validation.IsDNS1123Subdomain(spec.ExternalName))
		return v.errs
	}
	headless := spec.ClusterIP == corev1.ClusterIPNone
	switch {
	case spec.ClusterIP == "":
		v.add(field.Required(p.Child("clusterIP"), `without an API server nobody allocates one: give an address, or "None"`))
	case headless && spec.Type != corev1.ServiceTypeClusterIP:
		v.add(field.Invalid(p.Child("clusterIPs").Index(0), "None", fmt.Sprintf("may not be set to 'None' for %s services", spec.Type)))
	case !headless:
		for i, ip := range spec.ClusterIPs {
			v.errs = append(v.errs, validation.IsValidIP(p.Child("clusterIPs").Index(i), ip)...)
		}
		if len(spec.ClusterIPs) > 0 && spec.ClusterIPs[0] != spec.ClusterIP {
			v.add(field.Invalid(p.Child("clusterIPs"), spec.ClusterIPs, "first value must match `clusterIP`"))
		}
	}
	for i, ip := range spec.ExternalIPs {
		v.errs = append(v.errs, validation.IsValidIP(p.Child("externalIPs").Index(i), ip)...)
	}
	v.servicePorts(spec, headless, p.Child("ports"))
	return v.errs
}

func (v *validator) servicePorts(spec *corev1.ServiceSpec, headless bool, p *field.Path) {
	if len(spec.Ports) == 0 && !headless {
		v.add(field.Required(p, ""))
	}
	allocates := spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer && isTrue(spec.AllocateLoadBalancerNodePorts)
	names, numbers, nodePorts := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for i, port := range spec.Ports {
		at := p.Index(i)
		switch {
		case port.Name == "" && len(spec.Ports) > 1:
			v.add(field.Required(at.Child("name"), ""))
		case port.Name != "":
			v.messages(at.Child("name"), port.Name, validation.IsDNS1123Label(port.Name))
			if names[port.Name] {
				v.add(field.Duplicate(at.Child("name"), port.Name))
			}
			names[port.Name] = true
		}
		v.messages(at.Child("port"), port.Port, validation.IsValidPortNum(int(port.Port)))
		oneOf(v, at.Child("protocol"), port.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		v.port(port.TargetPort, at.Child("targetPort"))
		if headless && port.TargetPort.Type == intstr.Int && port.TargetPort.IntVal != port.Port {
			v.add(field.Invalid(at.Child("targetPort"), port.TargetPort.IntVal, "must be equal to the value of 'port' when clusterIP = None"))
		}
		key := fmt.Sprintf("%s/%d", port.Protocol, port.Port)
		if numbers[key] {
			v.add(field.Duplicate(at, key))
		}
		numbers[key] = true
		switch key := fmt.Sprintf("%s/%d", port.Protocol, port.NodePort); {
		case port.NodePort == 0 && allocates:
			v.add(field.Required(at.Child("nodePort"), "without an API server nobody allocates one"))
		case port.NodePort != 0 && spec.Type == corev1.ServiceTypeClusterIP:
			v.add(field.Forbidden(at.Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
		case port.NodePort != 0:
			v.messages(at.Child("nodePort"), port.NodePort, validation.IsValidPortNum(int(port.NodePort)))
			if nodePorts[key] {
				v.add(field.Duplicate(at.Child("nodePort"), port.NodePort))
			}
			nodePorts[key] = true
		}
	}
}
