package statusserver

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// podRow is a pod as the page shows it.
type podRow struct {
	Namespace  string         `json:"namespace"`
	Name       string         `json:"name"`
	UID        string         `json:"uid"`
	Phase      string         `json:"phase"`
	Reason     string         `json:"reason"` // as the STATUS of kubectl get pods
	Message    string         `json:"message,omitempty"`
	Ready      int            `json:"ready"`
	Total      int            `json:"total"`
	Healthy    bool           `json:"healthy"` // ready, or ended well
	Restarts   int32          `json:"restarts"`
	IP         string         `json:"ip"`
	Start      *time.Time     `json:"start,omitempty"`
	Containers []containerRow `json:"containers"`
}

type containerRow struct {
	Name     string     `json:"name"`
	Kind     string     `json:"kind"` // app, init or sidecar
	Image    string     `json:"image"`
	State    string     `json:"state"` // waiting, running or terminated
	Reason   string     `json:"reason,omitempty"`
	Message  string     `json:"message,omitempty"`
	ExitCode *int32     `json:"exitCode,omitempty"`
	Ready    bool       `json:"ready"`
	Restarts int32      `json:"restarts"`
	Since    *time.Time `json:"since,omitempty"`
	Last     string     `json:"last,omitempty"` // how the run before ended
}

func podRows(list *corev1.PodList) []podRow {
	rows := []podRow{}
	if list == nil {
		return rows
	}
	for i := range list.Items {
		rows = append(rows, rowOf(&list.Items[i]))
	}
	return rows
}

func rowOf(pod *corev1.Pod) podRow {
	row := podRow{
		Namespace: pod.Namespace,
		Name:      pod.Name,
		UID:       string(pod.UID),
		Phase:     string(pod.Status.Phase),
		Message:   pod.Status.Message,
		IP:        pod.Status.PodIP,
	}
	if row.Phase == "" {
		row.Phase = string(corev1.PodPending)
	}
	switch {
	case pod.Status.StartTime != nil:
		row.Start = &pod.Status.StartTime.Time
	case !pod.CreationTimestamp.IsZero():
		row.Start = &pod.CreationTimestamp.Time
	}
	statuses := map[string]*corev1.ContainerStatus{}
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			statuses[list[i].Name] = &list[i]
			row.Restarts += list[i].RestartCount
		}
	}
	add := func(c *corev1.Container, kind string) {
		line := containerOf(c, kind, statuses[c.Name])
		row.Containers = append(row.Containers, line)
		if kind != "init" {
			row.Total++
			if line.Ready {
				row.Ready++
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c, "sidecar")
		} else {
			add(c, "init")
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i], "app")
	}
	row.Reason = reasonOf(pod, row)
	row.Healthy = pod.DeletionTimestamp == nil &&
		(pod.Status.Phase == corev1.PodSucceeded || (pod.Status.Phase == corev1.PodRunning && ready(pod, row)))
	return row
}

func containerOf(c *corev1.Container, kind string, status *corev1.ContainerStatus) containerRow {
	line := containerRow{Name: c.Name, Kind: kind, Image: c.Image, State: "waiting"}
	if status == nil {
		return line
	}
	line.Ready = status.Ready
	line.Restarts = status.RestartCount
	switch state := status.State; {
	case state.Running != nil:
		line.State = "running"
		line.Since = &state.Running.StartedAt.Time
	case state.Terminated != nil:
		line.State = "terminated"
		line.Reason = endOf(state.Terminated)
		line.Message = state.Terminated.Message
		line.ExitCode = &state.Terminated.ExitCode
		line.Since = &state.Terminated.FinishedAt.Time
	case state.Waiting != nil:
		line.Reason = state.Waiting.Reason
		line.Message = state.Waiting.Message
	}
	if line.Since != nil && line.Since.IsZero() {
		line.Since = nil
	}
	if last := status.LastTerminationState.Terminated; last != nil {
		line.Last = fmt.Sprintf("%s, exit code %d", endOf(last), last.ExitCode)
		if !last.FinishedAt.IsZero() {
			line.Last += " at " + last.FinishedAt.UTC().Format(time.RFC3339)
		}
	}
	return line
}

func endOf(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}

// ready goes by the Ready condition, or by the containers where there is none.
func ready(pod *corev1.Pod, row podRow) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return row.Ready == row.Total
}

// reasonOf gives in a word or two how the pod is, as a person expects it from
// the STATUS column of kubectl get pods v1.37.
func reasonOf(pod *corev1.Pod, row podRow) string {
	if pod.DeletionTimestamp != nil {
		return "Terminating"
	}
	reason := row.Phase
	if pod.Status.Reason != "" {
		reason = pod.Status.Reason
	}
	inits, initsDone := 0, 0
	for _, c := range row.Containers {
		if c.Kind == "app" {
			continue
		}
		inits++
		switch {
		case c.ExitCode != nil && *c.ExitCode == 0 && c.Kind == "init", c.Kind == "sidecar" && c.State == "running":
			initsDone++
			continue
		case c.State == "terminated", c.State == "waiting" && c.Reason != "" && c.Reason != "PodInitializing":
			if row.Phase == string(corev1.PodPending) {
				return "Init:" + c.Reason
			}
		}
	}
	if row.Phase == string(corev1.PodPending) && inits > 0 && initsDone < inits && len(pod.Status.InitContainerStatuses) > 0 {
		return fmt.Sprintf("Init:%d/%d", initsDone, inits)
	}
	running := false
	for _, c := range row.Containers {
		if c.Kind != "app" {
			continue
		}
		switch {
		case c.State == "running":
			running = true
		case c.Reason != "":
			reason = c.Reason
		}
	}
	// Some container ended well while others go on.
	if reason == "Completed" && running {
		reason = "Running"
	}
	if reason == "Running" && !ready(pod, row) {
		reason = "NotReady"
	}
	return reason
}
