package podlifecycle

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/nodekit/nodekit/podlifecycle/qos"
)

// resize grants the resources that admitted pods ask for anew, as far as the
// node has them: first to those that ask for no more than before, then by
// priority. Source: Kubernetes v1.37.0 pkg/kubelet/allocation.
func (j *judge) resize(workers []*worker) {
	var asking []*worker
	for _, w := range workers {
		w.mu.Lock()
		asks := w.admitted && w.ending == nil && !terminal(w.status.Phase) && j.granted[w.uid] != w.pod
		w.mu.Unlock()
		if asks {
			asking = append(asking, w)
		} else {
			w.grant(nil, nil)
		}
	}
	slices.SortStableFunc(asking, func(a, b *worker) int {
		if x, y := len(j.grows(a)), len(j.grows(b)); (x == 0) != (y == 0) {
			return x - y
		}
		return cmp.Compare(priority(b.pod), priority(a.pod))
	})
	for _, w := range asking {
		granted, pod := j.granted[w.uid], w.pod
		if fault := resizeFault(granted, pod); fault != "" {
			w.grant(nil, &Rejection{Reason: corev1.PodReasonInfeasible, Message: fault})
			continue
		}
		j.held.Remove(granted)
		if pending := j.lacks(w); pending != nil {
			j.held.Add(granted)
			w.grant(nil, pending)
			continue
		}
		j.held.Add(pod)
		w.grant(AllocationOf(pod), nil)
	}
}

// grows gives the resources of which a pod asks for more than it has.
func (j *judge) grows(w *worker) []corev1.ResourceName {
	before, after := qos.Requests(j.granted[w.uid]), qos.Requests(w.pod)
	var list []corev1.ResourceName
	for _, name := range resizable {
		if was, wanted := before[name], after[name]; wanted.Cmp(was) > 0 {
			list = append(list, name)
		}
	}
	return list
}

// lacks tells what the node has not got for a pod to grow, or nil. What it could
// have if others went is deferred.
func (j *judge) lacks(w *worker) *Rejection {
	grows := j.grows(w)
	for _, short := range j.held.Short(w.pod) {
		if !slices.Contains(grows, short.Resource) {
			continue
		}
		reason := corev1.PodReasonDeferred
		if short.Requested > short.Capacity {
			reason = corev1.PodReasonInfeasible
		}
		return &Rejection{Reason: reason, Message: short.String()}
	}
	return nil
}

func priority(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

// grantAll grants what the pod asks for, if nothing was granted before, and
// gives the pod with what was.
func (w *worker) grantAll() *corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.allocated == nil {
		w.allocated = AllocationOf(w.pod)
	}
	return w.allocated.Granted(w.pod)
}

// grant changes what the pod has been granted, if allocation is not nil, and
// why that is not all that it asks for.
func (w *worker) grant(allocation *Allocation, pending *Rejection) {
	w.mu.Lock()
	changed := allocation != nil || !equality.Semantic.DeepEqual(w.pending, pending)
	if allocation != nil {
		w.allocated, w.stale = allocation, true // the downward API shows it
	}
	w.pending = pending
	w.mu.Unlock()
	if !changed {
		return
	}
	switch {
	case allocation != nil:
		w.log.Info("resize granted")
	case pending != nil:
		w.log.Info("resize is not granted", "reason", pending.Reason, "message", pending.Message)
	}
	w.due = true
}
