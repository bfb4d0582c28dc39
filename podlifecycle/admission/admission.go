package admission

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/node/util/sysctl"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/nodekit/nodekit/podlifecycle/qos"
)

// Reasons of a rejection. A resource without a name here is "OutOf" and its own.
const (
	ReasonOutOfCPU              = "OutOfcpu"
	ReasonOutOfMemory           = "OutOfmemory"
	ReasonOutOfEphemeralStorage = "OutOfephemeral-storage"
	ReasonOutOfPods             = "OutOfpods"
	ReasonOS                    = "PodOSNotSupported"
	ReasonOSLabel               = "PodOSSelectorNodeLabelDoesNotMatch"
	ReasonNodeAffinity          = "NodeAffinity"
	ReasonSysctl                = "SysctlForbidden"
	ReasonAppArmor              = "AppArmor"
	// ReasonUnexpected is that of a critical pod for which nobody can make room.
	ReasonUnexpected = "UnexpectedAdmissionError"
)

const outOf = "OutOf"

// Config is the node.
type Config struct {
	// Labels of the node; kubernetes.io/os and kubernetes.io/arch are added if
	// they are not set.
	Labels map[string]string
	// Allocatable is what pods may request together, "pods" being how many there
	// may be. A resource that is not in it is not limited.
	Allocatable corev1.ResourceList
	// AllowedUnsafeSysctls are sysctls that pods may set beside the safe ones, a
	// trailing * standing for any rest. They must be namespaced.
	AllowedUnsafeSysctls []string
	// AppArmor says that the node's kernel enforces profiles. Without it a pod that
	// asks for one is rejected.
	AppArmor bool
}

// Node judges pods. It may be used concurrently; its Loads may not.
type Node struct {
	labels   map[string]string
	capacity map[corev1.ResourceName]int64
	sysctls  map[string]sysctl.Namespace
	prefixes map[string]sysctl.Namespace
	appArmor bool
}

// safeSysctls by their namespace. Source: Kubernetes v1.37.0
// pkg/kubelet/sysctl/safe_sysctls.go; Linux 4.15 has them all.
var safeSysctls = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
	"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem",
	"net.ipv4.tcp_wmem", "net.ipv4.tcp_slow_start_after_idle", "net.ipv4.tcp_notsent_lowat",
}

// New checks config. The error joins all that is wrong with it.
func New(config Config) (*Node, error) {
	n := &Node{labels: maps.Clone(config.Labels), capacity: amounts(config.Allocatable),
		sysctls: map[string]sysctl.Namespace{}, prefixes: map[string]sysctl.Namespace{}, appArmor: config.AppArmor}
	if n.labels == nil {
		n.labels = map[string]string{}
	}
	// The kubelet sets the first whatever it was; the second is its own too.
	n.labels[corev1.LabelOSStable] = runtime.GOOS
	if n.labels[corev1.LabelArchStable] == "" {
		n.labels[corev1.LabelArchStable] = runtime.GOARCH
	}
	var errs []error
	for _, pattern := range slices.Concat(safeSysctls, config.AllowedUnsafeSysctls) {
		namespace, name, prefix := sysctl.GetNamespace(pattern)
		switch {
		case namespace == sysctl.UnknownNamespace:
			errs = append(errs, fmt.Errorf("AllowedUnsafeSysctls: %q is not known to be namespaced", pattern))
		case prefix && strings.Index(pattern, "*") != len(pattern)-1:
			errs = append(errs, fmt.Errorf("AllowedUnsafeSysctls: %q has a * before its end", pattern))
		case prefix:
			n.prefixes[name] = namespace
		default:
			n.sysctls[name] = namespace
		}
	}
	for name, amount := range n.capacity {
		if amount < 0 {
			errs = append(errs, fmt.Errorf("the Allocatable[%s] must not be negative", name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("admission config: %w", err)
	}
	return n, nil
}

// Result is what becomes of a pod. Its zero value is that it is admitted.
type Result struct {
	// Reason and Message of the rejection, as the kubelet's; "" if there is none.
	Reason, Message string
	// Field that asks for what the node does not have; "" for resources.
	Field string
	// Preempt are the pods to end first. The pod is admitted once they are gone.
	Preempt []*corev1.Pod
	// Short is what there is too little of, whatever the Reason; nil if nothing.
	Short []Shortage
}

// Admit judges pod beside the pods of the load, which does not change.
func (l *Load) Admit(pod *corev1.Pod) Result {
	for _, check := range []func(*corev1.Pod) Result{l.node.sysctl, l.node.system, l.node.profiles} {
		if r := check(pod); r.Reason != "" {
			return r
		}
	}
	short := l.Short(pod)
	affinity := l.node.affinity(pod)
	switch {
	case len(short) == 0:
		return affinity
	case !qos.Critical(pod):
		return Result{Reason: short[0].Reason(), Message: short[0].String(), Short: short}
	case affinity.Reason != "":
		affinity.Short = short
		return affinity
	}
	victims, err := l.preempt(pod, short)
	if err != nil {
		return Result{Reason: ReasonUnexpected, Short: short,
			Message: "Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: " + err.Error()}
	}
	return Result{Preempt: victims, Short: short}
}

func (n *Node) sysctl(pod *corev1.Pod) Result {
	if pod.Spec.SecurityContext == nil {
		return Result{}
	}
	for i, s := range pod.Spec.SecurityContext.Sysctls {
		if why := n.forbidden(pod, sysctl.NormalizeName(s.Name)); why != "" {
			return Result{Reason: ReasonSysctl, Message: "forbidden sysctl: " + why,
				Field: fmt.Sprintf("spec.securityContext.sysctls[%d].name", i)}
		}
	}
	return Result{}
}

// forbidden tells why a pod may not set a sysctl, or "".
func (n *Node) forbidden(pod *corev1.Pod, name string) string {
	namespace, known := n.sysctls[name]
	for prefix, of := range n.prefixes {
		if !known && strings.HasPrefix(name, prefix) {
			namespace, known = of, true
		}
	}
	if !known {
		return fmt.Sprintf("%q not allowlisted", name)
	}
	hostUsers := pod.Spec.HostUsers == nil || *pod.Spec.HostUsers
	if namespace == sysctl.IPCNamespace && pod.Spec.HostIPC || namespace == sysctl.NetNamespace && pod.Spec.HostNetwork ||
		namespace == sysctl.UserNamespace && hostUsers {
		return fmt.Sprintf("%q not allowed with host %s enabled", name, namespace)
	}
	return ""
}

func (n *Node) system(pod *corev1.Pod) Result {
	if label, set := pod.Labels[corev1.LabelOSStable]; set && label != n.labels[corev1.LabelOSStable] {
		return Result{Reason: ReasonOSLabel, Field: fmt.Sprintf("metadata.labels[%s]", corev1.LabelOSStable),
			Message: "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"}
	}
	if pod.Spec.OS != nil && string(pod.Spec.OS.Name) != runtime.GOOS {
		return Result{Reason: ReasonOS, Field: "spec.os.name", Message: "Failed to admit pod as the OS field doesn't match node OS"}
	}
	return Result{}
}

// profiles has the text of Kubernetes v1.37.0 pkg/security/apparmor.
func (n *Node) profiles(pod *corev1.Pod) Result {
	if n.appArmor {
		return Result{}
	}
	path := appArmorField(pod)
	if path == "" {
		return Result{}
	}
	return Result{Reason: ReasonAppArmor, Field: path, Message: "Cannot enforce AppArmor: AppArmor is not enabled on the host"}
}

// appArmorField is the path of the first profile that is to be enforced, or "".
func appArmorField(pod *corev1.Pod) string {
	asks := func(profile *corev1.AppArmorProfile) bool {
		return profile != nil && profile.Type != corev1.AppArmorProfileTypeUnconfined
	}
	if of := pod.Spec.SecurityContext; of != nil && asks(of.AppArmorProfile) {
		return "spec.securityContext.appArmorProfile"
	}
	for _, list := range []struct {
		name       string
		containers []corev1.Container
	}{{"initContainers", pod.Spec.InitContainers}, {"containers", pod.Spec.Containers}} {
		for i := range list.containers {
			if of := list.containers[i].SecurityContext; of != nil && asks(of.AppArmorProfile) {
				return fmt.Sprintf("spec.%s[%d].securityContext.appArmorProfile", list.name, i)
			}
		}
	}
	return ""
}

func (n *Node) affinity(pod *corev1.Pod) Result {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: pod.Spec.NodeName, Labels: n.labels}}
	// An error is a term that cannot be read: it matches nothing.
	if ok, _ := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); ok {
		return Result{}
	}
	field := "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
	for key, value := range pod.Spec.NodeSelector {
		if have, set := n.labels[key]; !set || have != value {
			field = "spec.nodeSelector"
		}
	}
	return Result{Reason: ReasonNodeAffinity, Field: field,
		Message: "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}
}
