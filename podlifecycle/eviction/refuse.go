package eviction

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle/qos"
)

// Refuse tells why a new pod is not let in while conditions are true; "" lets it
// in. Critical pods always come in. Under memory pressure alone only BestEffort
// pods stay out, unless they tolerate it; under any other all do.
func (p *Policy) Refuse(conditions []corev1.NodeConditionType, pod *corev1.Pod) (reason, message string) {
	if len(conditions) == 0 || p.config.Critical(pod) {
		return "", ""
	}
	if slices.Equal(conditions, []corev1.NodeConditionType{corev1.NodeMemoryPressure}) &&
		(qos.Class(pod) != corev1.PodQOSBestEffort || slices.ContainsFunc(pod.Spec.Tolerations, toleratesMemoryPressure)) {
		return "", ""
	}
	return Reason, fmt.Sprintf("The node had condition: %v. ", conditions)
}

func toleratesMemoryPressure(t corev1.Toleration) bool {
	if t.Effect != "" && t.Effect != corev1.TaintEffectNoSchedule {
		return false
	}
	switch t.Operator {
	case corev1.TolerationOpExists:
		return t.Key == "" || t.Key == corev1.TaintNodeMemoryPressure
	case corev1.TolerationOpEqual, "":
		return t.Key == corev1.TaintNodeMemoryPressure && t.Value == ""
	}
	return false
}
