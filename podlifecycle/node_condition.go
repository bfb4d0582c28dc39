package podlifecycle

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit/nodekit/podlifecycle/eviction"
)

// pressures are the conditions of a node with the kubelet's words. Source:
// Kubernetes v1.37.0 pkg/kubelet/nodestatus/setters.go.
var pressures = []struct {
	kind                               corev1.NodeConditionType
	reason, message, relief, allIsWell string
}{
	{corev1.NodeMemoryPressure, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available",
		"KubeletHasSufficientMemory", "kubelet has sufficient memory available"},
	{corev1.NodeDiskPressure, "KubeletHasDiskPressure", "kubelet has disk pressure",
		"KubeletHasNoDiskPressure", "kubelet has no disk pressure"},
	{corev1.NodePIDPressure, "KubeletHasInsufficientPID", "kubelet has insufficient PID available",
		"KubeletHasSufficientPID", "kubelet has sufficient PID available"},
}

// NodeConditions gives MemoryPressure, DiskPressure and PIDPressure as they were
// at the last look, the heartbeat being its time; nil without Config.Eviction or
// before the first look.
func (m *Manager) NodeConditions() []corev1.NodeCondition {
	if m.evictor == nil {
		return nil
	}
	m.evictor.mu.Lock()
	defer m.evictor.mu.Unlock()
	var out []corev1.NodeCondition
	for _, p := range pressures {
		if c, known := m.evictor.conditions[p.kind]; known {
			out = append(out, c)
		}
	}
	return out
}

// tell keeps the node's conditions.
func (e *evictor) tell(a eviction.Assessment, now time.Time) {
	var changed []corev1.NodeCondition
	e.mu.Lock()
	for _, p := range pressures {
		c := corev1.NodeCondition{Type: p.kind, Status: corev1.ConditionFalse, Reason: p.relief, Message: p.allIsWell,
			LastHeartbeatTime: metav1.Time{Time: now}, LastTransitionTime: metav1.Time{Time: now}}
		if slices.Contains(a.Conditions, p.kind) {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, p.reason, p.message
		}
		old, known := e.conditions[p.kind]
		if known && old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		} else if known || c.Status == corev1.ConditionTrue {
			changed = append(changed, c)
		}
		e.conditions[p.kind] = c
	}
	e.mu.Unlock()
	for _, c := range changed {
		e.m.note(Record{Rule: RuleEviction, Input: string(c.Type), Action: "condition " + string(c.Status), Reason: c.Message})
		e.m.config.Logger.Info("node condition changed", "condition", c.Type, "status", c.Status)
	}
}

// pressure gives the conditions that are true, sorted.
func (e *evictor) pressure() []corev1.NodeConditionType {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []corev1.NodeConditionType
	for _, p := range pressures {
		if e.conditions[p.kind].Status == corev1.ConditionTrue {
			out = append(out, p.kind)
		}
	}
	slices.Sort(out)
	return out
}
