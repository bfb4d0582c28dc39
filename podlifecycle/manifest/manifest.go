package manifest

import (
	"io"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Objects are what a manifest holds, in its order.
type Objects struct {
	Pods           []*corev1.Pod
	ConfigMaps     []*corev1.ConfigMap
	Secrets        []*corev1.Secret
	Services       []*corev1.Service
	EndpointSlices []*discoveryv1.EndpointSlice
}

// Problem is one thing that is wrong with a manifest, and where.
type Problem struct {
	// File as Decode was told.
	File string
	// Document counts from 1 in the file; 0 when the whole file is meant.
	Document int
	// Kind, Namespace and Name of the object as far as they are known.
	Kind, Namespace, Name string
	// Field is the path in the object, such as spec.containers[0].image, or "".
	Field string
	// Err is what is wrong; never nil.
	Err error
}

// Error names file, document, object and field.
func (p Problem) Error() string { return "" }

// Unwrap gives Err.
func (p Problem) Unwrap() error { return p.Err }

// Decode reads JSON or YAML of any number of documents. An object with a
// problem is left out and told of; the others are given. Nothing is defaulted
// but the namespace.
func Decode(file string, r io.Reader) (Objects, []Problem) { return Objects{}, nil }

// Default sets what the API server would set in a pod that leaves it open.
func Default(pod *corev1.Pod) {}

// DefaultSecret turns stringData into data and sets the type.
func DefaultSecret(secret *corev1.Secret) {}

// DefaultService sets what the API server would set in a service, but neither
// cluster IPs nor node ports: those it would have to allocate.
func DefaultService(service *corev1.Service) {}

// Validate tells what the API server would refuse in a defaulted pod.
func Validate(pod *corev1.Pod) field.ErrorList { return nil }

// Unsupported lists, in order of path, each field that a defaulted pod sets and
// nodekit does not honour. Type is NotSupported of the field package. Fields that only a scheduler
// or a controller reads are not listed.
func Unsupported(pod *corev1.Pod) field.ErrorList { return nil }

// ValidateConfigMap tells what the API server would refuse.
func ValidateConfigMap(configMap *corev1.ConfigMap) field.ErrorList { return nil }

// ValidateSecret tells what the API server would refuse in a defaulted secret.
func ValidateSecret(secret *corev1.Secret) field.ErrorList { return nil }

// ValidateService tells what the API server would refuse in a defaulted
// service, and cluster IPs and node ports that it would have allocated.
func ValidateService(service *corev1.Service) field.ErrorList { return nil }
