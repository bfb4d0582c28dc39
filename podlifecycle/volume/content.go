package volume

import (
	"fmt"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/nodekit/nodekit/podlifecycle/env"
)

const defaultMode = 0o644

// content is what the files of a volume shall be. It is worked out without
// touching any.
type content struct {
	pod         *corev1.Pod
	objects     Objects
	allocatable corev1.ResourceList
	// files by relative path.
	files map[string]contentFile
}

type contentFile struct {
	data []byte
	mode uint32
}

func newContent(pod *corev1.Pod, objects Objects, allocatable corev1.ResourceList) *content {
	return &content{pod: pod, objects: objects, allocatable: allocatable, files: map[string]contentFile{}}
}

// volume gives, with an error, the path of the field to blame.
func (c *content) volume(volume *corev1.Volume, p *field.Path) (*field.Path, error) {
	switch {
	case volume.ConfigMap != nil:
		s := volume.ConfigMap
		return c.configMap(s.Name, s.Items, s.Optional, mode(s.DefaultMode), p, p.Child("name"))
	case volume.Secret != nil:
		s := volume.Secret
		return c.secret(s.SecretName, s.Items, s.Optional, mode(s.DefaultMode), p, p.Child("secretName"))
	case volume.DownwardAPI != nil:
		return c.downward(volume.DownwardAPI.Items, mode(volume.DownwardAPI.DefaultMode), p)
	}
	s := volume.Projected
	for i, source := range s.Sources {
		var at *field.Path
		var err error
		from := p.Child("sources").Index(i)
		switch {
		case source.ConfigMap != nil:
			at = from.Child("configMap")
			at, err = c.configMap(source.ConfigMap.Name, source.ConfigMap.Items, source.ConfigMap.Optional, mode(s.DefaultMode), at, at.Child("name"))
		case source.Secret != nil:
			at = from.Child("secret")
			at, err = c.secret(source.Secret.Name, source.Secret.Items, source.Secret.Optional, mode(s.DefaultMode), at, at.Child("name"))
		case source.DownwardAPI != nil:
			at, err = c.downward(source.DownwardAPI.Items, mode(s.DefaultMode), from.Child("downwardAPI"))
		default:
			at, err = from, fmt.Errorf("projection: %w", ErrNotSupported)
		}
		if err != nil {
			return at, err
		}
	}
	return p, nil
}

func mode(m *int32) uint32 {
	if m == nil {
		return defaultMode
	}
	return uint32(*m)
}

func (c *content) configMap(name string, items []corev1.KeyToPath, optional *bool, mode uint32, p, nameAt *field.Path) (*field.Path, error) {
	var configMap *corev1.ConfigMap
	if c.objects != nil {
		configMap = c.objects.ConfigMap(c.pod.Namespace, name)
	}
	object := "ConfigMap " + c.pod.Namespace + "/" + name
	if configMap == nil {
		return nameAt, missing(object, optional)
	}
	data := make(map[string][]byte, len(configMap.Data)+len(configMap.BinaryData))
	for key, value := range configMap.Data {
		data[key] = []byte(value)
	}
	for key, value := range configMap.BinaryData {
		data[key] = value
	}
	return c.keys(data, object, items, optional, mode, p)
}

func (c *content) secret(name string, items []corev1.KeyToPath, optional *bool, mode uint32, p, nameAt *field.Path) (*field.Path, error) {
	var secret *corev1.Secret
	if c.objects != nil {
		secret = c.objects.Secret(c.pod.Namespace, name)
	}
	object := "Secret " + c.pod.Namespace + "/" + name
	if secret == nil {
		return nameAt, missing(object, optional)
	}
	return c.keys(secret.Data, object, items, optional, mode, p)
}

func missing(what string, optional *bool) error {
	if optional != nil && *optional {
		return nil
	}
	return fmt.Errorf("%s: %w", what, ErrMissing)
}

// keys adds the keys that items name, or all.
func (c *content) keys(data map[string][]byte, object string, items []corev1.KeyToPath, optional *bool, fallback uint32, p *field.Path) (*field.Path, error) {
	if len(items) == 0 {
		for key, value := range data {
			if err := c.add(key, value, fallback); err != nil {
				return p, err
			}
		}
		return p, nil
	}
	for i, item := range items {
		at := p.Child("items").Index(i)
		value, ok := data[item.Key]
		if !ok {
			if err := missing(fmt.Sprintf("key %q of %s", item.Key, object), optional); err != nil {
				return at.Child("key"), err
			}
			continue
		}
		m := fallback
		if item.Mode != nil {
			m = uint32(*item.Mode)
		}
		if err := c.add(item.Path, value, m); err != nil {
			return at.Child("path"), err
		}
	}
	return p, nil
}

func (c *content) downward(items []corev1.DownwardAPIVolumeFile, fallback uint32, p *field.Path) (*field.Path, error) {
	for i, item := range items {
		at := p.Child("items").Index(i)
		m := fallback
		if item.Mode != nil {
			m = uint32(*item.Mode)
		}
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = env.Field(c.pod, item.FieldRef.FieldPath)
			at = at.Child("fieldRef", "fieldPath")
		case item.ResourceFieldRef != nil:
			at = at.Child("resourceFieldRef")
			container := findContainer(c.pod, item.ResourceFieldRef.ContainerName)
			if container == nil {
				return at.Child("containerName"), fmt.Errorf("container %q: %w", item.ResourceFieldRef.ContainerName, ErrMissing)
			}
			value, err = env.Resource(c.pod, container, item.ResourceFieldRef, c.allocatable)
		}
		if err == nil {
			err = c.add(item.Path, []byte(value), m)
		}
		if err != nil {
			return at, err
		}
	}
	return p, nil
}

func findContainer(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// add puts a file at a relative path; a later one replaces an earlier.
func (c *content) add(name string, data []byte, mode uint32) error {
	clean := path.Clean(name)
	// A name that begins with ".." would be taken for this package's own.
	if name == "" || path.IsAbs(name) || clean == "." || strings.HasPrefix(clean, "..") {
		return fmt.Errorf("path %q: %w", name, ErrEscape)
	}
	for other := range c.files {
		if strings.HasPrefix(other, clean+"/") || strings.HasPrefix(clean, other+"/") {
			return fmt.Errorf("path %q is a file and a directory, also in %q: %w", name, other, ErrInvalid)
		}
	}
	c.files[clean] = contentFile{data: data, mode: mode & 0o777}
	return nil
}
