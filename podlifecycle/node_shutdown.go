package podlifecycle

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle/shutdown"
	"github.com/nodekit/nodekit/podlifecycle/source"
)

// Shutdown ends all pods because the node is about to go down: those of the lowest
// priority first, each with its own grace or that of its period, whichever is less,
// and waits for them as long as their period lasts before those of the next. The pods
// are Failed with reason Terminated and the condition DisruptionTarget, and none starts
// until Resume. It returns once all is done, ctx ends, whose error it gives, or
// the last period is over. Package shutdown/logind says when to call it. Run must be
// running; before the first set no pod is known.
//
// When the agent starts again on the node that is back, the pods run again that did
// not come through an API server and may restart, as the kubelet's static pods do:
// those with the annotation of a source other than "api" and a restartPolicy other
// than Never. All others stay Failed.
//
// Source: Kubernetes v1.37.0 pkg/kubelet/nodeshutdown.
func (m *Manager) Shutdown(ctx context.Context, periods []shutdown.Period) error {
	if err := shutdown.Check(periods); err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	if !m.started.Load() {
		return fmt.Errorf("shut down: %w", ErrEnded)
	}
	m.close()
	m.note(Record{Rule: RuleShutdown, Action: "end all pods", Reason: "the node is about to go down"})
	asked := map[types.UID]bool{}
	// Again, for a pod that was being taken in meanwhile.
	for {
		workers, pods := m.active(asked)
		if len(pods) == 0 {
			return nil
		}
		groups := shutdown.Groups(periods, pods)
		if len(groups) == 0 { // no periods: nothing is waited for
			return nil
		}
		for _, group := range groups {
			if err := m.endGroup(ctx, group, workers); err != nil {
				return fmt.Errorf("shut down: %w", err)
			}
		}
	}
}

// Resume lets pods start again after a Shutdown that was called off. Those that it
// ended and that may restart run again, see Shutdown.
func (m *Manager) Resume() {
	m.mu.Lock()
	m.closing, m.resumed = false, true
	m.mu.Unlock()
	m.note(Record{Rule: RuleShutdown, Action: "start pods again", Reason: "the shutdown of the node was called off"})
	m.kick()
}

// revive has those begin anew that a shutdown has ended which was called off.
func (m *Manager) revive() {
	m.mu.Lock()
	resumed := m.resumed
	m.resumed = false
	m.mu.Unlock()
	if !resumed {
		return
	}
	for _, w := range m.list() {
		w.mu.Lock()
		if w.ending != nil && w.ending.Reason == EndingShutdown && !w.ending.Forget && comesBack(w.pod) {
			w.revived, w.due = true, true
		}
		w.mu.Unlock()
	}
}

// close has no pod start. Those that still end for a shutdown that was called off do
// not come back either, before this one is called off too.
func (m *Manager) close() {
	m.mu.Lock()
	m.closing, m.resumed = true, false
	m.mu.Unlock()
	for _, w := range m.list() {
		w.mu.Lock()
		w.revived = false
		w.mu.Unlock()
	}
	m.kick()
}

func (m *Manager) isClosing() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closing
}

// active are the pods that have been let in and have not ended, but those already
// asked, which it adds to them.
func (m *Manager) active(asked map[types.UID]bool) (map[types.UID]*worker, []*corev1.Pod) {
	workers := map[types.UID]*worker{}
	var pods []*corev1.Pod
	for _, w := range m.list() {
		w.mu.Lock()
		pod, idle := w.pod, terminal(w.status.Phase) || w.rejected != nil || w.blocked != ""
		w.mu.Unlock()
		if !idle && !asked[w.uid] {
			asked[w.uid], workers[w.uid] = true, w
			pods = append(pods, pod)
		}
	}
	return workers, pods
}

// endGroup ends the pods of one period and waits until nothing of them is left, their
// volumes included, or the period is over.
func (m *Manager) endGroup(ctx context.Context, group shutdown.Group, workers map[types.UID]*worker) error {
	timer := m.config.Clock.NewTimer(group.Grace)
	defer timer.Stop()
	began := m.config.Clock.Now()
	for _, pod := range group.Pods {
		workers[pod.UID].end(Ending{Reason: EndingShutdown, Message: shutdown.Message, Disruption: shutdown.Message,
			Since: began, Grace: min(GracePeriod(pod), group.Grace), Failed: true})
	}
	rec := Record{Rule: RuleShutdown, Input: fmt.Sprintf("priority %d, grace %v", group.Priority, group.Grace),
		Action: fmt.Sprintf("end %d pods", len(group.Pods)), Reason: "the node is about to go down", Result: "done"}
	defer func() {
		rec.Took = m.config.Clock.Now().Sub(began).Round(time.Millisecond)
		m.note(rec)
	}()
	for i, pod := range group.Pods {
		w := workers[pod.UID]
		select {
		case <-w.finished:
		case <-w.gone:
		case <-timer.C():
			rec.Result, rec.Error = "failed", fmt.Sprintf("%d pods took longer", len(group.Pods)-i)
			return nil
		case <-m.stopped:
			return ErrEnded
		case <-ctx.Done():
			rec.Result, rec.Error = "cancelled", ctx.Err().Error()
			return ctx.Err()
		}
	}
	return nil
}

// comesBack tells whether a pod that ended for a shutdown runs again afterwards.
func comesBack(pod *corev1.Pod) bool {
	from := pod.Annotations[source.AnnotationSource]
	return from != "" && from != "api" && pod.Spec.RestartPolicy != corev1.RestartPolicyNever
}

// returned is what to know of a pod when the agent starts: nothing of one that ended
// for a shutdown and comes back. What the runtime still has of it counts its restarts.
func (r remembered) returned() podState {
	e := r.state.Ending
	if e != nil && e.Reason == EndingShutdown && !e.Forget && comesBack(r.pod) {
		return podState{Users: r.state.Users, Records: r.state.Records}
	}
	return r.state
}

// finish tells that nothing of the pod is left to end, and whether it comes back.
func (w *worker) finish() (revived bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.finished:
	default:
		close(w.finished)
	}
	return w.revived
}
