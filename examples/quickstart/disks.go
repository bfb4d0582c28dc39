package main

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/nodekit/nodekit/metrics"
	"github.com/nodekit/nodekit/metrics/summary"
	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/eviction/nodeusage"
	"github.com/nodekit/nodekit/podlifecycle/volume"
	"github.com/nodekit/nodekit/runtimeiface/oci"
)

// disks knows what pods have on disk, for the meter and the Summary, which walk
// no directories and wait for nobody.
type disks struct {
	root    string // of the pods
	runtime *oci.Runtime
	manager *podlifecycle.Manager
	usage   *nodeusage.Node
	logger  logr.Logger

	mu         sync.Mutex
	containers map[string]written // by ID
	pods       map[types.UID]held
}

// written is what a container has written, held what a pod has of its own.
type written struct{ layer, logs metrics.DiskUse }
type held struct {
	own     metrics.DiskUse
	volumes []stats.VolumeStats
}

// run looks each interval until ctx ends.
func (d *disks) run(ctx context.Context, interval time.Duration) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		d.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (d *disks) look(ctx context.Context) {
	containers, pods := map[string]written{}, map[types.UID]held{}
	for _, t := range d.manager.Targets() {
		var w written
		// What cannot be told now stays unknown.
		if layer, err := d.runtime.ContainerFilesystem(ctx, t.ContainerID); err == nil {
			w.layer = metrics.DiskUse{Bytes: uint64(max(0, layer.UsedBytes)), Inodes: uint64(max(0, layer.UsedInodes)), At: time.Now()}
		}
		if log, err := d.manager.LogPath(t.Namespace, t.Pod, t.Container, false); err == nil {
			w.logs = d.weigh(ctx, filepath.Dir(log))
		}
		containers[t.ContainerID] = w
	}
	for _, pod := range d.manager.Pods() {
		h := held{own: metrics.DiskUse{At: time.Now()}}
		for i := range pod.Spec.Volumes {
			v := &pod.Spec.Volumes[i]
			dir := volume.Dir(d.root, pod.UID, v)
			if dir == "" {
				continue
			}
			var used metrics.DiskUse
			if volume.DiskDir(d.root, pod.UID, v) != "" {
				used = d.weigh(ctx, dir)
				h.own.Bytes, h.own.Inodes = h.own.Bytes+used.Bytes, h.own.Inodes+used.Inodes
				if used.At.IsZero() {
					h.own.At = used.At // a part is missing
				}
			}
			one, err := summary.VolumeAt(v.Name, dir, used)
			if err != nil { // it is not made yet, or is gone
				d.logger.V(4).Info("volume cannot be looked at", "pod", pod.Namespace+"/"+pod.Name, "volume", v.Name, "error", err.Error())
				continue
			}
			h.volumes = append(h.volumes, one)
		}
		pods[pod.UID] = h
	}
	if ctx.Err() != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.containers, d.pods = containers, pods
}

// weigh walks through a directory; zero for not known.
func (d *disks) weigh(ctx context.Context, dir string) metrics.DiskUse {
	used, err := d.usage.Disk(ctx, dir)
	if err != nil {
		d.logger.V(4).Info("directory cannot be measured", "path", dir, "error", err.Error())
		return metrics.DiskUse{}
	}
	return metrics.DiskUse{Bytes: uint64(used.Bytes), Inodes: uint64(used.Inodes), At: time.Now()}
}

// onDisk gives what was found last.
func (d *disks) onDisk(t metrics.Target) (layer, logs metrics.DiskUse) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t.Container == "" {
		return d.pods[types.UID(t.PodUID)].own, logs
	}
	w := d.containers[t.ID]
	return w.layer, w.logs
}

// volumes gives what was found last.
func (d *disks) volumes(pod stats.PodReference) []stats.VolumeStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pods[types.UID(pod.UID)].volumes
}
