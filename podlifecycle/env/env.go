package env

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Objects finds what a pod refers to. A nil result means that there is none.
type Objects interface {
	ConfigMap(namespace, name string) *corev1.ConfigMap
	Secret(namespace, name string) *corev1.Secret
}

// Input is what a container's environment is made of. Nothing in it is changed.
type Input struct {
	// Pod is required. Its status gives podIP, podIPs, hostIP and hostIPs.
	Pod *corev1.Pod
	// Container is required; one of the pod's, init containers included.
	Container *corev1.Container
	// Objects may be nil: then every reference that is not optional is missing.
	Objects Objects
	// Services, of any namespace: those of the pod's become variables while
	// enableServiceLinks is not false, and "kubernetes" of "default" always.
	Services []*corev1.Service
	// File reads a file of one of the pod's volumes, for fileKeyRef; nil makes that
	// ErrNotSupported.
	File func(volume, path string) ([]byte, error)
	// Allocatable stands for the limits that a container does not set, for
	// resourceFieldRef.
	Allocatable corev1.ResourceList
}

// Resolve gives the variables as NAME=value, each name once: envFrom and env in
// order of the manifest (keys of one object sorted), then those of services
// that no other has the name of, sorted. The error joins one *Error for each
// variable that has no value.
// Source: Kubernetes v1.37.0 pkg/kubelet/kubelet_pods.go.
func Resolve(in Input) ([]string, error) {
	r := resolver{Input: in, path: containerPath(in.Pod, in.Container), values: map[string]string{},
		services: serviceVariables(in.Pod, in.Services)}
	for i := range in.Container.EnvFrom {
		r.from(&in.Container.EnvFrom[i], r.path.Child("envFrom").Index(i))
	}
	for i := range in.Container.Env {
		r.variable(&in.Container.Env[i], r.path.Child("env").Index(i))
	}
	if len(r.errs) > 0 {
		return nil, errors.Join(r.errs...)
	}
	for _, name := range slices.Sorted(maps.Keys(r.services)) {
		if _, ok := r.values[name]; !ok {
			r.set(name, r.services[name])
		}
	}
	result := make([]string, len(r.order))
	for i, name := range r.order {
		result[i] = name + "=" + r.values[name]
	}
	return result, nil
}

type resolver struct {
	Input
	path     *field.Path
	values   map[string]string
	order    []string
	services map[string]string
	errs     []error
}

func (r *resolver) set(name, value string) {
	if _, ok := r.values[name]; !ok {
		r.order = append(r.order, name)
	}
	r.values[name] = value
}

func (r *resolver) fail(path *field.Path, variable, object string, err error) {
	r.errs = append(r.errs, &Error{
		Pod:       r.Pod.Namespace + "/" + r.Pod.Name,
		Container: r.Container.Name, Field: path.String(), Variable: variable, Object: object, Err: err,
	})
}

func (r *resolver) from(source *corev1.EnvFromSource, path *field.Path) {
	switch {
	case source.ConfigMapRef != nil:
		name := source.ConfigMapRef.Name
		configMap := r.configMap(name)
		if configMap == nil {
			if !isTrue(source.ConfigMapRef.Optional) {
				r.fail(path.Child("configMapRef"), "", r.object("ConfigMap", name), ErrMissing)
			}
			return
		}
		for _, key := range slices.Sorted(maps.Keys(configMap.Data)) {
			r.set(source.Prefix+key, configMap.Data[key])
		}
	case source.SecretRef != nil:
		name := source.SecretRef.Name
		secret := r.secret(name)
		if secret == nil {
			if !isTrue(source.SecretRef.Optional) {
				r.fail(path.Child("secretRef"), "", r.object("Secret", name), ErrMissing)
			}
			return
		}
		for _, key := range slices.Sorted(maps.Keys(secret.Data)) {
			r.set(source.Prefix+key, string(secret.Data[key]))
		}
	}
}

func (r *resolver) variable(v *corev1.EnvVar, path *field.Path) {
	if v.ValueFrom == nil {
		r.set(v.Name, expand(v.Value, func(name string) (string, bool) {
			if value, ok := r.values[name]; ok {
				return value, true
			}
			value, ok := r.services[name]
			return value, ok
		}))
		return
	}
	path = path.Child("valueFrom")
	switch from := v.ValueFrom; {
	case from.FieldRef != nil:
		value, err := Field(r.Pod, from.FieldRef.FieldPath)
		if err != nil {
			r.fail(path.Child("fieldRef", "fieldPath"), v.Name, "", err)
			return
		}
		r.set(v.Name, value)
	case from.ResourceFieldRef != nil:
		r.resource(v.Name, from.ResourceFieldRef, path.Child("resourceFieldRef"))
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		configMap := r.configMap(ref.Name)
		var value string
		var ok bool
		if configMap != nil {
			value, ok = configMap.Data[ref.Key]
		}
		r.key(v.Name, value, ok, configMap != nil, ref.Optional, ref.Key,
			r.object("ConfigMap", ref.Name), path.Child("configMapKeyRef"))
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		secret := r.secret(ref.Name)
		var value []byte
		var ok bool
		if secret != nil {
			value, ok = secret.Data[ref.Key]
		}
		r.key(v.Name, string(value), ok, secret != nil, ref.Optional, ref.Key,
			r.object("Secret", ref.Name), path.Child("secretKeyRef"))
	case from.FileKeyRef != nil:
		r.file(v.Name, from.FileKeyRef, path.Child("fileKeyRef"))
	default:
		r.fail(path, v.Name, "", fmt.Errorf("empty valueFrom: %w", ErrNotSupported))
	}
}

// key sets a variable from one key of an object, or says which of both is missing.
func (r *resolver) key(variable, value string, ok, objectThere bool, optional *bool, key, object string, path *field.Path) {
	switch {
	case ok:
		r.set(variable, value)
	case isTrue(optional):
	case objectThere:
		r.fail(path.Child("key"), variable, fmt.Sprintf("key %q of %s", key, object), ErrMissing)
	default:
		r.fail(path.Child("name"), variable, object, ErrMissing)
	}
}

// file sets a variable from a file. As with the kubelet, an empty value counts
// as none, and a file that is not there as a fault, even if ref is optional.
func (r *resolver) file(variable string, ref *corev1.FileKeySelector, path *field.Path) {
	if r.File == nil {
		r.fail(path, variable, "", ErrNotSupported)
		return
	}
	object := fmt.Sprintf("file %s of volume %s", ref.Path, ref.VolumeName)
	text, err := r.File(ref.VolumeName, ref.Path)
	if err != nil {
		r.fail(path.Child("path"), variable, object, err)
		return
	}
	value, err := fileValue(string(text), ref.Key)
	if err != nil {
		r.fail(path.Child("path"), variable, object, err)
		return
	}
	r.key(variable, value, value != "", true, ref.Optional, ref.Key, object, path)
}

func (r *resolver) resource(variable string, ref *corev1.ResourceFieldSelector, path *field.Path) {
	container := r.Container
	if ref.ContainerName != "" && ref.ContainerName != container.Name {
		container = findContainer(r.Pod, ref.ContainerName)
		if container == nil {
			r.fail(path.Child("containerName"), variable, "container "+ref.ContainerName, ErrMissing)
			return
		}
	}
	value, err := Resource(r.Pod, container, ref, r.Allocatable)
	if err != nil {
		r.fail(path.Child("resource"), variable, "", err)
		return
	}
	r.set(variable, value)
}

func (r *resolver) configMap(name string) *corev1.ConfigMap {
	if r.Objects == nil {
		return nil
	}
	return r.Objects.ConfigMap(r.Pod.Namespace, name)
}

func (r *resolver) secret(name string) *corev1.Secret {
	if r.Objects == nil {
		return nil
	}
	return r.Objects.Secret(r.Pod.Namespace, name)
}

func (r *resolver) object(kind, name string) string {
	return kind + " " + r.Pod.Namespace + "/" + name
}

func isTrue(b *bool) bool { return b != nil && *b }

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

// containerPath finds the container by its name, which is unique in a pod.
func containerPath(pod *corev1.Pod, container *corev1.Container) *field.Path {
	spec := field.NewPath("spec")
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == container.Name {
			return spec.Child("containers").Index(i)
		}
	}
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == container.Name {
			return spec.Child("initContainers").Index(i)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == container.Name {
			return spec.Child("ephemeralContainers").Index(i)
		}
	}
	return spec.Child("containers").Key(container.Name)
}
