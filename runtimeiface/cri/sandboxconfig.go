package cri

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Labels that Kubernetes gives sandboxes and containers.
const (
	labelPodName       = "io.kubernetes.pod.name"
	labelPodNamespace  = "io.kubernetes.pod.namespace"
	labelPodUID        = "io.kubernetes.pod.uid"
	labelContainerName = "io.kubernetes.container.name"
)

// Annotation holds, in JSON, what a CRI does not give back.
const Annotation = "io.github.nodekit/cri"

// kept is the content of Annotation.
type kept struct {
	// Labels of those above that the caller gave, and wants to see.
	Labels []string `json:"labels,omitempty"`
	// Sandbox is what CreateContainer has to tell again; what the CRI gives back is empty.
	Sandbox *runtimeiface.SandboxSpec `json:"sandbox,omitempty"`
	// Image of a container as asked for, and images that are mounted in it.
	Image   string   `json:"image,omitempty"`
	Mounted []string `json:"mounted,omitempty"`
	// Stdio of a container, for Attach.
	Stdio stdio `json:"stdio,omitzero"`
}

// marked gives labels and annotations as the runtime shall have them.
func marked(own map[string]string, labels, annotations map[string]string, k kept) (l, a map[string]string, err error) {
	l, a = maps.Clone(labels), maps.Clone(annotations)
	if l == nil {
		l = map[string]string{}
	}
	if a == nil {
		a = map[string]string{}
	}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		if given, ok := l[name]; ok {
			if given != own[name] {
				return nil, nil, invalid("Labels["+name+"]", "is not "+own[name])
			}
			k.Labels = append(k.Labels, name)
		}
		l[name] = own[name]
	}
	if _, ok := a[Annotation]; ok {
		return nil, nil, invalid("Annotations["+Annotation+"]", "is this package's own")
	}
	data, err := json.Marshal(k)
	if err != nil {
		return nil, nil, fmt.Errorf("keep spec: %w", err)
	}
	a[Annotation] = string(data)
	return l, a, nil
}

// unmarked is the way back; made tells whether this package made it.
func unmarked(labels, annotations map[string]string) (l, a map[string]string, k kept, made bool) {
	l, a = cloneFilled(labels), cloneFilled(annotations)
	text, ok := a[Annotation]
	if !ok || json.Unmarshal([]byte(text), &k) != nil {
		return l, a, kept{}, false
	}
	delete(a, Annotation)
	for _, name := range []string{labelPodName, labelPodNamespace, labelPodUID, labelContainerName} {
		if !slices.Contains(k.Labels, name) {
			delete(l, name)
		}
	}
	return cloneFilled(l), cloneFilled(a), k, true
}

// cloneFilled is nil for an empty map, as a spec without labels has it.
func cloneFilled(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return maps.Clone(m)
}

func podLabels(spec runtimeiface.SandboxSpec) map[string]string {
	return map[string]string{labelPodName: spec.Name, labelPodNamespace: spec.Namespace, labelPodUID: spec.UID}
}

var protocols = map[string]api.Protocol{"TCP": api.Protocol_TCP, "UDP": api.Protocol_UDP, "SCTP": api.Protocol_SCTP}

var modes = map[runtimeiface.NamespaceMode]api.NamespaceMode{
	runtimeiface.NamespacePod: api.NamespaceMode_POD, runtimeiface.NamespaceContainer: api.NamespaceMode_CONTAINER,
	runtimeiface.NamespaceHost: api.NamespaceMode_NODE, runtimeiface.NamespaceTarget: api.NamespaceMode_TARGET,
}

func mode(m, standard runtimeiface.NamespaceMode) api.NamespaceMode {
	if m == "" {
		m = standard
	}
	return modes[m]
}

// sandboxConfig is the same for the same spec: CreateContainer tells it again.
func (r *Runtime) sandboxConfig(spec runtimeiface.SandboxSpec) (*api.PodSandboxConfig, error) {
	keep := spec
	keep.Name, keep.Namespace, keep.UID, keep.Attempt, keep.Labels, keep.Annotations = "", "", "", 0, nil, nil
	labels, annotations, err := marked(podLabels(spec), spec.Labels, spec.Annotations, kept{Sandbox: &keep})
	if err != nil {
		return nil, err
	}
	user, err := userNamespace(spec.UserNamespace)
	if err != nil {
		return nil, err
	}
	c := &api.PodSandboxConfig{
		Metadata: &api.PodSandboxMetadata{Name: spec.Name, Namespace: spec.Namespace, Uid: spec.UID, Attempt: spec.Attempt},
		Labels:   labels, Annotations: annotations, LogDirectory: spec.LogDirectory,
		Linux: &api.LinuxPodSandboxConfig{
			CgroupParent: spec.CgroupParent, Sysctls: maps.Clone(spec.Sysctls),
			SecurityContext: &api.LinuxSandboxSecurityContext{
				NamespaceOptions: &api.NamespaceOption{
					Network: mode(spec.Network, runtimeiface.NamespacePod), Ipc: mode(spec.IPC, runtimeiface.NamespacePod),
					Pid: mode(spec.PID, runtimeiface.NamespaceContainer), UsernsOptions: user,
				},
				Privileged: spec.Privileged,
				Seccomp:    &api.SecurityProfile{ProfileType: api.SecurityProfile_RuntimeDefault},
			},
		},
	}
	if spec.Network != runtimeiface.NamespaceHost {
		c.Hostname = hostname(spec)
	}
	if d := spec.DNS; d != nil {
		c.DnsConfig = &api.DNSConfig{Servers: slices.Clone(d.Servers), Searches: slices.Clone(d.Searches), Options: slices.Clone(d.Options)}
	}
	for _, p := range spec.PortMappings {
		m := &api.PortMapping{Protocol: protocols[p.Protocol], ContainerPort: int32(p.ContainerPort), HostPort: int32(p.HostPort)}
		if p.HostIP.IsValid() {
			m.HostIp = p.HostIP.String()
		}
		c.PortMappings = append(c.PortMappings, m)
	}
	return c, nil
}

func hostname(spec runtimeiface.SandboxSpec) string {
	name := spec.Hostname
	if name == "" {
		name = spec.Name
	}
	if len(name) > 63 { // as Kubernetes v1.37.0 pkg/kubelet/kubelet_pods.go does
		name = strings.TrimRight(name[:63], "-.")
	}
	return name
}
