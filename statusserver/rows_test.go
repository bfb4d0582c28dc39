package statusserver

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// In the package, because the rows are known to the page alone.

func TestReasonIsWhatKubectlShows(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	waiting := func(reason string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
	}
	ended := func(reason string, code, signal int32) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: reason, ExitCode: code, Signal: signal}}
	}
	status := func(name string, state corev1.ContainerState, ready bool) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: name, State: state, Ready: ready}
	}
	type statuses = []corev1.ContainerStatus
	for _, c := range []struct {
		name       string
		phase      corev1.PodPhase
		reason     string
		deleted    bool
		inits      []corev1.Container
		initStatus statuses
		apps       int
		status     statuses
		want       string
		ready      string
		healthy    bool
	}{
		{name: "unknown to the runtime", apps: 1, want: "Pending", ready: "0/1"},
		{name: "creating", phase: corev1.PodPending, apps: 1, status: statuses{status("c0", waiting("ContainerCreating"), false)}, want: "ContainerCreating", ready: "0/1"},
		{name: "running", phase: corev1.PodRunning, apps: 1, status: statuses{status("c0", running, true)}, want: "Running", ready: "1/1", healthy: true},
		{name: "not ready", phase: corev1.PodRunning, apps: 1, status: statuses{status("c0", running, false)}, want: "NotReady", ready: "0/1"},
		{name: "crashing", phase: corev1.PodRunning, apps: 2, status: statuses{status("c0", running, true), status("c1", waiting("CrashLoopBackOff"), false)}, want: "CrashLoopBackOff", ready: "1/2"},
		{name: "one ended well", phase: corev1.PodRunning, apps: 2, status: statuses{status("c0", running, true), status("c1", ended("Completed", 0, 0), false)}, want: "NotReady", ready: "1/2"},
		{name: "succeeded", phase: corev1.PodSucceeded, apps: 1, status: statuses{status("c0", ended("Completed", 0, 0), false)}, want: "Completed", ready: "0/1", healthy: true},
		{name: "failed without words", phase: corev1.PodFailed, apps: 1, status: statuses{status("c0", ended("", 3, 0), false)}, want: "ExitCode:3", ready: "0/1"},
		{name: "killed", phase: corev1.PodFailed, apps: 1, status: statuses{status("c0", ended("", 137, 9), false)}, want: "Signal:9", ready: "0/1"},
		{name: "evicted", phase: corev1.PodFailed, reason: "Evicted", apps: 1, want: "Evicted", ready: "0/1"},
		{name: "deleted", phase: corev1.PodRunning, deleted: true, apps: 1, status: statuses{status("c0", running, true)}, want: "Terminating", ready: "1/1"},
		{
			name: "init", phase: corev1.PodPending, apps: 1, inits: []corev1.Container{{Name: "i0"}, {Name: "i1"}},
			initStatus: statuses{status("i0", ended("Completed", 0, 0), true), status("i1", running, false)},
			status:     statuses{status("c0", waiting("PodInitializing"), false)}, want: "Init:1/2", ready: "0/1",
		},
		{
			name: "init fails", phase: corev1.PodPending, apps: 1, inits: []corev1.Container{{Name: "i0"}},
			initStatus: statuses{status("i0", waiting("CrashLoopBackOff"), false)}, want: "Init:CrashLoopBackOff", ready: "0/1",
		},
		{
			name: "init failed for good", phase: corev1.PodPending, apps: 1, inits: []corev1.Container{{Name: "i0"}},
			initStatus: statuses{status("i0", ended("", 2, 0), false)}, want: "Init:ExitCode:2", ready: "0/1",
		},
		{
			name: "sidecar counts", phase: corev1.PodRunning, apps: 1, inits: []corev1.Container{{Name: "s0", RestartPolicy: &always}},
			initStatus: statuses{status("s0", running, true)}, status: statuses{status("c0", running, true)}, want: "Running", ready: "2/2", healthy: true,
		},
		{
			name: "sidecar runs, app is being made", phase: corev1.PodPending, apps: 1, inits: []corev1.Container{{Name: "s0", RestartPolicy: &always}},
			initStatus: statuses{status("s0", running, true)}, status: statuses{status("c0", waiting("ContainerCreating"), false)}, want: "ContainerCreating", ready: "1/2",
		},
	} {
		pod := &corev1.Pod{Status: corev1.PodStatus{Phase: c.phase, Reason: c.reason, InitContainerStatuses: c.initStatus, ContainerStatuses: c.status}}
		pod.Spec.InitContainers = c.inits
		for i := range c.apps {
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "c" + string(rune('0'+i))})
		}
		if c.deleted {
			pod.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
		}
		row := rowOf(pod)
		got := string(rune('0'+row.Ready)) + "/" + string(rune('0'+row.Total))
		if row.Reason != c.want || got != c.ready || row.Healthy != c.healthy {
			t.Errorf("%s: %s %s healthy %v, want %s %s %v", c.name, row.Reason, got, row.Healthy, c.want, c.ready, c.healthy)
		}
	}
}

func TestLastRunOfAContainer(t *testing.T) {
	line := containerOf(&corev1.Container{Name: "a"}, "app", &corev1.ContainerStatus{
		State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
		LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			Reason: "OOMKilled", ExitCode: 137, FinishedAt: metav1.Unix(0, 0)}},
	})
	if want := "OOMKilled, exit code 137 at 1970-01-01T00:00:00Z"; line.Last != want {
		t.Errorf("last is %q, want %q", line.Last, want)
	}
}

func BenchmarkRowsOf100Pods(b *testing.B) {
	list := &corev1.PodList{}
	for range 100 {
		list.Items = append(list.Items, corev1.Pod{
			Spec:   corev1.PodSpec{Containers: []corev1.Container{{Name: "a"}, {Name: "b"}}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "a"}, {Name: "b"}}},
		})
	}
	b.ReportAllocs()
	for b.Loop() {
		newEvent("pods", podRows(list))
	}
}
