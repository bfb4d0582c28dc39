package manifest

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	componentresource "k8s.io/component-helpers/resource"
)

// Priorities of the classes that every cluster has.
var builtinPriorities = map[string]int32{
	"system-cluster-critical": 2_000_000_000,
	"system-node-critical":    2_000_001_000,
}

// Default sets what the API server would set in a pod that leaves it open.
// Doing it twice changes nothing.
// Source: Kubernetes v1.37.0 pkg/apis/core/v1/defaults.go.
func Default(pod *corev1.Pod) {
	spec := &pod.Spec
	if pod.Namespace == "" {
		pod.Namespace = corev1.NamespaceDefault
	}
	for c := range containers(spec) {
		defaultContainer(c)
	}
	for i := range spec.EphemeralContainers {
		c := corev1.Container(spec.EphemeralContainers[i].EphemeralContainerCommon)
		defaultContainer(&c)
		spec.EphemeralContainers[i].EphemeralContainerCommon = corev1.EphemeralContainerCommon(c)
	}
	defaultPodResources(pod)
	for i := range spec.Volumes {
		defaultVolume(&spec.Volumes[i])
	}
	if spec.HostNetwork {
		for c := range containers(spec) {
			for i := range c.Ports {
				setIfZero(&c.Ports[i].HostPort, c.Ports[i].ContainerPort)
			}
		}
	}
	setIfNil(&spec.EnableServiceLinks, true)
	setIfZero(&spec.DNSPolicy, corev1.DNSClusterFirst)
	setIfZero(&spec.RestartPolicy, corev1.RestartPolicyAlways)
	setIfNil(&spec.SecurityContext, corev1.PodSecurityContext{})
	setIfNil(&spec.TerminationGracePeriodSeconds, int64(corev1.DefaultTerminationGracePeriodSeconds))
	setIfZero(&spec.SchedulerName, corev1.DefaultSchedulerName)
	// One name for two spellings.
	setIfZero(&spec.ServiceAccountName, spec.DeprecatedServiceAccount)
	setIfZero(&spec.DeprecatedServiceAccount, spec.ServiceAccountName)
	if priority, ok := builtinPriorities[spec.PriorityClassName]; ok {
		setIfNil(&spec.Priority, priority)
	}
}

func defaultContainer(c *corev1.Container) {
	if c.ImagePullPolicy == "" {
		c.ImagePullPolicy = corev1.PullIfNotPresent
		if latest(c.Image) {
			c.ImagePullPolicy = corev1.PullAlways
		}
	}
	setIfZero(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	setIfZero(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		setIfZero(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil {
			if from.FieldRef != nil {
				setIfZero(&from.FieldRef.APIVersion, "v1")
			}
			if from.FileKeyRef != nil {
				setIfNil(&from.FileKeyRef.Optional, false)
			}
		}
	}
	defaultProbe(c.LivenessProbe)
	defaultProbe(c.ReadinessProbe)
	defaultProbe(c.StartupProbe)
	if c.Lifecycle != nil {
		for _, hook := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if hook != nil {
				defaultHTTPGet(hook.HTTPGet)
			}
		}
	}
	round(c.Resources.Limits)
	round(c.Resources.Requests)
	for name, limit := range c.Resources.Limits {
		if _, ok := c.Resources.Requests[name]; !ok {
			if c.Resources.Requests == nil {
				c.Resources.Requests = corev1.ResourceList{}
			}
			c.Resources.Requests[name] = limit.DeepCopy()
		}
	}
}

func defaultProbe(p *corev1.Probe) {
	if p == nil {
		return
	}
	setIfZero(&p.TimeoutSeconds, 1)
	setIfZero(&p.PeriodSeconds, 10)
	setIfZero(&p.SuccessThreshold, 1)
	setIfZero(&p.FailureThreshold, 3)
	defaultHTTPGet(p.HTTPGet)
	if p.GRPC != nil {
		setIfNil(&p.GRPC.Service, "")
	}
}

func defaultHTTPGet(get *corev1.HTTPGetAction) {
	if get != nil {
		setIfZero(&get.Path, "/")
		setIfZero(&get.Scheme, corev1.URISchemeHTTP)
	}
}

func defaultVolume(v *corev1.Volume) {
	if v.VolumeSource == (corev1.VolumeSource{}) {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	switch {
	case v.HostPath != nil:
		setIfNil(&v.HostPath.Type, corev1.HostPathUnset)
	case v.Secret != nil:
		setIfNil(&v.Secret.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
	case v.ConfigMap != nil:
		setIfNil(&v.ConfigMap.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
	case v.DownwardAPI != nil:
		setIfNil(&v.DownwardAPI.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
		defaultDownward(v.DownwardAPI.Items)
	case v.Projected != nil:
		setIfNil(&v.Projected.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
		for _, source := range v.Projected.Sources {
			if source.DownwardAPI != nil {
				defaultDownward(source.DownwardAPI.Items)
			}
			if source.ServiceAccountToken != nil {
				setIfNil(&source.ServiceAccountToken.ExpirationSeconds, int64(3600))
			}
		}
	case v.Image != nil:
		if v.Image.PullPolicy == "" {
			v.Image.PullPolicy = corev1.PullIfNotPresent
			if latest(v.Image.Reference) {
				v.Image.PullPolicy = corev1.PullAlways
			}
		}
	}
}

func defaultDownward(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		if items[i].FieldRef != nil {
			setIfZero(&items[i].FieldRef.APIVersion, "v1")
		}
	}
}

// defaultPodResources gives a pod with limits of its own the requests that
// follow from them and from its containers.
func defaultPodResources(pod *corev1.Pod) {
	whole := pod.Spec.Resources
	if whole == nil {
		return
	}
	round(whole.Limits)
	round(whole.Requests)
	if len(whole.Limits) == 0 {
		return
	}
	requests := whole.Requests
	if requests == nil {
		requests = corev1.ResourceList{}
	}
	sum := componentresource.AggregateContainerRequests(pod, componentresource.PodResourcesOptions{})
	for name, limit := range whole.Limits {
		if _, ok := requests[name]; ok || !componentresource.IsSupportedPodLevelResource(name) {
			continue
		}
		requests[name] = limit.DeepCopy()
		if request, ok := sum[name]; ok && !strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
			requests[name] = request.DeepCopy()
		}
	}
	for name, request := range sum {
		if _, ok := requests[name]; !ok && (name == corev1.ResourceCPU || name == corev1.ResourceMemory) {
			requests[name] = request.DeepCopy()
		}
	}
	if len(requests) > 0 {
		whole.Requests = requests
	}
}

// DefaultSecret turns stringData into data and sets the type.
func DefaultSecret(secret *corev1.Secret) {
	setIfZero(&secret.Type, corev1.SecretTypeOpaque)
	for key, value := range secret.StringData {
		if secret.Data == nil {
			secret.Data = map[string][]byte{}
		}
		secret.Data[key] = []byte(value)
	}
	secret.StringData = nil
}

// DefaultService sets what the API server would set in a service, but neither
// cluster IPs nor node ports: those it would have to allocate.
func DefaultService(service *corev1.Service) {
	spec := &service.Spec
	setIfZero(&spec.Type, corev1.ServiceTypeClusterIP)
	setIfZero(&spec.SessionAffinity, corev1.ServiceAffinityNone)
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		setIfNil(&spec.SessionAffinityConfig, corev1.SessionAffinityConfig{})
		setIfNil(&spec.SessionAffinityConfig.ClientIP, corev1.ClientIPConfig{})
		setIfNil(&spec.SessionAffinityConfig.ClientIP.TimeoutSeconds, corev1.DefaultClientIPServiceAffinitySeconds)
	}
	for i := range spec.Ports {
		port := &spec.Ports[i]
		setIfZero(&port.Protocol, corev1.ProtocolTCP)
		if port.TargetPort == intstr.FromInt32(0) || port.TargetPort == intstr.FromString("") {
			port.TargetPort = intstr.FromInt32(port.Port)
		}
	}
	outside := spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer
	if outside || (spec.Type == corev1.ServiceTypeClusterIP && len(spec.ExternalIPs) > 0) {
		setIfZero(&spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if spec.Type != corev1.ServiceTypeExternalName {
		setIfNil(&spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		setIfNil(&spec.AllocateLoadBalancerNodePorts, true)
	}
	defaultServiceIPs(spec)
}

func defaultServiceIPs(spec *corev1.ServiceSpec) {
	if spec.Type == corev1.ServiceTypeExternalName {
		return
	}
	if len(spec.ClusterIPs) == 0 && spec.ClusterIP != "" {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
	if spec.ClusterIP == "" && len(spec.ClusterIPs) > 0 {
		spec.ClusterIP = spec.ClusterIPs[0]
	}
	if len(spec.IPFamilies) == 0 {
		for _, ip := range spec.ClusterIPs {
			switch {
			case strings.Contains(ip, ":"):
				spec.IPFamilies = append(spec.IPFamilies, corev1.IPv6Protocol)
			case strings.Contains(ip, "."):
				spec.IPFamilies = append(spec.IPFamilies, corev1.IPv4Protocol)
			}
		}
	}
	policy := corev1.IPFamilyPolicySingleStack
	if len(spec.ClusterIPs) > 1 {
		policy = corev1.IPFamilyPolicyRequireDualStack
	}
	setIfNil(&spec.IPFamilyPolicy, policy)
}

// latest tells whether an image reference has the tag "latest", or none and no
// digest either: registry:5000/app, app:latest, not app@sha256:...
func latest(image string) bool {
	image, _, digest := strings.Cut(image, "@")
	name := image[strings.LastIndexByte(image, '/')+1:]
	_, tag, tagged := strings.Cut(name, ":")
	return tag == "latest" || !tagged && !digest
}

// round rounds up to thousandths, as the API server does.
func round(list corev1.ResourceList) {
	for name, quantity := range list {
		quantity.RoundUp(-3)
		list[name] = quantity
	}
}

func setIfZero[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func setIfNil[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

// containers yields init containers and containers.
func containers(spec *corev1.PodSpec) func(yield func(*corev1.Container) bool) {
	return func(yield func(*corev1.Container) bool) {
		for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
			for i := range list {
				if !yield(&list[i]) {
					return
				}
			}
		}
	}
}
