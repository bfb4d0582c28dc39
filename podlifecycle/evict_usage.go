package podlifecycle

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle/eviction"
	"github.com/nodekit/nodekit/podlifecycle/volume"
	"github.com/nodekit/nodekit/runtimeiface"
)

// measureTimeout bounds the measuring of all pods before one is evicted for a disk.
const measureTimeout = 30 * time.Second

// diskUsage is what a pod's files took up when they were last measured.
type diskUsage struct {
	containers map[string]eviction.ContainerUsage
	volumes    map[string]eviction.Disk
}

// candidate is a pod that may be evicted, and where its usage is found.
type candidate struct {
	pod        *corev1.Pod
	cgroup     string
	containers []runtimeiface.Container
}

// candidates are the pods that were let in and neither end nor have ended.
func (e *evictor) candidates() []candidate {
	var out []candidate
	for _, w := range e.m.list() {
		w.mu.Lock()
		if w.status.StartTime != nil && w.ending == nil && !terminal(w.status.Phase) {
			c := candidate{pod: w.allocated.Granted(w.pod), containers: w.seen.containers}
			for _, s := range w.seen.sandboxes {
				if s.State == runtimeiface.SandboxReady && s.CgroupParent != "" {
					c.cgroup = s.CgroupParent
				}
			}
			out = append(out, c)
		}
		w.mu.Unlock()
	}
	return out
}

// usage gives the candidates with what they use of what signal is about.
func (e *evictor) usage(ctx context.Context, signal eviction.Signal) []eviction.Pod {
	ctx, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	var out []eviction.Pod
	for _, c := range e.candidates() {
		pod := eviction.Pod{Pod: c.pod}
		if signal.Disk() {
			e.measure(ctx, c) // what cannot be measured now has been before, or is not known
			pod.Usage = e.disk(c.pod)
		} else {
			pod.Usage = e.meter(ctx, c)
		}
		out = append(out, pod)
	}
	return out
}

// meter asks for memory and processes; nil if they cannot be told.
func (e *evictor) meter(ctx context.Context, c candidate) *eviction.Usage {
	if len(c.containers) == 0 {
		return &eviction.Usage{} // it has not begun, and ending it would free nothing
	}
	if c.cgroup == "" {
		return nil
	}
	memory, processes, err := e.config.Meter.Cgroup(ctx, c.cgroup)
	if err != nil {
		return nil
	}
	u := &eviction.Usage{Memory: memory, Processes: processes}
	for _, container := range c.containers {
		if container.State != runtimeiface.ContainerRunning || container.Cgroup == "" {
			continue
		}
		if memory, _, err := e.config.Meter.Cgroup(ctx, container.Cgroup); err == nil {
			u.Containers = append(u.Containers, eviction.ContainerUsage{Name: container.Name, Memory: memory})
		}
	}
	return u
}

// limited gives the candidates that have limits, as they were last measured.
func (e *evictor) limited() []eviction.Pod {
	var out []eviction.Pod
	for _, c := range e.candidates() {
		if eviction.Limits(c.pod) != nil {
			out = append(out, eviction.Pod{Pod: c.pod, Usage: e.disk(c.pod)})
		}
	}
	return out
}

// disk is what the last measurement found; nil before there was one.
func (e *evictor) disk(pod *corev1.Pod) *eviction.Usage {
	e.mu.Lock()
	defer e.mu.Unlock()
	d, known := e.measured[pod.UID]
	if !known {
		return nil
	}
	u := &eviction.Usage{Volumes: d.volumes}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if c, ok := d.containers[list[i].Name]; ok {
				u.Containers = append(u.Containers, c)
			}
		}
	}
	return u
}

// measureLimits measures the pods with limits, one after another, again and
// again: a walk through many files must not hold up the look at memory.
func (e *evictor) measureLimits(ctx context.Context) {
	if e.config.Disk == nil {
		return
	}
	for e.m.sleep(ctx, e.config.DiskInterval) {
		known := map[types.UID]bool{}
		for _, c := range e.candidates() {
			known[c.pod.UID] = true
			if eviction.Limits(c.pod) != nil && ctx.Err() == nil {
				e.measure(ctx, c)
			}
		}
		e.mu.Lock()
		for uid := range e.measured {
			if !known[uid] {
				delete(e.measured, uid)
			}
		}
		e.mu.Unlock()
	}
}

// measure looks at all that a pod has written: emptyDirs and ConfigMaps on disk,
// logs and writable layers. If one of them cannot be measured, what was found
// before stays.
func (e *evictor) measure(ctx context.Context, c candidate) {
	d := diskUsage{map[string]eviction.ContainerUsage{}, map[string]eviction.Disk{}}
	log := e.m.config.Logger.WithValues("pod", c.pod.Namespace+"/"+c.pod.Name, "podUID", c.pod.UID)
	for i := range c.pod.Spec.Volumes {
		v := &c.pod.Spec.Volumes[i]
		dir := volume.DiskDir(e.m.config.Root, c.pod.UID, v)
		if dir == "" {
			continue
		}
		used, err := e.config.Disk(ctx, dir)
		if err != nil {
			log.V(1).Info("volume cannot be measured", "volume", v.Name, "error", err.Error())
			return
		}
		d.volumes[v.Name] = used
	}
	for _, list := range [][]corev1.Container{c.pod.Spec.InitContainers, c.pod.Spec.Containers} {
		for i := range list {
			name := list[i].Name
			u := eviction.ContainerUsage{Name: name}
			var err error
			if u.Logs, err = e.config.Disk(ctx, filepath.Join(e.m.logDir(c.pod), name)); err == nil {
				u.RootFS, err = e.rootFS(ctx, c, name)
			}
			if err != nil {
				log.V(1).Info("container cannot be measured", "container", name, "error", err.Error())
				return
			}
			d.containers[name] = u
		}
	}
	e.mu.Lock()
	e.measured[c.pod.UID] = d
	e.mu.Unlock()
}

// rootFS is the writable layer of the instance that runs.
func (e *evictor) rootFS(ctx context.Context, c candidate, name string) (eviction.Disk, error) {
	if e.config.RootFS == nil {
		return eviction.Disk{}, nil
	}
	for _, container := range c.containers {
		if container.Name == name && container.State == runtimeiface.ContainerRunning {
			fs, err := e.config.RootFS(ctx, container.ID)
			if errors.Is(err, runtimeiface.ErrNotFound) {
				err = nil // it has just gone, with all that it wrote
			}
			return eviction.Disk{Bytes: fs.UsedBytes, Inodes: fs.UsedInodes}, err
		}
	}
	return eviction.Disk{}, nil
}
