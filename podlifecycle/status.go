package podlifecycle

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit/nodekit/podlifecycle/qos"
)

// status makes the pod's status from what is observed, what was decided, and
// the status before. A terminal status is never changed again.
func (p *planner) status() corev1.PodStatus {
	prior := &p.o.Prior
	if terminal(prior.Phase) && !p.anyAlive() {
		return *prior.DeepCopy()
	}
	s := corev1.PodStatus{
		ObservedGeneration: p.pod.Generation,
		QOSClass:           qos.Class(p.pod),
		StartTime:          prior.StartTime.DeepCopy(),
	}
	for _, ip := range p.o.Node.HostIPs {
		s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: ip.String()})
	}
	if len(s.HostIPs) > 0 {
		s.HostIP = s.HostIPs[0].IP
	}
	if s.StartTime == nil && (p.ending != nil || p.o.Rejected == nil && p.o.Blocked == "") {
		// From its admission on. An agent takes one that has it for admitted.
		s.StartTime = &metav1.Time{Time: p.now}
	}
	s.PodIPs = p.podIPs()
	if s.PodIPs == nil && p.ending != nil {
		s.PodIPs = prior.PodIPs // the last address, as the kubelet keeps it
	}
	if len(s.PodIPs) > 0 {
		s.PodIP = s.PodIPs[0].IP
	}
	s.Phase = p.phase()
	s.Reason, s.Message = p.statusReason(s.Phase)
	initialized := p.hasInitialized()
	budget := messageBudget
	for _, v := range p.views {
		cs := p.containerStatus(v, initialized, s.Phase, &budget)
		switch v.kind {
		case mainKind:
			s.ContainerStatuses = append(s.ContainerStatuses, cs)
		case ephemeralKind:
			s.EphemeralContainerStatuses = append(s.EphemeralContainerStatuses, cs)
		default:
			s.InitContainerStatuses = append(s.InitContainerStatuses, cs)
		}
	}
	s.AllocatedResources, s.Resources = qos.Requests(p.pod), p.podResources()
	s.Conditions = p.conditions(&s)
	return s
}

func (p *planner) anyAlive() bool {
	for i := range p.o.Containers {
		if alive(&p.o.Containers[i]) {
			return true
		}
	}
	return false
}

// allStopped tells that nothing runs and nothing is about to.
func (p *planner) allStopped() bool {
	for i := range p.o.Containers {
		if p.mustEnd(&p.o.Containers[i]) {
			return false
		}
	}
	for lane := range p.o.Flights {
		if lane != "" {
			return false
		}
	}
	return true
}

func (p *planner) statusReason(phase corev1.PodPhase) (reason, message string) {
	switch {
	case p.ending != nil && p.ending.Failed && phase == corev1.PodFailed:
		return p.ending.Reason, p.ending.Message
	case p.ending == nil && p.o.Rejected != nil:
		return p.o.Rejected.Reason, p.o.Rejected.Message
	case p.ending == nil && p.o.Blocked != "":
		return "", p.o.Blocked
	}
	return "", ""
}

// phase goes forward only: Pending, Running, then Succeeded or Failed once
// everything has stopped.
func (p *planner) phase() corev1.PodPhase {
	prior := p.o.Prior.Phase
	switch {
	case terminal(prior):
		return prior
	case p.ending == nil && p.o.Rejected != nil:
		if p.o.Rejected.Pending {
			return corev1.PodPending
		}
		return corev1.PodFailed
	case p.ending != nil && p.allStopped():
		if p.ending.Failed || !p.allSucceeded() {
			return corev1.PodFailed
		}
		return corev1.PodSucceeded
	case prior == corev1.PodRunning:
		return prior
	}
	started, waiting := false, false
	for _, v := range p.views {
		if v.kind != mainKind {
			continue
		}
		if p.hasRun(v) {
			started = true
		} else {
			waiting = true
		}
	}
	if started && !waiting {
		return corev1.PodRunning
	}
	return corev1.PodPending
}

func (p *planner) allSucceeded() bool {
	for _, v := range p.views {
		if v.kind != mainKind {
			continue
		}
		if got := p.newest(v); got != nil {
			if got.State != "Exited" || got.ExitCode != 0 {
				return false
			}
			continue
		}
		s := p.prior(v)
		if s == nil || s.State.Terminated == nil || s.State.Terminated.ExitCode != 0 {
			return false
		}
	}
	return true
}

// hasRun tells whether a container has ever been started.
func (p *planner) hasRun(v *view) bool {
	for i := range p.instances[v.c.Name] {
		if p.instances[v.c.Name][i].State != "Created" {
			return true
		}
	}
	s := p.prior(v)
	return s != nil && (s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil)
}

// hasInitialized tells that every init container has done its part, now or in
// a sandbox before.
func (p *planner) hasInitialized() bool {
	if p.mainStarted() {
		return true
	}
	for _, v := range p.views {
		switch v.kind {
		case initKind:
			if v.cur == nil || v.cur.State != "Exited" || v.cur.ExitCode != 0 {
				return false
			}
		case sidecarKind:
			if !p.started(v) {
				return false
			}
		}
	}
	return true
}

// conditions in the kubelet's order; the time of the last transition stays
// while the status does.
func (p *planner) conditions(s *corev1.PodStatus) []corev1.PodCondition {
	var list []corev1.PodCondition
	add := func(kind corev1.PodConditionType, ok bool, reason, message string) {
		c := corev1.PodCondition{Type: kind, Status: corev1.ConditionFalse, Reason: reason, Message: message,
			ObservedGeneration: p.pod.Generation, LastTransitionTime: metav1.Time{Time: p.now}}
		if ok {
			c.Status = corev1.ConditionTrue
		}
		for _, old := range p.o.Prior.Conditions {
			if old.Type == kind && old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
		}
		list = append(list, c)
	}
	add(corev1.PodReadyToStartContainers, p.sandbox != nil && !terminal(s.Phase), "", "")

	var unready, incomplete []string
	for _, cs := range s.ContainerStatuses {
		if !cs.Ready {
			unready = append(unready, cs.Name)
		}
	}
	for i, cs := range s.InitContainerStatuses {
		if p.views[i].kind == sidecarKind {
			if !cs.Ready {
				unready = append(unready, cs.Name)
			}
			if cs.Started == nil || !*cs.Started {
				incomplete = append(incomplete, cs.Name)
			}
		} else if t := cs.State.Terminated; t == nil || t.ExitCode != 0 {
			incomplete = append(incomplete, cs.Name)
		}
	}
	done, doneReason := false, ""
	switch s.Phase {
	case corev1.PodSucceeded:
		done, doneReason = true, "PodCompleted"
	case corev1.PodFailed:
		done, doneReason = true, "PodFailed"
	}
	switch {
	case s.Phase == corev1.PodSucceeded:
		add(corev1.PodInitialized, true, doneReason, "")
	case p.hasInitialized() || len(incomplete) == 0 || mayRestartAll(p.pod) && p.was(corev1.PodInitialized):
		add(corev1.PodInitialized, true, "", "")
	default:
		add(corev1.PodInitialized, false, "ContainersNotInitialized",
			fmt.Sprintf("containers with incomplete status: [%s]", strings.Join(incomplete, " ")))
	}
	ready, reason, message := len(unready) == 0, "", ""
	switch {
	case done:
		ready, reason = false, doneReason
	case !ready:
		reason, message = "ContainersNotReady", fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " "))
	}
	gateReason, gateMessage := reason, message
	gates := ready
	if missing := p.missingGates(); ready && missing != "" {
		gates, gateReason, gateMessage = false, "ReadinessGatesNotReady", missing
	}
	add(corev1.PodReady, gates, gateReason, gateMessage)
	add(corev1.ContainersReady, ready, reason, message)
	add(corev1.PodScheduled, true, "", "")
	if p.ending != nil && p.ending.Disruption != "" {
		add(corev1.DisruptionTarget, true, corev1.PodReasonTerminationByKubelet, p.ending.Disruption)
	}
	if mayRestartAll(p.pod) {
		reason, message := doneReason, ""
		if p.restarting {
			reason, message = reasonRestartStarted, "container exited with restart policy rule"
		}
		add(corev1.AllContainersRestarting, p.restarting, reason, message)
	}
	for _, c := range p.resizeConditions() {
		add(c.Type, true, c.Reason, c.Message)
		list[len(list)-1].ObservedGeneration = c.ObservedGeneration
	}
	return append(list, p.foreignConditions(list)...)
}

// was tells that a condition held in the status before.
func (p *planner) was(kind corev1.PodConditionType) bool {
	return slices.ContainsFunc(p.o.Prior.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == kind && c.Status == corev1.ConditionTrue
	})
}

func (p *planner) missingGates() string {
	var missing []string
gates:
	for _, gate := range p.pod.Spec.ReadinessGates {
		for _, c := range p.o.Prior.Conditions {
			if c.Type != gate.ConditionType {
				continue
			}
			if c.Status != corev1.ConditionTrue {
				missing = append(missing, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, c.Status))
			}
			continue gates
		}
		missing = append(missing, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
	}
	return strings.Join(missing, ", ")
}

// foreignConditions are those that others have set; they stay.
func (p *planner) foreignConditions(own []corev1.PodCondition) []corev1.PodCondition {
	var list []corev1.PodCondition
others:
	for _, c := range p.o.Prior.Conditions {
		if c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress {
			continue // told only while they are true
		}
		for i := range own {
			if own[i].Type == c.Type {
				continue others
			}
		}
		list = append(list, c)
	}
	return list
}

// explainReadiness leaves a record of why the pod is not ready.
func (p *planner) explainReadiness() {
	s := &p.d.Status
	if terminal(s.Phase) {
		p.note("", RuleTerminalStatus, s.Reason, "none", "the pod has ended: "+string(s.Phase))
		return
	}
	for _, c := range s.Conditions {
		if c.Type == corev1.PodReady && c.Status != corev1.ConditionTrue {
			p.note("", RuleReadiness, c.Message, "not ready", c.Reason)
		}
	}
}
