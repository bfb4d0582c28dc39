package volume

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/nodekit/nodekit/podlifecycle/env"
)

// Mounts gives the container's volume mounts, in order of the manifest. environ
// is the container's environment as NAME=value, for subPathExpr. Volumes are
// set up before. A subPath is made if it is missing, and held by a bind mount of
// its own, so that nobody can swap it for a symbolic link later. The error is
// an *Error; it wraps ErrEscape for a path out of the volume. An image volume is a
// mount of Type "image" with the reference as Source, for the caller to put the
// image's ID in its place, and subPath as option "subpath=".
func (m *Manager) Mounts(ctx context.Context, pod *corev1.Pod, container *corev1.Container, environ []string) ([]specs.Mount, error) {
	for _, name := range []string{string(pod.UID), container.Name} {
		if err := element(name); err != nil {
			return nil, err
		}
	}
	defer m.lock(pod.UID)()
	var mounts []specs.Mount
	at := containerPath(pod, container.Name)
	for i := range container.VolumeMounts {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		mount := &container.VolumeMounts[i]
		p := at.Child("volumeMounts").Index(i)
		fail := func(p *field.Path, err error) ([]specs.Mount, error) {
			return nil, &Error{Pod: pod.Namespace + "/" + pod.Name, Field: p.String(), Volume: mount.Name, Err: err}
		}
		volume := findVolume(pod, mount.Name)
		if volume == nil {
			return fail(p.Child("name"), ErrMissing)
		}
		sub, subAt := mount.SubPath, p.Child("subPath")
		if mount.SubPathExpr != "" {
			var err error
			subAt = p.Child("subPathExpr")
			if sub, err = env.ExpandStrict(mount.SubPathExpr, environ); err != nil {
				return fail(subAt, err)
			}
		}
		if sub != "" {
			if path.IsAbs(sub) || hasDotDot(sub) {
				return fail(subAt, fmt.Errorf("%q: %w", sub, ErrEscape))
			}
		}
		if volume.Image != nil {
			mounts = append(mounts, imageMount(volume, mount, sub))
			continue
		}
		source := m.path(pod.UID, volume)
		if sub != "" {
			target := filepath.Join(m.PodDir(pod.UID), "volume-subpaths", volume.Name, container.Name, strconv.Itoa(i))
			makeMissing := !isContent(volume)
			if err := bindSubPath(source, sub, target, makeMissing); err != nil {
				return fail(subAt, fmt.Errorf("%q: %w", sub, err))
			}
			source = target
		}
		mounts = append(mounts, specs.Mount{
			Type: "bind", Source: source, Destination: path.Join("/", mount.MountPath),
			Options: options(mount, isContent(volume)),
		})
	}
	return mounts, nil
}

// isContent tells that the files are of the pod's specification or of objects.
func isContent(volume *corev1.Volume) bool {
	kind, _ := contentKind(volume)
	return kind != ""
}

func imageMount(volume *corev1.Volume, mount *corev1.VolumeMount, sub string) specs.Mount {
	m := specs.Mount{Type: "image", Source: volume.Image.Reference, Destination: path.Join("/", mount.MountPath), Options: []string{"ro"}}
	if sub != "" {
		m.Options = append(m.Options, "subpath="+path.Clean(sub))
	}
	return m
}

// maxFile is how much File reads, in bytes.
const maxFile = 1 << 20

// File reads a file of one of the pod's emptyDir volumes, which a container has
// left there. Links in path do not lead out of the volume: ErrEscape. What is
// no regular file, or larger than 1 MiB, is ErrInvalid. The error may also be
// ErrMissing, for the volume or the file.
func (m *Manager) File(pod *corev1.Pod, volume, path string) ([]byte, error) {
	v := findVolume(pod, volume)
	if v == nil {
		return nil, fmt.Errorf("volume %s: %w", volume, ErrMissing)
	}
	if v.EmptyDir == nil {
		return nil, fmt.Errorf("volume %s is no emptyDir: %w", volume, ErrInvalid)
	}
	text, err := readBeneath(m.path(pod.UID, v), path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("read %s of volume %s: %w", path, volume, err)
	}
	return text, nil
}

// options of an OCI mount. Volumes of content are read-only for everybody.
func options(mount *corev1.VolumeMount, content bool) []string {
	result := []string{"rbind"}
	propagation := "rprivate"
	if mount.MountPropagation != nil {
		switch *mount.MountPropagation {
		case corev1.MountPropagationHostToContainer:
			propagation = "rslave"
		case corev1.MountPropagationBidirectional:
			propagation = "rshared"
		}
	}
	result = append(result, propagation)
	recursive := corev1.RecursiveReadOnlyDisabled
	if mount.RecursiveReadOnly != nil {
		recursive = *mount.RecursiveReadOnly
	}
	switch {
	case !mount.ReadOnly && !content:
		return append(result, "rw")
	case recursive == corev1.RecursiveReadOnlyEnabled, recursive == corev1.RecursiveReadOnlyIfPossible && canRecursiveReadOnly():
		return append(result, "rro")
	default:
		return append(result, "ro")
	}
}

func hasDotDot(name string) bool {
	for _, part := range strings.Split(name, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}

func findVolume(pod *corev1.Pod, name string) *corev1.Volume {
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Name == name {
			return &pod.Spec.Volumes[i]
		}
	}
	return nil
}

func containerPath(pod *corev1.Pod, name string) *field.Path {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return field.NewPath("spec", "initContainers").Index(i)
		}
	}
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == name {
			return field.NewPath("spec", "containers").Index(i)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return field.NewPath("spec", "ephemeralContainers").Index(i)
		}
	}
	return field.NewPath("spec", "containers").Key(name)
}
