package source

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/nodekit/nodekit/podlifecycle/manifest"
)

// Source gives whole sets. Directory, HTTP, Reader, Channel and Merge are some.
type Source interface {
	// Run calls update with the whole set, whenever it became another, from one
	// goroutine at a time, until ctx ends. It gives nil then.
	Run(ctx context.Context, update func(Set)) error
}

// Annotations that a source sets on its pods.
const (
	// AnnotationSource is "file" for a pod of a directory, "http", "stdin" for
	// one of a Reader, and "channel".
	AnnotationSource = "kubernetes.io/config.source"
	// AnnotationHash changes with any change of the pod's manifest.
	AnnotationHash = "kubernetes.io/config.hash"
	// AnnotationFile names the file, relative to the directory, or what else the
	// pod was found in: the URL, or the Name of a Reader or Channel.
	AnnotationFile = "nodekit.dev/file"
)

// Set is all that a source wants at one moment. Objects in it are shared:
// read, never change them.
type Set struct {
	// Pods are defaulted, valid and supported, sorted by file and order in it.
	Pods           []*corev1.Pod
	ConfigMaps     []*corev1.ConfigMap
	Secrets        []*corev1.Secret
	Services       []*corev1.Service
	EndpointSlices []*discoveryv1.EndpointSlice
	// Problems of all files, sorted by file.
	Problems []manifest.Problem
	// Broken names files, relative to the directory, in which something could
	// not be read, parsed or accepted; "." is the directory itself. What was
	// known from them before is still in the set, so that a slip of the pen
	// stops nothing.
	Broken []string
	// Waiting names sources that have not said yet what they want. As long as
	// there is one, what is not in the set may still be wanted, and nobody may
	// end it for that.
	Waiting []string
}

// ConfigMap finds by name, nil if there is none. With Secret it makes a Set
// what packages env and volume ask for.
func (s Set) ConfigMap(namespace, name string) *corev1.ConfigMap {
	for _, configMap := range s.ConfigMaps {
		if configMap.Name == name && configMap.Namespace == namespace {
			return configMap
		}
	}
	return nil
}

// Secret finds by name, nil if there is none.
func (s Set) Secret(namespace, name string) *corev1.Secret {
	for _, secret := range s.Secrets {
		if secret.Name == name && secret.Namespace == namespace {
			return secret
		}
	}
	return nil
}
