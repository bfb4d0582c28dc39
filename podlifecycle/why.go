package podlifecycle

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle/probe"
)

// Explanation is why a pod is as it is, and what will happen next.
type Explanation struct {
	// Pod as namespace/name.
	Pod   string          `json:"pod"`
	UID   types.UID       `json:"uid"`
	Phase corev1.PodPhase `json:"phase"`
	Ready bool            `json:"ready"`
	// Summary is one sentence for people.
	Summary string `json:"summary"`
	// Next is what will be done and when, if nothing happens before; nil if
	// nothing is planned.
	Next *Next `json:"next,omitempty"`
	// Coming is everything that is planned or waited for, the soonest first: Next,
	// probes of what is not ready, the end of grace. Those without a time come last;
	// they wait for others. Never nil.
	Coming []Next `json:"coming"`
	// Problems of the pod's manifest, or of the one that replaces it.
	Problems []string `json:"problems,omitempty"`
	// Records of decisions, the newest last; never nil.
	Records []Record `json:"records"`
}

// Why explains a pod, or gives ErrNotFound. A manifest that is no valid pod is
// explained too.
func (m *Manager) Why(namespace, name string) (Explanation, error) {
	e := Explanation{Pod: namespace + "/" + name, Coming: []Next{}, Records: []Record{}}
	for _, p := range m.objects().Problems {
		if p.Kind == "Pod" && p.Namespace == namespace && p.Name == name {
			e.Problems = append(e.Problems, p.Error())
		}
	}
	w := m.find(namespace, name)
	if w == nil {
		pod, err := m.Pod(namespace, name)
		if err != nil {
			return Explanation{}, err
		}
		e.Phase = pod.Status.Phase
		e.Summary = pod.Status.Reason + ": " + pod.Status.Message
		return e, nil
	}
	w.mu.Lock()
	e.UID, e.Phase, e.Ready, e.Next = w.uid, w.status.Phase, ready(&w.status), w.next
	e.Records = w.ring.list()
	pod, status, ending := w.pod, w.status.DeepCopy(), w.ending
	deadlines, progress := maps.Clone(w.deadlines), maps.Clone(w.progress)
	w.mu.Unlock()
	e.Coming = m.coming(w, status, e.Next, deadlines, progress)
	if len(e.Coming) > 0 && !e.Coming[0].At.IsZero() {
		e.Next = &e.Coming[0]
	}
	if e.Phase == "" {
		e.Phase = corev1.PodPending
	}
	e.Summary = m.summary(pod, status, ending)
	return e, nil
}

// coming gathers what is planned and what is waited for.
func (m *Manager) coming(w *worker, s *corev1.PodStatus, planned *Next, deadlines map[string]time.Time, progress map[string]string) []Next {
	list := []Next{}
	if planned != nil {
		list = append(list, *planned)
	}
	for container, at := range deadlines {
		list = append(list, Next{At: at, Action: "SIGKILL container " + container, Reason: "its grace ends"})
	}
	for container, how := range progress {
		list = append(list, Next{Action: "pull the image of container " + container, Reason: how})
	}
	for _, of := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for i := range of {
			if of[i].State.Running == nil || of[i].Ready {
				continue
			}
			_, id, _ := strings.Cut(of[i].ContainerID, "://")
			for _, p := range m.probes.Status(id) {
				if !p.Next.IsZero() && (p.Kind == probe.Startup || p.Kind == probe.Readiness) {
					list = append(list, Next{At: p.Next, Action: fmt.Sprintf("%s probe of container %s", p.Kind, of[i].Name),
						Reason: fmt.Sprintf("it stands at %s after %d equal attempts of %d", p.Result, p.Run, p.Threshold)})
				}
			}
		}
	}
	if set := m.objects(); len(set.Waiting) > 0 && !slices.ContainsFunc(set.Pods, func(p *corev1.Pod) bool { return p.UID == w.uid }) {
		list = append(list, Next{Action: "end the pod unless one of them wants it",
			Reason: "sources that have not spoken yet: " + strings.Join(set.Waiting, ", ")})
	}
	slices.SortFunc(list, func(a, b Next) int {
		if a.At.IsZero() != b.At.IsZero() {
			return b.At.Compare(a.At) // those without a time last
		}
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Action, b.Action))
	})
	return list
}

// summary says in one sentence how the pod stands, from the most telling fact on.
func (m *Manager) summary(pod *corev1.Pod, s *corev1.PodStatus, ending *Ending) string {
	head := string(s.Phase)
	switch {
	case terminal(s.Phase):
		if s.Reason != "" {
			return fmt.Sprintf("%s: %s: %s", head, s.Reason, s.Message)
		}
		return head + why(faults(s, true))
	case ending != nil:
		return fmt.Sprintf("ending (%s: %s), SIGKILL at %s%s", ending.Reason, ending.Message,
			ending.deadline().UTC().Format(time.RFC3339), why(faults(s, false)))
	case s.Message != "":
		return fmt.Sprintf("%s: %s", head, strings.TrimPrefix(s.Reason+": "+s.Message, ": "))
	case ready(s):
		return head + " and ready" + why(faults(s, false))
	}
	reasons := faults(s, false)
	reasons = append(reasons, m.probing(s)...)
	if len(reasons) == 0 {
		for _, c := range s.Conditions {
			if c.Type == corev1.PodReady && c.Message != "" {
				reasons = append(reasons, c.Message)
			}
		}
	}
	return head + ", not ready" + why(reasons)
}

func why(reasons []string) string {
	if len(reasons) == 0 {
		return ""
	}
	return ": " + strings.Join(reasons, "; ")
}

// faults tells of containers that wait or have ended badly.
func faults(s *corev1.PodStatus, all bool) []string {
	var out []string
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			c := &list[i]
			switch {
			case c.State.Waiting != nil:
				text := fmt.Sprintf("container %s waits: %s", c.Name, c.State.Waiting.Reason)
				if c.State.Waiting.Message != "" {
					text += ": " + c.State.Waiting.Message
				}
				if t := c.LastTerminationState.Terminated; t != nil {
					text += fmt.Sprintf(" (last exit %d, %s)", t.ExitCode, t.Reason)
				}
				out = append(out, text)
			case c.State.Terminated != nil && (all || c.State.Terminated.ExitCode != 0):
				t := c.State.Terminated
				out = append(out, fmt.Sprintf("container %s exited with %d (%s)", c.Name, t.ExitCode, t.Reason))
			}
		}
	}
	return out
}

// probing tells what the probes of running containers last saw.
func (m *Manager) probing(s *corev1.PodStatus) []string {
	var out []string
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			c := &list[i]
			if c.State.Running == nil || c.Ready {
				continue
			}
			_, id, _ := strings.Cut(c.ContainerID, "://")
			for _, p := range m.probes.Status(id) {
				if p.Result == probe.Success {
					continue
				}
				text := fmt.Sprintf("container %s: %s probe has not succeeded yet", c.Name, p.Kind)
				if n := len(p.Attempts); n > 0 {
					last := p.Attempts[n-1]
					text = fmt.Sprintf("container %s: %s probe at %s: %s", c.Name, p.Kind, last.Time.UTC().Format(time.RFC3339), strings.TrimSpace(last.Output+" "+last.Err))
				}
				out = append(out, text)
			}
		}
	}
	return out
}

// String gives the explanation as text of a few lines.
func (e Explanation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", e.Pod, e.Summary)
	for i, next := range e.Coming {
		word, at := "next", ""
		if i > 0 {
			word = "then"
		}
		if next.At.IsZero() {
			word = "waits"
		} else {
			at = " at " + next.At.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(&b, "%s: %s%s (%s)\n", word, next.Action, at, next.Reason)
	}
	for _, p := range e.Problems {
		fmt.Fprintf(&b, "problem: %s\n", p)
	}
	for _, r := range e.Records {
		fmt.Fprintln(&b, r)
	}
	return b.String()
}

// String gives the record as one line.
func (r Record) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", r.Time.UTC().Format("2006-01-02T15:04:05.000Z"))
	if r.Container != "" {
		fmt.Fprintf(&b, " %s", r.Container)
	}
	fmt.Fprintf(&b, " [%s] %s: %s", r.Rule, r.Action, r.Reason)
	if r.Input != "" {
		fmt.Fprintf(&b, " (%s)", r.Input)
	}
	if r.Result != "" {
		fmt.Fprintf(&b, " -> %s", r.Result)
	}
	if r.Took > 0 {
		fmt.Fprintf(&b, " in %v", r.Took.Round(100*time.Microsecond))
	}
	if r.Error != "" {
		fmt.Fprintf(&b, ": %s", r.Error)
	}
	if r.Count > 1 {
		fmt.Fprintf(&b, " x%d until %s", r.Count, r.Last.UTC().Format("15:04:05"))
	}
	return b.String()
}
