package podlifecycle

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle/manifest"
	"github.com/nodekit/nodekit/runtimeiface"
)

// list gives the workers, by namespace, name and UID.
func (m *Manager) list() []*worker {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*worker, 0, len(m.workers))
	for _, w := range m.workers {
		out = append(out, w)
	}
	slices.SortFunc(out, func(a, b *worker) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.uid, b.uid))
	})
	return out
}

// Pods gives every pod with its status, as copies, by namespace and name; also
// those that are ending, and manifests that are no valid pods.
func (m *Manager) Pods() []*corev1.Pod {
	var out []*corev1.Pod
	there := map[string]bool{}
	for _, w := range m.list() {
		out = append(out, w.snapshot())
		there[w.key] = true
	}
	m.mu.Lock()
	for key, pod := range m.phantoms {
		if !there[key] {
			out = append(out, pod.DeepCopy())
		}
	}
	m.mu.Unlock()
	slices.SortStableFunc(out, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// Pod gives one pod with its status, or ErrNotFound. While one of that name
// takes the place of another, the new one is given.
func (m *Manager) Pod(namespace, name string) (*corev1.Pod, error) {
	if w := m.find(namespace, name); w != nil {
		return w.snapshot(), nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if pod := m.phantoms[namespace+"/"+name]; pod != nil {
		return pod.DeepCopy(), nil
	}
	return nil, fmt.Errorf("pod %s/%s: %w", namespace, name, ErrNotFound)
}

func (m *Manager) find(namespace, name string) *worker {
	var found *worker
	for _, w := range m.list() {
		if w.key != namespace+"/"+name {
			continue
		}
		w.mu.Lock()
		leaving := w.ending != nil && w.ending.Forget
		w.mu.Unlock()
		if found == nil || !leaving {
			found = w
		}
	}
	return found
}

// Problems gives what is wrong with the manifests of the newest set.
func (m *Manager) Problems() []manifest.Problem {
	return slices.Clone(m.objects().Problems)
}

// LogPath gives the file of a container's log, as the CRI writes it, or of the
// instance before it. ErrNotFound: no such pod or container, or it has not
// run, or not been restarted.
func (m *Manager) LogPath(namespace, name, container string, previous bool) (string, error) {
	w := m.find(namespace, name)
	if w == nil {
		return "", fmt.Errorf("pod %s/%s: %w", namespace, name, ErrNotFound)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, list := range [][]corev1.ContainerStatus{w.status.InitContainerStatuses, w.status.ContainerStatuses, w.status.EphemeralContainerStatuses} {
		for i := range list {
			s := &list[i]
			if s.Name != container {
				continue
			}
			attempt := int(s.RestartCount)
			if previous {
				attempt--
			}
			if s.ContainerID == "" || attempt < 0 {
				return "", fmt.Errorf("log of container %s in pod %s/%s: %w", container, namespace, name, ErrNotFound)
			}
			return filepath.Join(m.logDir(w.pod), container, strconv.Itoa(attempt)+".log"), nil
		}
	}
	return "", fmt.Errorf("container %s in pod %s/%s: %w", container, namespace, name, ErrNotFound)
}

// Target is a running container, for whoever meters it.
type Target struct {
	Namespace, Pod string
	UID            types.UID
	Container      string
	// ContainerID as the runtime knows it, and the container's restart count.
	ContainerID string
	Attempt     uint32
	// Image as the spec names it.
	Image string
	// Cgroup and PID of the container, PodCgroup and SandboxPID of the pod;
	// "" and 0 if not known. The sandbox's PID is in the pod's network namespace.
	Cgroup, PodCgroup string
	PID, SandboxPID   int
	HostNetwork       bool
}

// Targets gives the containers that ran at the last look, by pod and name.
func (m *Manager) Targets() []Target {
	var out []Target
	for _, w := range m.list() {
		w.mu.Lock()
		for _, c := range w.seen.containers {
			if c.State != runtimeiface.ContainerRunning {
				continue
			}
			t := Target{Namespace: w.pod.Namespace, Pod: w.pod.Name, UID: w.uid, Container: c.Name, ContainerID: c.ID,
				Attempt: c.Attempt, Image: c.Annotations[AnnotationImage], Cgroup: c.Cgroup, PID: c.PID, HostNetwork: w.pod.Spec.HostNetwork}
			for _, s := range w.seen.sandboxes {
				if s.ID == c.SandboxID {
					t.PodCgroup, t.SandboxPID = s.CgroupParent, s.PID
				}
			}
			out = append(out, t)
		}
		w.mu.Unlock()
	}
	return out
}
