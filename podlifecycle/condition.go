package podlifecycle

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ownConditions are those that Plan decides.
var ownConditions = []corev1.PodConditionType{
	corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled,
}

// SetCondition sets a condition of a pod that somebody else decides, such as one
// of its readinessGates. Of c, Type and Status are required; LastTransitionTime
// is now if the status changes. It stays, over restarts too, until it is set
// anew. ErrNotFound: no such pod. ErrOwnCondition: it is not for others to set.
func (m *Manager) SetCondition(namespace, name string, c corev1.PodCondition) error {
	if slices.Contains(ownConditions, c.Type) {
		return fmt.Errorf("condition %s: %w", c.Type, ErrOwnCondition)
	}
	known := []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown}
	if c.Type == "" || !slices.Contains(known, c.Status) {
		return fmt.Errorf("condition %q: status %q is not True, False or Unknown", c.Type, c.Status)
	}
	w := m.find(namespace, name)
	if w == nil {
		return fmt.Errorf("pod %s/%s: %w", namespace, name, ErrNotFound)
	}
	c.LastTransitionTime = metav1.Time{Time: m.config.Clock.Now()}
	w.mu.Lock()
	w.told[c.Type] = c
	w.mu.Unlock()
	w.wake()
	return nil
}

// withCondition gives list with c in it; the time of the last transition stays
// while the status does.
func withCondition(list []corev1.PodCondition, c corev1.PodCondition) []corev1.PodCondition {
	list = slices.Clone(list)
	for i := range list {
		if list[i].Type != c.Type {
			continue
		}
		if list[i].Status == c.Status {
			c.LastTransitionTime = list[i].LastTransitionTime
		}
		list[i] = c
		return list
	}
	return append(list, c)
}
