package volume

import (
	"context"

	"github.com/go-logr/logr"
	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Objects finds what a pod's volumes refer to. A nil result means that there is none.
type Objects interface {
	ConfigMap(namespace, name string) *corev1.ConfigMap
	Secret(namespace, name string) *corev1.Secret
}

// Config of a Manager.
type Config struct {
	// Root is the agent's directory, absolute; required. Volumes lie in
	// Root/pods/UID/volumes.
	Root string
	// Allocatable of the node, for downward API limits and the size of
	// in-memory volumes; nil is unknown.
	Allocatable corev1.ResourceList
	// Logger; the zero value discards.
	Logger logr.Logger
}

// Manager makes, updates and removes the volumes of pods. Its methods may be
// used concurrently; those of one pod wait for each other.
type Manager struct {
	config Config
}

// New checks config; it touches no file.
func New(config Config) (*Manager, error) { return &Manager{config: config}, nil }

// PodDir is the pod's directory, Root/pods/UID. Files of the agent's own, such
// as the pod's hosts file and termination messages, may lie in it beside
// "volumes" and "volume-subpaths"; Teardown removes them too.
func (m *Manager) PodDir(uid types.UID) string { return "" }

// Setup makes the pod's volumes, or finds them made and updates their content.
// What is there of an earlier, interrupted call is completed. The error joins
// one *Error for each volume that could not be made; the others are there.
func (m *Manager) Setup(ctx context.Context, pod *corev1.Pod, objects Objects) error { return nil }

// Update brings new content of ConfigMaps, Secrets and the downward API into
// the volumes that Setup made, each volume in one atomic step, and tells which volumes changed. A volume whose object
// went missing keeps its content and is in the error.
func (m *Manager) Update(ctx context.Context, pod *corev1.Pod, objects Objects) (changed []string, err error) {
	return nil, nil
}

// Mounts gives the container's volume mounts, in order of the manifest. environ
// is the container's environment as NAME=value, for subPathExpr. Volumes are
// set up before. A subPath is made if it is missing, and held by a bind mount of
// its own, so that nobody can swap it for a symbolic link later.
func (m *Manager) Mounts(ctx context.Context, pod *corev1.Pod, container *corev1.Container, environ []string) ([]specs.Mount, error) {
	return nil, nil
}

// Teardown unmounts what Setup and Mounts mounted and removes the pod's
// directory. It never follows a link nor crosses into a mount: if something is
// still mounted, it removes nothing below it and gives ErrMounted. Unknown UID: nil.
func (m *Manager) Teardown(ctx context.Context, uid types.UID) error { return nil }

// Pods lists the UIDs which have a directory, sorted.
func (m *Manager) Pods() ([]types.UID, error) { return nil, nil }
