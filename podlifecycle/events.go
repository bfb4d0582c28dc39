package podlifecycle

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit/nodekit/podlifecycle/probe"
)

// Bounds of events: so many are kept of each pod, so many of a pod may be told
// at once, and one more each refill. Source of the latter: Kubernetes v1.37.0
// staging/src/k8s.io/client-go/tools/record/events_cache.go.
const (
	keptEvents   = 32
	eventBurst   = 25
	eventRefill  = 5 * time.Minute
	eventMessage = 1 << 10
)

// events are what happened to one pod, in the kubelet's words. Equal ones are
// one with a count.
type events struct {
	mu     sync.Mutex
	list   []corev1.Event // oldest first
	tokens float64        // of what may be told, missing from eventBurst
	filled time.Time
}

// add counts an event, and tells whether it may be told now.
func (e *events) add(ev corev1.Event, now time.Time) (corev1.Event, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, old := range e.list {
		if old.Name == ev.Name {
			ev.FirstTimestamp, ev.Count = old.FirstTimestamp, old.Count+1
			e.list = slices.Delete(e.list, i, i+1)
			break
		}
	}
	e.list = append(e.list, ev)
	if len(e.list) > keptEvents {
		e.list = slices.Delete(e.list, 0, 1)
	}
	if !e.filled.IsZero() {
		e.tokens = max(0, e.tokens-max(0, now.Sub(e.filled)).Seconds()/eventRefill.Seconds())
	}
	e.filled = now
	if e.tokens > eventBurst-1 {
		return ev, false
	}
	e.tokens++
	return ev, true
}

// Events gives what happened to a pod in the words of the kubelet's events, the
// latest last, as copies. At most 32 are kept, equal ones as one with a Count.
// ErrNotFound: no such pod.
func (m *Manager) Events(namespace, name string) ([]corev1.Event, error) {
	w := m.find(namespace, name)
	if w == nil {
		return nil, fmt.Errorf("pod %s/%s: %w", namespace, name, ErrNotFound)
	}
	w.events.mu.Lock()
	defer w.events.mu.Unlock()
	out := make([]corev1.Event, len(w.events.list))
	for i := range out {
		w.events.list[i].DeepCopyInto(&out[i])
	}
	return out, nil
}

// happened makes an event known. No lock of the worker may be held.
func (w *worker) happened(kind, reason, container, message string) {
	now := w.m.config.Clock.Now()
	w.mu.Lock()
	pod := w.pod
	w.mu.Unlock()
	if len(message) > eventMessage {
		message = strings.ToValidUTF8(message[:eventMessage], "") + "..."
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{string(pod.UID), kind, reason, container, message}, "\x00")))
	ev := corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name + "." + hex.EncodeToString(sum[:8])},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
			FieldPath: fieldPath(pod, container)},
		Type: kind, Reason: reason, Message: message, Count: 1,
		FirstTimestamp: metav1.Time{Time: now}, LastTimestamp: metav1.Time{Time: now},
		Source: corev1.EventSource{Component: "kubelet", Host: w.m.config.NodeName}, ReportingController: "kubelet", ReportingInstance: w.m.config.NodeName,
	}
	ev, tell := w.events.add(ev, now)
	if tell && w.m.config.OnEvent != nil {
		w.m.config.OnEvent(&ev)
	}
}

// fieldPath names a container as events do.
func fieldPath(pod *corev1.Pod, container string) string {
	list := "containers"
	switch {
	case container == "":
		return ""
	case slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == container }):
		list = "initContainers"
	case slices.ContainsFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == container }):
		list = "ephemeralContainers"
	}
	return "spec." + list + "{" + container + "}"
}

// begins tells of an action that is worth it before it is done.
func (w *worker) begins(a Action) {
	switch a.Type {
	case ActionKill:
		switch a.Rule {
		case RuleLiveness, RuleStartup:
			w.happened(corev1.EventTypeWarning, "Unhealthy", a.Container, a.Reason)
		case RulePostStart:
			w.happened(corev1.EventTypeWarning, "FailedPostStartHook", a.Container, a.Reason)
		}
		w.happened(corev1.EventTypeNormal, "Killing", a.Container, "Stopping container "+a.Container+": "+a.Reason)
	case ActionRunSandbox:
		if a.Attempt > 0 {
			w.happened(corev1.EventTypeNormal, "SandboxChanged", "", "Pod sandbox changed, it will be killed and re-created: "+a.Reason)
		}
	}
}

// outcomes are the reasons of events by action: done, failed. Source: Kubernetes
// v1.37.0 pkg/kubelet/events/event.go.
var outcomes = map[ActionType][2]string{
	ActionPrepare: {"", "FailedMount"}, ActionRunSandbox: {"", "FailedCreatePodSandBox"}, ActionPull: {"Pulled", "Failed"},
	ActionCreate: {"Started", "Failed"}, ActionStart: {"Started", "Failed"}, ActionStartAll: {"Started", "Failed"},
	ActionKill: {"", "FailedKillPod"}, ActionStopSandbox: {"", "FailedKillPod"}, ActionTeardown: {"", "FailedKillPod"},
}

// ends tells of what became of an action.
func (w *worker) ends(a Action, err error) {
	reasons := outcomes[a.Type]
	switch {
	case err != nil && reasons[1] != "":
		w.happened(corev1.EventTypeWarning, reasons[1], a.Container, "Error: "+err.Error())
	case err != nil || reasons[0] == "":
	case a.Type == ActionPull:
		w.happened(corev1.EventTypeNormal, reasons[0], a.Container, fmt.Sprintf("Container image %q is present on the machine", a.Image))
	case a.Type == ActionStartAll:
		for _, one := range a.Group {
			w.happened(corev1.EventTypeNormal, reasons[0], one.Container, "Container started")
		}
	default:
		w.happened(corev1.EventTypeNormal, reasons[0], a.Container, "Container started")
	}
}

// decided tells of a new decision not to act, or of one about the node.
func (w *worker) decided(r Record) {
	pod := w.key + "(" + string(w.uid) + ")"
	switch {
	case r.Rule == RuleBackoff:
		w.happened(corev1.EventTypeWarning, "BackOff", r.Container, "Back-off restarting failed container "+r.Container+" in pod "+pod)
	case r.Rule == RuleImage && strings.HasPrefix(r.Reason, "back-off"):
		w.happened(corev1.EventTypeNormal, "BackOff", r.Container, "Back-off pulling image: "+r.Input)
	case r.Rule == RuleAdmission && r.Action == "wait":
		reason, message, _ := strings.Cut(r.Reason, ": ")
		w.happened(corev1.EventTypeWarning, reason, "", message)
	case r.Rule == RuleEviction && r.Action == "evict":
		w.happened(corev1.EventTypeWarning, "Evicted", "", r.Reason)
	case r.Rule == RulePreemption && r.Action == "end":
		w.happened(corev1.EventTypeWarning, "Preempting", "", r.Reason)
	}
}

// unhealthy tells of a readiness probe that has failed often enough; the other
// probes' failures are told by the kills that follow.
func (m *Manager) unhealthy(c probe.Change) {
	if c.Kind != probe.Readiness || c.Result != probe.Failure {
		return
	}
	if w := m.worker(c.PodUID); w != nil {
		w.happened(corev1.EventTypeWarning, "Unhealthy", c.Container, "Readiness probe failed: "+c.Output)
	}
}
