package proxyrules

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const maxTriggers = 1000

// changedObjects counts the Services and EndpointSlices that are others in new
// than in old, come or gone, and tells when the changes of those that came began.
func changedObjects(old, new *Table) (services, endpointSlices int, triggers []time.Time) {
	if old == nil {
		old = &Table{}
	}
	names := make(map[types.NamespacedName]bool)
	gone, come := difference(old.services, new.services)
	for _, s := range append(gone, come...) {
		names[types.NamespacedName{Namespace: s.Namespace, Name: s.Name}] = true
	}
	services = len(names)
	clear(names)
	lost, got := difference(old.slices, new.slices)
	for _, s := range append(lost, got...) {
		names[types.NamespacedName{Namespace: s.Namespace, Name: s.Name}] = true
	}
	for _, s := range got {
		at, err := time.Parse(time.RFC3339Nano, s.Annotations[corev1.EndpointsLastChangeTriggerTime])
		if err == nil && len(triggers) < maxTriggers {
			triggers = append(triggers, at)
		}
	}
	return services, len(names), triggers
}
