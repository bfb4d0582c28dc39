package podlifecycle

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle/manifest"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface"
)

// ReasonInvalid is the status reason of a manifest that is no valid pod.
const ReasonInvalid = "InvalidManifest"

// reconcile compares the newest set with the workers: it ends, changes and
// starts them, and decides who is admitted.
func (m *Manager) reconcile(ctx context.Context) {
	set := m.set.Load()
	m.mu.Lock()
	draining := m.draining
	m.mu.Unlock()
	if set == nil && !draining {
		return
	}
	if !m.first && !m.recover(ctx) {
		return
	}
	desired := map[types.UID]*corev1.Pod{}
	names := map[string]types.UID{}
	if set != nil && !draining {
		for _, pod := range set.Pods {
			desired[pod.UID], names[pod.Namespace+"/"+pod.Name] = pod, pod.UID
		}
	}
	now := m.config.Clock.Now()
	for _, w := range m.list() {
		m.match(w, desired[w.uid], names, set, draining, now)
	}
	m.revive()
	if set != nil && !draining {
		m.startNew(set.Pods)
		m.showProblems(set, names)
	}
	if m.damage != "" {
		for _, w := range m.list() {
			w.record(Record{Time: now, Rule: RuleJournal, Action: "rebuild", Reason: "what is missing is as the runtime tells it", Input: m.damage})
		}
		m.damage = ""
	}
	m.first, m.running = true, nil
	m.whole = m.whole || set != nil && len(set.Waiting) == 0
	m.admit()
	m.launch(ctx)
	if m.whole && !m.swept {
		m.wakeDue()
		m.sweep(ctx)
	}
	if draining && len(m.list()) == 0 {
		select {
		case <-m.drained:
		default:
			close(m.drained)
		}
	}
}

// match brings one worker in line with the set.
func (m *Manager) match(w *worker, want *corev1.Pod, names map[string]types.UID, set *source.Set, draining bool, now time.Time) {
	w.mu.Lock()
	have, leaving := w.pod, w.ending != nil && w.ending.Forget
	w.mu.Unlock()
	switch {
	case draining:
		if !leaving {
			w.decideEnd(Ending{Reason: EndingStopped, Message: "the agent stops all pods", Since: now, Grace: GracePeriod(have), Forget: true})
		}
	case want != nil && want.DeletionTimestamp != nil:
		grace := GracePeriod(want)
		if s := want.DeletionGracePeriodSeconds; s != nil {
			grace = time.Duration(*s) * time.Second
		}
		w.decideEnd(Ending{Reason: EndingDeleted, Message: "the pod was deleted", Since: now, Grace: grace, Forget: true})
	case leaving:
	case want != nil:
		w.change(want, set)
	case slices.Contains(set.Broken, have.Annotations[source.AnnotationFile]):
		// Its file cannot be read now; a slip of the pen stops nothing.
	case len(set.Waiting) > 0 && names[have.Namespace+"/"+have.Name] == "":
		// A source that has not spoken may want it.
	default:
		e := Ending{Reason: EndingDeleted, Message: "no source wants the pod any more", Since: now, Grace: GracePeriod(have), Forget: true}
		if uid, ok := names[have.Namespace+"/"+have.Name]; ok {
			e.Reason, e.Message = EndingReplaced, "pod "+string(uid)+" takes its place"
		} else if !m.whole {
			e.Reason, e.Message = EndingOrphaned, "it ran when the agent started and no source wants it"
		}
		w.decideEnd(e)
	}
}

// change gives a worker a new version of its pod, and tells it of new objects.
func (w *worker) change(pod *corev1.Pod, set *source.Set) {
	objects := objectsKey(pod, set)
	w.mu.Lock()
	edited := w.pod != pod && !equality.Semantic.DeepEqual(w.pod, pod)
	refreshed := w.objects != objects
	if edited {
		w.pod = pod
		w.stale, w.announce = true, true
	}
	if refreshed {
		w.objects, w.stale, w.fresh = objects, true, true
	}
	w.mu.Unlock()
	if edited {
		w.keepSpec(pod)
	}
	w.due = w.due || edited || refreshed
}

func (w *worker) keepSpec(pod *corev1.Pod) {
	w.m.wrote(putJSON(w.m.journal, keySpec+string(w.uid), pod))
}

// startNew makes workers for pods that have none. A pod whose UID still ends
// waits until that is over: reconcile comes again then.
func (m *Manager) startNew(pods []*corev1.Pod) {
	for _, pod := range pods {
		if m.worker(pod.UID) != nil || pod.DeletionTimestamp != nil {
			continue
		}
		w := m.newWorker(pod, m.recovered[pod.UID].state)
		if !m.first && m.running[pod.UID] {
			w.admitted = true
			w.record(Record{Time: m.config.Clock.Now(), Rule: RuleAdmission, Action: "admit", Reason: "it runs since an earlier agent, whose journal is lost"})
		}
		w.objects = objectsKey(pod, m.set.Load())
		w.keepSpec(pod)
		m.enlist(w)
	}
}

// clash finds another pod that has one of the host ports, and says which by its
// field. An address and "every address" exclude each other.
func clash(pod *corev1.Pod, ports map[string]*worker) (string, *worker) {
	for _, p := range hostPorts(pod) {
		own := fmt.Sprintf("%d/%s", p.port.HostPort, p.port.Protocol)
		for key, other := range ports {
			host, port, _ := strings.Cut(key, " ")
			if port == own && (host == "" || hostIP(p.port) == "" || host == hostIP(p.port)) {
				return fmt.Sprintf("%s: host port %s", p.path, own), other
			}
		}
	}
	return "", nil
}

func portKeys(pod *corev1.Pod) []string {
	var keys []string
	for _, p := range hostPorts(pod) {
		keys = append(keys, fmt.Sprintf("%s %d/%s", hostIP(p.port), p.port.HostPort, p.port.Protocol))
	}
	return keys
}

func hostIP(p corev1.ContainerPort) string {
	if p.HostIP == "0.0.0.0" || p.HostIP == "::" {
		return ""
	}
	return p.HostIP
}

// hostPort is a port of the node and the field that asks for it.
type hostPort struct {
	port corev1.ContainerPort
	path string
}

// hostPorts are the ports of the node that a pod's containers ask for; on the
// host's network those are all its ports.
func hostPorts(pod *corev1.Pod) []hostPort {
	var list []hostPort
	for _, part := range []struct {
		field      string
		containers []corev1.Container
	}{{"initContainers", pod.Spec.InitContainers}, {"containers", pod.Spec.Containers}} {
		for i := range part.containers {
			for j, p := range part.containers[i].Ports {
				if pod.Spec.HostNetwork && p.HostPort == 0 {
					p.HostPort = p.ContainerPort
				}
				if p.HostPort == 0 {
					continue
				}
				if p.Protocol == "" {
					p.Protocol = corev1.ProtocolTCP
				}
				list = append(list, hostPort{p, fmt.Sprintf("spec.%s[%d].ports[%d].hostPort", part.field, i, j)})
			}
		}
	}
	return list
}

// recover makes workers for what an earlier agent left: from the journal, and
// from the runtime for what the journal does not know.
func (m *Manager) recover(ctx context.Context) bool {
	sandboxes, containers, err := m.listAll(ctx)
	if err != nil {
		m.config.Logger.Error(err, "look at the runtime")
		if m.sleep(ctx, retryRuntime) {
			m.kick()
		}
		return false
	}
	for _, known := range m.recovered {
		state := known.returned()
		w := m.newWorker(known.pod, state)
		w.admitted = state.Status.StartTime != nil // see planner.status
		m.users.keep(w.uid, w.users)
		m.enlist(w)
	}
	m.running = map[types.UID]bool{}
	for _, s := range sandboxes {
		// One that has stopped holds nothing: a pod that waits, or that comes back after
		// a shutdown, may have it from a life before.
		held := holds(s, containers)
		m.running[types.UID(s.UID)] = m.running[types.UID(s.UID)] || held
		if first := usersOf(s); first != 0 {
			m.users.keep(types.UID(s.UID), first) // what holds counts, not what was noted
		}
		if w := m.worker(types.UID(s.UID)); w != nil {
			w.admitted = w.admitted || held
			continue
		}
		set := m.set.Load()
		if set != nil && slices.ContainsFunc(set.Pods, func(p *corev1.Pod) bool { return string(p.UID) == s.UID }) {
			continue // the set knows more of it than its sandbox; startNew adopts it
		}
		m.adopt(s, containers)
	}
	return true
}

// holds tells whether a sandbox, or what runs in it, has its part of the node.
func holds(s runtimeiface.Sandbox, containers []runtimeiface.Container) bool {
	return s.State == runtimeiface.SandboxReady || slices.ContainsFunc(containers, func(c runtimeiface.Container) bool {
		return c.SandboxID == s.ID && alive(&c)
	})
}

// adopt makes a worker for a sandbox of which nothing else is known.
func (m *Manager) adopt(s runtimeiface.Sandbox, containers []runtimeiface.Container) {
	pod := &corev1.Pod{}
	pod.Name, pod.Namespace, pod.UID = s.Name, s.Namespace, types.UID(s.UID)
	pod.Labels, pod.Annotations = s.Labels, s.Annotations
	if seconds, err := strconv.ParseInt(s.Annotations[AnnotationGrace], 10, 64); err == nil {
		pod.Spec.TerminationGracePeriodSeconds = &seconds
	}
	for _, c := range containers {
		if c.Labels[LabelPodUID] == s.UID && containerOf(pod, c.Name) == nil {
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: c.Name, Image: c.Annotations[AnnotationImage]})
		}
	}
	w := m.newWorker(pod, podState{})
	w.admitted = true
	w.keepSpec(pod)
	m.enlist(w)
}

// showProblems makes a pod to look at of each manifest that is none.
func (m *Manager) showProblems(set *source.Set, names map[string]types.UID) {
	phantoms := map[string]*corev1.Pod{}
	for _, p := range set.Problems {
		if p.Kind != "Pod" || p.Name == "" {
			continue
		}
		key := p.Namespace + "/" + p.Name
		if _, there := names[key]; there {
			continue
		}
		if old := phantoms[key]; old != nil {
			old.Status.Message += "; " + p.Error()
			continue
		}
		phantoms[key] = phantom(p, m.config.Clock.Now())
	}
	m.mu.Lock()
	for key, pod := range phantoms {
		if old := m.phantoms[key]; old != nil && old.Status.Message == pod.Status.Message {
			phantoms[key] = old
		}
	}
	m.phantoms = phantoms
	m.mu.Unlock()
	told := map[string]bool{}
	for _, p := range set.Problems {
		text := p.Error()
		if !m.told[text] && !told[text] {
			m.config.Logger.Error(p, "manifest is wrong", "file", p.File)
		}
		told[text] = true
	}
	m.told = told
}

func phantom(p manifest.Problem, now time.Time) *corev1.Pod {
	pod := &corev1.Pod{}
	pod.Name, pod.Namespace = p.Name, p.Namespace
	pod.Annotations = map[string]string{source.AnnotationFile: p.File}
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending, Reason: ReasonInvalid, Message: p.Error(),
		Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: ReasonInvalid,
			Message: p.Error(), LastTransitionTime: metav1.Time{Time: now}}}}
	return pod
}
