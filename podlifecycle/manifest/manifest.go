package manifest

import (
	"errors"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// MaxSize is the largest manifest in bytes that Decode reads. It is the
// kubelet's limit.
const MaxSize = 10 << 20

var (
	// ErrSyntax: the text is neither JSON nor YAML.
	ErrSyntax = errors.New("cannot be parsed")
	// ErrKind: no object of that apiVersion and kind belongs into a manifest.
	ErrKind = errors.New("kind is not supported")
	// ErrUnknownField: the object has no such field.
	ErrUnknownField = errors.New("unknown field")
	// ErrDuplicateField: the field is given twice.
	ErrDuplicateField = errors.New("duplicate field")
	// ErrTooLarge: the manifest is larger than MaxSize.
	ErrTooLarge = errors.New("larger than 10 MiB")
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
	// Document counts from 1 in the file; 0 when it is not known or the whole file is meant.
	Document int
	// Kind, Namespace and Name of the object as far as they are known.
	Kind, Namespace, Name string
	// Field is the path in the object, such as spec.containers[0].image, or "".
	Field string
	// Err is what is wrong; never nil.
	Err error
}

// Error names file, document, object and field:
//
//	web.yaml: document 2: Pod default/web: spec.containers[0].imag: unknown field
func (p Problem) Error() string {
	parts := []string{p.File}
	if p.Document > 0 {
		parts = append(parts, "document "+strconv.Itoa(p.Document))
	}
	if p.Kind != "" {
		object := p.Kind
		if p.Name != "" {
			object += " " + p.Namespace + "/" + p.Name
		}
		parts = append(parts, object)
	}
	var detail *field.Error
	if errors.As(p.Err, &detail) {
		// Its text begins with its field.
		return strings.Join(append(parts, p.Err.Error()), ": ")
	}
	if p.Field != "" {
		parts = append(parts, p.Field)
	}
	return strings.Join(append(parts, p.Err.Error()), ": ")
}

// Unwrap gives Err.
func (p Problem) Unwrap() error { return p.Err }
