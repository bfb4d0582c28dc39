package manifest

import (
	"errors"

	corev1 "k8s.io/api/core/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// node checks what the pod asks of the node beside resources.
func (v *validator) node(p *field.Path) {
	if v.spec.OS != nil {
		oneOf(v, p.Child("os", "name"), v.spec.OS.Name, corev1.Linux, corev1.Windows)
	}
	v.add(metav1validation.ValidateLabels(v.spec.NodeSelector, p.Child("nodeSelector"))...)
	if v.spec.Affinity == nil || v.spec.Affinity.NodeAffinity == nil {
		return
	}
	const name = "requiredDuringSchedulingIgnoredDuringExecution"
	p = p.Child("affinity", "nodeAffinity", name)
	required := v.spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil {
		return
	}
	if len(required.NodeSelectorTerms) == 0 {
		v.add(field.Required(p.Child("nodeSelectorTerms"), "must have at least one node selector term"))
	}
	_, err := nodeaffinity.NewNodeSelector(required, field.WithPath(p))
	var all interface{ Errors() []error }
	if !errors.As(err, &all) {
		return
	}
	for _, err := range all.Errors() {
		var one *field.Error
		if errors.As(err, &one) {
			v.add(one)
		}
	}
}
