package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/nodekit/nodekit/podlifecycle/qos"
)

// Directories of a volume's kind, below "volumes".
const (
	emptyDirKind  = "kubernetes.io~empty-dir"
	configMapKind = "kubernetes.io~configmap"
	secretKind    = "kubernetes.io~secret"
	downwardKind  = "kubernetes.io~downward-api"
	projectedKind = "kubernetes.io~projected"
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
	// Plugins make volumes of other sources, by the source's name in JSON, such as
	// "nfs"; see Sources.
	Plugins map[string]Plugin
	// Logger; the zero value discards.
	Logger logr.Logger
}

// Manager makes, updates and removes the volumes of pods. Its methods may be
// used concurrently; those of one pod wait for each other.
type Manager struct {
	config Config

	mu    sync.Mutex
	locks map[types.UID]*podLock
}

// podLock is there while somebody has or wants it. A pod has one of its own, so
// that a plug-in that hangs holds up nobody else.
type podLock struct {
	sync.Mutex
	users int // under Manager.mu
}

// New checks config; it touches no file.
func New(config Config) (*Manager, error) {
	if !filepath.IsAbs(config.Root) {
		return nil, fmt.Errorf("volume config: Root %q is not absolute", config.Root)
	}
	if err := checkPlugins(config.Plugins); err != nil {
		return nil, fmt.Errorf("volume config: Plugins: %w", err)
	}
	config.Root = filepath.Clean(config.Root)
	return &Manager{config: config, locks: map[types.UID]*podLock{}}, nil
}

// lock waits for the pod's other calls and gives what ends this one.
func (m *Manager) lock(uid types.UID) (unlock func()) {
	m.mu.Lock()
	l := m.locks[uid]
	if l == nil {
		l = &podLock{}
		m.locks[uid] = l
	}
	l.users++
	m.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		m.mu.Lock()
		defer m.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(m.locks, uid)
		}
	}
}

// PodDir is the pod's directory, Root/pods/UID. Files of the agent's own, such
// as the pod's hosts file and termination messages, may lie in it beside
// "volumes" and "volume-subpaths"; Teardown removes them too.
func (m *Manager) PodDir(uid types.UID) string {
	return filepath.Join(m.config.Root, "pods", string(uid))
}

// Setup makes the pod's volumes, or finds them made and updates their content.
// What is there of an earlier, interrupted call is completed. The error joins
// one *Error for each volume that could not be made; the others are there.
func (m *Manager) Setup(ctx context.Context, pod *corev1.Pod, objects Objects) error {
	_, err := m.each(ctx, pod, objects, true)
	return err
}

// Update brings new content of ConfigMaps, Secrets and the downward API into
// the volumes that Setup made, each volume in one atomic step, and tells by
// name which changed. A volume whose object went missing keeps its content and
// is in the error.
func (m *Manager) Update(ctx context.Context, pod *corev1.Pod, objects Objects) (changed []string, err error) {
	return m.each(ctx, pod, objects, false)
}

func (m *Manager) each(ctx context.Context, pod *corev1.Pod, objects Objects, all bool) (changed []string, err error) {
	if err := element(string(pod.UID)); err != nil {
		return nil, fmt.Errorf("UID: %w", err)
	}
	defer m.lock(pod.UID)()
	if all {
		if err := os.MkdirAll(filepath.Join(m.PodDir(pod.UID), "volumes"), 0o750); err != nil {
			return nil, err
		}
	}
	var errs []error
	for i := range pod.Spec.Volumes {
		if err := ctx.Err(); err != nil {
			return changed, err
		}
		volume := &pod.Spec.Volumes[i]
		path, isChanged, err := m.one(ctx, pod, volume, objects, all, field.NewPath("spec", "volumes").Index(i))
		if err != nil {
			errs = append(errs, &Error{Pod: pod.Namespace + "/" + pod.Name, Field: path.String(), Volume: volume.Name, Err: err})
		}
		if isChanged {
			changed = append(changed, volume.Name)
			m.config.Logger.V(4).Info("volume content written", "pod", pod.Namespace+"/"+pod.Name, "podUID", pod.UID, "volume", volume.Name)
		}
	}
	return changed, errors.Join(errs...)
}

// one sets one volume up, or updates its content.
func (m *Manager) one(ctx context.Context, pod *corev1.Pod, volume *corev1.Volume, objects Objects, all bool, p *field.Path) (*field.Path, bool, error) {
	if err := element(volume.Name); err != nil {
		return p.Child("name"), false, err
	}
	switch {
	case volume.Image != nil: // the runtime mounts it
		return p, false, nil
	case volume.EmptyDir != nil:
		if !all {
			return p, false, nil
		}
		return p.Child("emptyDir"), false, m.emptyDir(pod, volume)
	case volume.HostPath != nil:
		if !all {
			return p, false, nil
		}
		return p.Child("hostPath"), false, hostPath(volume.HostPath)
	}
	kind, name := contentKind(volume)
	if kind == "" {
		if !all {
			return p, false, nil
		}
		return p.Child(sourceName(volume)), false, m.plug(ctx, pod, volume, objects)
	}
	dir := m.dir(pod.UID, kind, volume.Name)
	if !all {
		if _, err := os.Lstat(filepath.Join(dir, dataLink)); errors.Is(err, fs.ErrNotExist) {
			return p, false, nil // not set up
		}
	}
	content := newContent(pod, objects, m.config.Allocatable)
	at, err := content.volume(volume, p.Child(name))
	if err != nil {
		return at, false, err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return at, false, err
	}
	if kind != configMapKind {
		// Never on a disk.
		if err := mountMemory(dir, memory{mode: 0o777, noSwap: true}); err != nil {
			return at, false, err
		}
	} else if err := os.Chmod(dir, 0o777); err != nil { // in spite of the umask
		return at, false, err
	}
	changed, err := writeAtomic(dir, content.files, fsGroup(pod))
	return at, changed, err
}

func contentKind(volume *corev1.Volume) (kind, name string) {
	switch {
	case volume.ConfigMap != nil:
		return configMapKind, "configMap"
	case volume.Secret != nil:
		return secretKind, "secret"
	case volume.DownwardAPI != nil:
		return downwardKind, "downwardAPI"
	case volume.Projected != nil:
		return projectedKind, "projected"
	}
	return "", ""
}

func (m *Manager) dir(uid types.UID, kind, name string) string {
	return filepath.Join(m.PodDir(uid), "volumes", kind, name)
}

// path is where the volume's files lie on the node.
func (m *Manager) path(uid types.UID, volume *corev1.Volume) string {
	if volume.HostPath != nil {
		return volume.HostPath.Path
	}
	return m.dir(uid, kindOf(volume), volume.Name)
}

func kindOf(volume *corev1.Volume) string {
	if volume.EmptyDir != nil {
		return emptyDirKind
	}
	kind, _ := contentKind(volume)
	if kind == "" {
		kind = pluginKind + sourceName(volume)
	}
	return kind
}

// Dir gives where, below a Manager's Root, the files of a volume lie. It is ""
// for those that lie elsewhere: on the host, or in an image.
func Dir(root string, uid types.UID, volume *corev1.Volume) string {
	if volume.HostPath != nil || volume.Image != nil || element(string(uid)) != nil || element(volume.Name) != nil {
		return ""
	}
	return filepath.Join(root, "pods", string(uid), "volumes", kindOf(volume), volume.Name)
}

// DiskDir is Dir of a volume that takes up the node's disk and goes with the pod:
// an emptyDir on disk or a ConfigMap. It is "" for all others.
func DiskDir(root string, uid types.UID, volume *corev1.Volume) string {
	if volume.EmptyDir != nil && volume.EmptyDir.Medium == corev1.StorageMediumDefault || volume.ConfigMap != nil {
		return Dir(root, uid, volume)
	}
	return ""
}

func (m *Manager) emptyDir(pod *corev1.Pod, volume *corev1.Volume) error {
	dir := m.dir(pod.UID, emptyDirKind, volume.Name)
	mode := uint32(0o777)
	if volume.EmptyDir.Mode != nil {
		mode = uint32(*volume.EmptyDir.Mode)
	}
	group := fsGroup(pod)
	if group != nil {
		mode |= 0o2770
	}
	switch volume.EmptyDir.Medium {
	case corev1.StorageMediumMemory:
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return err
		}
		return mountMemory(dir, memory{mode: mode, size: m.memorySize(pod, volume.EmptyDir), group: group})
	case corev1.StorageMediumDefault:
		return makeDir(dir, mode, group)
	default:
		return fmt.Errorf("medium %s: %w", volume.EmptyDir.Medium, ErrNotSupported)
	}
}

// makeDir makes dir with its mode and group, in one step: once it is there it
// belongs to the pod, which may have changed both.
func makeDir(dir string, mode uint32, group *int64) error {
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	parent, name := filepath.Split(dir)
	if err := os.MkdirAll(parent, 0o750); err != nil {
		return err
	}
	// No volume's name begins with a dot.
	part := filepath.Join(parent, "."+name)
	if err := os.Mkdir(part, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if group != nil {
		if err := os.Lchown(part, -1, int(*group)); err != nil {
			return err
		}
	}
	if err := os.Chmod(part, fileMode(mode)); err != nil {
		return err
	}
	return os.Rename(part, dir)
}

// fileMode translates mode bits of chmod(2).
func fileMode(mode uint32) fs.FileMode {
	result := fs.FileMode(mode & 0o777)
	for bit, set := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			result |= set
		}
	}
	return result
}

// memorySize is the least of the volume's limit, the pod's and the node's
// memory, in bytes; 0 is none.
func (m *Manager) memorySize(pod *corev1.Pod, source *corev1.EmptyDirVolumeSource) int64 {
	limits := qos.Limits(pod)
	size := int64(0)
	consider := func(bytes int64) {
		if bytes > 0 && (size == 0 || bytes < size) {
			size = bytes
		}
	}
	if source.SizeLimit != nil {
		consider(source.SizeLimit.Value())
	}
	consider(limits.Memory().Value())
	consider(m.config.Allocatable.Memory().Value())
	return size
}

func fsGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// Pods lists the UIDs which have a directory, sorted.
func (m *Manager) Pods() ([]types.UID, error) {
	entries, err := os.ReadDir(filepath.Join(m.config.Root, "pods"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var uids []types.UID
	for _, entry := range entries {
		if entry.IsDir() {
			uids = append(uids, types.UID(entry.Name()))
		}
	}
	return uids, nil
}

// element wants a name that is one element of a path.
func element(name string) error {
	if name == "" || name == "." || name == ".." || filepath.Base(name) != name || name[0] == '.' {
		return fmt.Errorf("%q: %w", name, ErrInvalid)
	}
	return nil
}
