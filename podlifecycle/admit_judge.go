package podlifecycle

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle/admission"
	"github.com/nodekit/nodekit/podlifecycle/shutdown"
)

// rejectedPrefix stands before the message of a pod that is Failed because the
// node did not take it. Source: Kubernetes v1.37.0 pkg/kubelet/kubelet.go rejectPod.
const rejectedPrefix = "Pod was rejected: "

// judge decides once for all pods who may run.
type judge struct {
	m     *Manager
	now   time.Time
	names map[string]*worker // by namespace/name
	ports map[string]*worker // see portKeys
	uids  map[types.UID]*worker
	// held is what all pods hold that were let in or will be; staying is the same
	// without those that end. Who fits only beside staying waits.
	held, staying *admission.Load
	granted       map[types.UID]*corev1.Pod // as it is in them
	closing       bool                      // the node is about to go down
}

// admit decides for each pod whether it may run: first those that have been
// let in before, then the others by priority, equal ones in the order of the set.
func (m *Manager) admit() {
	workers := m.list()
	rank := map[types.UID]int{}
	if set := m.set.Load(); set != nil {
		pods := slices.Clone(set.Pods)
		slices.SortStableFunc(pods, func(a, b *corev1.Pod) int { return cmp.Compare(priority(b), priority(a)) })
		for i, pod := range pods {
			rank[pod.UID] = i
		}
	}
	slices.SortStableFunc(workers, func(a, b *worker) int {
		if a.admitted != b.admitted {
			if a.admitted {
				return -1
			}
			return 1
		}
		return rank[a.uid] - rank[b.uid]
	})
	j := judge{m: m, now: m.config.Clock.Now(), names: map[string]*worker{}, ports: map[string]*worker{}, uids: map[types.UID]*worker{},
		granted: map[types.UID]*corev1.Pod{}, closing: m.isClosing(),
		held: m.node.Load(), staying: m.node.Load()}
	for _, w := range workers {
		j.uids[w.uid] = w
	}
	for _, w := range workers {
		j.look(w)
	}
	j.resize(workers)
}

// look judges one pod, unless that has been done for good: its name stays its
// own until it is forgotten, ports and room until nothing of it runs.
func (j *judge) look(w *worker) {
	w.mu.Lock()
	pod, ending, over := w.pod, w.ending, terminal(w.status.Phase)
	w.mu.Unlock()
	if !w.admitted && !over && ending == nil {
		j.decide(w, pod)
	}
	if j.names[w.key] == nil {
		j.names[w.key] = w
	}
	if w.admitted && !over {
		_ = j.m.giveUsers(w, pod) // its sandbox would say what lacks
		for _, key := range portKeys(pod) {
			j.ports[key] = w
		}
		granted := w.grantAll()
		j.granted[w.uid] = granted
		j.held.Add(granted)
		if ending == nil {
			j.staying.Add(granted)
		}
	}
}

func (j *judge) decide(w *worker, pod *corev1.Pod) {
	if other := j.names[w.key]; other != nil {
		j.tell(w, fmt.Sprintf("waiting until the pod of the same name with UID %s is gone", other.uid), nil)
		return
	}
	if j.closing {
		j.tell(w, "", &Rejection{Reason: shutdown.ReasonRejected, Pending: true, Message: shutdown.MessageRejected})
		return
	}
	if reason, message := j.m.refuse(pod); reason != "" {
		j.tell(w, "", &Rejection{Reason: reason, Message: rejectedPrefix + message})
		return
	}
	result := j.held.Admit(pod)
	crowded := result.Short // fits once those that end have gone
	if crowded != nil {
		result = j.staying.Admit(pod)
	}
	if result.Reason != "" {
		j.tell(w, "", &Rejection{Reason: result.Reason, Message: rejectedPrefix + result.Message, Field: result.Field})
		return
	}
	if port, other := clash(pod, j.ports); other != nil {
		j.tell(w, "", &Rejection{Reason: "NodePorts", Pending: true, Message: fmt.Sprintf(
			"%s%s is taken by pod %s", port, inFile(pod), other.key)})
		return
	}
	if why := j.m.giveUsers(w, pod); why != "" {
		j.tell(w, why, nil)
		return
	}
	if crowded == nil {
		w.admitted = true
		w.record(Record{Time: j.now, Rule: RuleAdmission, Action: "admit", Reason: "the node has what it asks for"})
		if limits := j.m.unkept(pod); len(limits) > 0 {
			w.log.Info("pod has limits that nobody keeps", "fields", limits)
			w.record(Record{Time: j.now, Rule: RuleEviction, Input: strings.Join(limits, ", "), Action: "none",
				Reason: "nothing measures all that the pod writes, see Config.Eviction"})
		}
		j.tell(w, "", nil)
		return
	}
	j.preempt(w, pod, result)
	// It waits, and nobody behind it may take its place.
	j.held.Add(pod)
	j.staying.Add(pod)
	j.tell(w, "", &Rejection{Reason: crowded[0].Reason(), Pending: true,
		Message: fmt.Sprintf("waiting until pods that end make room: %s", crowded[0])})
}

// preempt ends those whose room a critical pod needs.
func (j *judge) preempt(w *worker, pod *corev1.Pod, result admission.Result) {
	var words []string
	for _, s := range result.Short {
		words = append(words, s.String())
	}
	for _, victim := range result.Preempt {
		j.staying.Remove(victim)
		v := j.uids[victim.UID]
		v.record(Record{Time: j.now, Rule: RulePreemption, Input: strings.Join(words, "; "), Action: "end",
			Reason: fmt.Sprintf("pod %s is critical and needs its room", w.key)})
		w.record(Record{Time: j.now, Rule: RulePreemption, Input: strings.Join(words, "; "), Action: "wait",
			Reason: fmt.Sprintf("pod %s ends to make room", v.key)})
		v.log.Info("pod is preempted", "for", w.key)
		v.decideEnd(Ending{Reason: EndingPreempted, Message: admission.MessagePreempting, Disruption: admission.MessageDisruption,
			Since: j.now, Grace: GracePeriod(victim), Failed: true})
	}
}

// tell gives a worker what was decided, if that is news.
func (j *judge) tell(w *worker, blocked string, rejected *Rejection) {
	w.mu.Lock()
	changed := w.blocked != blocked || !equality.Semantic.DeepEqual(w.rejected, rejected)
	w.blocked, w.rejected = blocked, rejected
	w.mu.Unlock()
	if !changed {
		return
	}
	w.due = true
	if rejected != nil {
		w.log.Info("pod is not admitted", "reason", rejected.Reason, "message", rejected.Message)
	}
}

// record keeps a decision that is not an action.
func (w *worker) record(r Record) {
	w.mu.Lock()
	w.ring.add(r, false)
	w.mu.Unlock()
	w.decided(r)
}
