package manifest

import (
	"reflect"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Unsupported lists, in order of the specification, each field that a defaulted
// pod sets and nodekit does not honour. Type is field.ErrorTypeNotSupported,
// Detail the reason. Fields that only a scheduler or a controller reads are not
// listed, nor are volume sources for which there are plug-ins: their names in
// JSON, as volume.Sources gives them.
func Unsupported(pod *corev1.Pod, volumePlugins ...string) field.ErrorList {
	w := walker{pod: pod, plugins: volumePlugins}
	w.value(reflect.ValueOf(pod.Spec), field.NewPath("spec"))
	return w.errs
}

// Honoured tells what becomes of a field.
type Honoured string

// What becomes of a field.
const (
	// Yes: it works.
	Yes Honoured = "yes"
	// Elsewhere: only a scheduler, a controller or an API server reads it; it has no
	// meaning once the pod is on its node.
	Elsewhere Honoured = "elsewhere"
	// No: a pod that sets it is refused.
	No Honoured = "no"
	// Partly: some values are refused.
	Partly Honoured = "partly"
)

// Field is a row of the table of fields.
type Field struct {
	// Path by type and name in JSON, such as PodSpec.hostUsers.
	Path string `json:"path"`
	// Honoured says what becomes of it.
	Honoured Honoured `json:"honoured"`
	// Reason, for No and Partly.
	Reason string `json:"reason,omitempty"`
}

// Fields gives, sorted by path, what becomes of each field of a pod's
// specification. The slice is the caller's.
func Fields() []Field {
	var result []Field
	for path, reason := range verdicts {
		row := Field{Path: path, Honoured: No, Reason: reason}
		if reason == works || reason == elsewhere {
			row.Honoured, row.Reason = Honoured(reason), ""
		} else if partly[path] != nil {
			row.Honoured = Partly
		}
		result = append(result, row)
	}
	slices.SortFunc(result, func(a, b Field) int { return strings.Compare(a.Path, b.Path) })
	return result
}

type walker struct {
	pod     *corev1.Pod
	plugins []string
	errs    field.ErrorList
}

// leaf types are values, whatever fields they have.
var leafTypes = map[reflect.Type]bool{
	reflect.TypeFor[resource.Quantity]():  true,
	reflect.TypeFor[metav1.Time]():        true,
	reflect.TypeFor[intstr.IntOrString](): true,
}

func (w *walker) value(v reflect.Value, p *field.Path) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			w.value(v.Elem(), p)
		}
	case reflect.Slice:
		for i := range v.Len() {
			w.value(v.Index(i), p.Index(i))
		}
	case reflect.Struct:
		if !leafTypes[v.Type()] {
			w.structure(v, p)
		}
	case reflect.Map:
		if list, ok := v.Interface().(corev1.ResourceList); ok {
			w.resources(list, p)
		}
	}
}

func (w *walker) structure(v reflect.Value, p *field.Path) {
	for i := range v.NumField() {
		name, inline := jsonName(v.Type().Field(i))
		if v.Field(i).IsZero() {
			continue
		}
		if inline {
			w.value(v.Field(i), p)
			continue
		}
		key := v.Type().Name() + "." + name
		verdict, known := verdicts[key]
		at := p.Child(name)
		switch {
		case verdict == elsewhere:
		case verdict == noPlugin && slices.Contains(w.plugins, name):
		case verdict == works:
			w.value(v.Field(i), at)
		case !known:
			w.refuse(at, v.Field(i), "nodekit does not know this field")
		case partly[key] != nil:
			if partly[key](w.pod, v, v.Field(i)) {
				w.refuse(at, v.Field(i), verdict)
			} else {
				w.value(v.Field(i), at)
			}
		default:
			w.refuse(at, v.Field(i), verdict)
		}
	}
}

func (w *walker) resources(list corev1.ResourceList, p *field.Path) {
	var names []string
	for name := range list {
		names = append(names, string(name))
	}
	slices.Sort(names)
	for _, name := range names {
		quantity := list[corev1.ResourceName(name)]
		switch {
		case name == "cpu", name == "memory", name == "ephemeral-storage", strings.HasPrefix(name, corev1.ResourceHugePagesPrefix), quantity.IsZero():
		default:
			w.refuse(p.Key(name), reflect.ValueOf(quantity.String()), "there are no device plug-ins")
		}
	}
}

func (w *walker) refuse(p *field.Path, v reflect.Value, reason string) {
	err := &field.Error{Type: field.ErrorTypeNotSupported, Field: p.String(), BadValue: field.OmitValueType{}, Detail: reason}
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.String:
		err.BadValue = v.String()
	case reflect.Bool:
		err.BadValue = v.Bool()
	case reflect.Int32, reflect.Int64:
		err.BadValue = strconv.FormatInt(v.Int(), 10)
	}
	w.errs = append(w.errs, err)
}

func jsonName(f reflect.StructField) (name string, inline bool) {
	name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name, f.Anonymous && name == "" || strings.Contains(options, "inline")
}
