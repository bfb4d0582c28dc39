package env

import (
	corev1 "k8s.io/api/core/v1"
)

// Objects finds what a pod refers to. A nil result means that there is none.
type Objects interface {
	ConfigMap(namespace, name string) *corev1.ConfigMap
	Secret(namespace, name string) *corev1.Secret
}

// Input is what a container's environment is made of. Nothing in it is changed.
type Input struct {
	// Pod is required. Its status gives podIP, podIPs, hostIP and hostIPs.
	Pod *corev1.Pod
	// Container is required; one of the pod's, init containers included.
	Container *corev1.Container
	// Objects may be nil: then every reference that is not optional is missing.
	Objects Objects
	// Services, of any namespace: those of the pod's become variables while
	// enableServiceLinks is not false, and "kubernetes" of "default" always.
	Services []*corev1.Service
	// Allocatable stands for the limits that a container does not set, for
	// resourceFieldRef.
	Allocatable corev1.ResourceList
}

// Resolve gives the variables as NAME=value, each name once: envFrom and env in
// order of the manifest, then those of services that no other has the name of,
// sorted. The error joins one *Error for each variable that has no value.
func Resolve(in Input) ([]string, error) { return nil, nil }

// Expand replaces $(NAME) in each of list by the value in environ, which is
// Resolve's result; $$ stands for a dollar sign, an unknown name stays as it is.
// The result is a new slice, nil for nil.
func Expand(list []string, environ []string) []string { return nil }

// ExpandStrict is Expand for one string; an unknown name is an error.
func ExpandStrict(s string, environ []string) (string, error) { return "", nil }

// Field gives the value of a downward API path such as metadata.name,
// metadata.labels['app'] or status.podIP. Paths that only a volume knows
// (metadata.labels, metadata.annotations) are given as lines of key="value".
func Field(pod *corev1.Pod, path string) (string, error) { return "", nil }

// Resource gives the value of a resourceFieldRef for container: the resource
// divided by the divisor, rounded up. A limit that is not set is allocatable's.
func Resource(container *corev1.Container, ref *corev1.ResourceFieldSelector, allocatable corev1.ResourceList) (string, error) {
	return "", nil
}
