package podlifecycle

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// reasonResize is a fault's that holds up nothing but the resize.
const reasonResize = "ResizeError"

// resize sets one resource of a container's cgroup, or of the pod's.
func (w *worker) resize(ctx context.Context, pod *corev1.Pod, a Action) (func(), error) {
	if a.ID == "" {
		err := w.m.config.Cgroups.Ensure(ctx, w.m.config.QoS.PodCgroup(pod), oneResource(w.m.config.QoS.PodResources(sized(pod, a.Size)), a.Resource))
		if err != nil {
			return nil, &waitingError{reasonResize, false, fmt.Errorf("resize pod: %w", err)}
		}
		size := a.Size
		return func() { w.size = &size }, nil
	}
	ctx, cancel := context.WithTimeout(ctx, containerTimeout)
	defer cancel()
	c := containerOf(pod, a.Container).DeepCopy()
	c.Resources = a.Size
	limits := oneResource(w.m.config.QoS.ContainerResources(pod, c), a.Resource)
	if limits.CPU != nil || limits.Memory != nil {
		if err := w.m.config.Runtime.UpdateContainer(ctx, a.ID, *limits); err != nil {
			return nil, &waitingError{reasonResize, false, fmt.Errorf("resize container %s: %w", a.Container, err)}
		}
	}
	return func() { w.actuated[a.ID] = a.Size }, nil
}

// oneResource leaves out what shall stay as it is.
func oneResource(all *specs.LinuxResources, name corev1.ResourceName) *specs.LinuxResources {
	if name == corev1.ResourceCPU {
		return &specs.LinuxResources{CPU: all.CPU}
	}
	out := &specs.LinuxResources{Memory: all.Memory}
	if all.Memory != nil {
		out.Unified = all.Unified
	}
	return out
}

// cgroupSize is what the pod's cgroup is to be made of: what it was, so that
// nothing shrinks before its time, else what was granted.
func (w *worker) cgroupSize(pod *corev1.Pod) corev1.ResourceRequirements {
	if w.size != nil {
		return *w.size
	}
	return podSize(pod)
}

// usage looks at the memory of what is to have less of it.
func (w *worker) usage(ctx context.Context, o *Observed, pod *corev1.Pod) map[string]int64 {
	if w.m.config.Cgroups == nil || o.Cgroup == nil || o.Ending != nil {
		return nil
	}
	used := map[string]int64{}
	for _, id := range newPlanner(pod, o, w.m.config.Clock.Now()).shrinks() {
		path := ""
		if id == "" {
			path = w.m.config.QoS.PodCgroup(pod)
		}
		for i := range o.Containers {
			if o.Containers[i].ID == id {
				path = o.Containers[i].Cgroup
			}
		}
		if path == "" {
			continue
		}
		bytes, err := w.m.config.Cgroups.MemoryUsage(ctx, path)
		if err != nil {
			w.log.V(1).Info("memory usage is not known", "path", path, "error", err.Error())
			continue
		}
		used[id] = bytes
	}
	return used
}

// annotateSize writes down of what size a container is made.
func annotateSize(spec *runtimeiface.ContainerSpec, pod *corev1.Pod, c *corev1.Container) error {
	text, err := json.Marshal(containerSize(pod, c))
	if err != nil {
		return fmt.Errorf("encode size: %w", err)
	}
	spec.Annotations[AnnotationSize] = string(text)
	return nil
}
