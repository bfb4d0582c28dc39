package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Plugin makes volumes of a source that this package does not: a network file
// system, a claim, CSI. Its methods may be called concurrently, but not for one pod.
type Plugin interface {
	// Mount has the volume's files at request.Dir, which is there. It is called
	// again for a volume that it has mounted, after a crash of the agent too, and
	// then finds that so. What needs time ends with ctx.
	Mount(ctx context.Context, request PluginRequest) error
	// Unmount takes from dir what Mount brought there; nil if nothing is there. It
	// does not get the pod, which may be long forgotten. Afterwards nothing may be
	// mounted at dir or below, and what else lies there is removed.
	Unmount(ctx context.Context, dir string) error
}

// PluginRequest is a volume to mount. Pod and Volume must not be changed.
type PluginRequest struct {
	Pod    *corev1.Pod
	Volume *corev1.Volume
	// Dir is absolute: Root/pods/UID/volumes/nodekit~SOURCE/NAME.
	Dir string
	// Group is the pod's fsGroup, which the plug-in gives the files to, by
	// GiveToGroup or its own way; nil is none.
	Group *int64
	// Objects has the Secrets that the source refers to.
	Objects Objects
}

// pluginKind begins the directory of a plug-in's volumes; the source follows.
const pluginKind = "nodekit~"

// own are the sources of volumes which this package, or the runtime, makes.
var own = []string{"hostPath", "emptyDir", "secret", "configMap", "downwardAPI", "projected", "image"}

// Sources lists the names, in JSON, that volume sources have, and for which
// there can be a Plugin: nfs, csi, persistentVolumeClaim and so on.
func Sources() []string {
	var names []string
	for f := range reflect.TypeFor[corev1.VolumeSource]().Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); !slices.Contains(own, name) {
			names = append(names, name)
		}
	}
	return names
}

func checkPlugins(plugins map[string]Plugin) error {
	var errs []error
	for name, plugin := range plugins {
		switch {
		case !slices.Contains(Sources(), name):
			errs = append(errs, fmt.Errorf("no volume source %q is for plug-ins, there are %s", name, strings.Join(Sources(), ", ")))
		case plugin == nil:
			errs = append(errs, fmt.Errorf("the plug-in for %s is nil", name))
		}
	}
	return errors.Join(errs...)
}

// sourceName is that of the volume in JSON, or "".
func sourceName(volume *corev1.Volume) string {
	for f, v := range reflect.ValueOf(volume.VolumeSource).Fields() {
		if !v.IsZero() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			return name
		}
	}
	return ""
}

func (m *Manager) plug(ctx context.Context, pod *corev1.Pod, volume *corev1.Volume, objects Objects) error {
	source := sourceName(volume)
	plugin := m.config.Plugins[source]
	if plugin == nil {
		return fmt.Errorf("volume source: %w: there is no plug-in for it", ErrNotSupported)
	}
	dir := m.dir(pod.UID, pluginKind+source, volume.Name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return plugin.Mount(ctx, PluginRequest{Pod: pod, Volume: volume, Dir: dir, Group: fsGroup(pod), Objects: objects})
}

// unplug takes all volumes of plug-ins away. One whose plug-in is no more is
// left to what the caller finds mounted.
func (m *Manager) unplug(ctx context.Context, uid types.UID) error {
	var errs []error
	for source, plugin := range m.config.Plugins {
		kind := filepath.Join(m.PodDir(uid), "volumes", pluginKind+source)
		entries, err := os.ReadDir(kind)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, entry := range entries {
			dir := filepath.Join(kind, entry.Name())
			if err := plugin.Unmount(ctx, dir); err != nil {
				errs = append(errs, fmt.Errorf("unmount %s: %w: %w", dir, ErrMounted, err))
			}
		}
	}
	return errors.Join(errs...)
}
