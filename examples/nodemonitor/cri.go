package main

import (
	"context"
	"path"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/metrics"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/cri"
)

// pods knows what the cgroups of a CRI runtime are called.
type pods struct {
	runtime *cri.Runtime
	logger  logr.Logger
	again   chan struct{}
	ready   chan struct{} // closed once the first names are known
	once    sync.Once

	mu       sync.Mutex
	byCgroup map[string]metrics.Target
	shown    []corev1.Pod
	logs     map[string]string  // paths, by container
	disks    map[string]written // by container
}

func dial(ctx context.Context, endpoint string, logger logr.Logger) (*pods, error) {
	runtime, err := cri.Dial(ctx, cri.Config{Endpoint: endpoint, Logger: logger})
	if err != nil {
		return nil, err
	}
	return &pods{runtime: runtime, logger: logger, again: make(chan struct{}, 1), ready: make(chan struct{})}, nil
}

// Close lets go of the runtime.
func (p *pods) Close() error { return p.runtime.Close() }

// Run keeps the names current until ctx ends: it looks when the runtime or a
// new cgroup says so, and each half minute.
func (p *pods) Run(ctx context.Context, changed func()) error {
	events, err := p.runtime.Subscribe(ctx)
	if err != nil {
		return err
	}
	ticker := time.NewTicker(30 * time.Second)
	defer ticker.Stop()
	for {
		if err := p.read(ctx); err == nil {
			changed()
		} else if ctx.Err() == nil {
			p.logger.Error(err, "containers are not known, keeping the old names")
		}
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-events:
			if !ok {
				events = nil
			}
		case <-p.again:
		case <-ticker.C:
		}
	}
}

// look has Run look again soon.
func (p *pods) look() {
	select {
	case p.again <- struct{}{}:
	default:
	}
}

// describe names a cgroup; one that is no container's and no pod's is not metered.
func (p *pods) describe(cgroup string) (metrics.Target, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t, ok := p.byCgroup[cgroup]
	return t, ok
}

// list gives the pods for the page.
func (p *pods) list(context.Context) (*corev1.PodList, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &corev1.PodList{Items: p.shown}, nil
}

func (p *pods) read(ctx context.Context) error {
	sandboxes, err := p.runtime.ListSandboxes(ctx, runtimeiface.SandboxFilter{})
	if err != nil {
		return err
	}
	containers, err := p.runtime.ListContainers(ctx, runtimeiface.ContainerFilter{})
	if err != nil {
		return err
	}
	named := map[string]metrics.Target{}
	shown := make([]corev1.Pod, 0, len(sandboxes))
	at := map[string]int{}
	logs := map[string]string{}
	for i, s := range sandboxes {
		at[s.ID] = i
		shown = append(shown, podOf(s))
		// Its pause process has a cgroup, but where the runtime needs no process.
		if s.Cgroup != "" {
			named[s.Cgroup] = metrics.Target{Cgroup: s.Cgroup, Namespace: s.Namespace, Pod: s.Name, PodUID: s.UID, ID: s.ID, StartedAt: s.CreatedAt}
		}
	}
	for _, c := range containers {
		i, ok := at[c.SandboxID]
		if !ok {
			continue
		}
		addContainer(&shown[i], c)
		if c.Cgroup == "" {
			continue
		}
		s := sandboxes[i]
		t := metrics.Target{Namespace: s.Namespace, Pod: s.Name, PodUID: s.UID}
		// The pod has a cgroup of its own where the runtime was given one for it.
		if parent := path.Dir(c.Cgroup); s.CgroupParent != "" && path.Base(parent) == path.Base(s.CgroupParent) {
			pod := t
			pod.Cgroup, pod.PID, pod.StartedAt = parent, s.PID, s.CreatedAt
			pod.HostNetwork = s.Network == runtimeiface.NamespaceHost
			named[parent] = pod
		}
		t.Cgroup, t.Container, t.ID, t.Image, t.ImageID, t.StartedAt = c.Cgroup, c.Name, c.ID, c.Image, c.ImageID, c.StartedAt
		named[c.Cgroup] = t
		logs[c.ID] = c.LogPath
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byCgroup, p.shown, p.logs = named, shown, logs
	p.once.Do(func() { close(p.ready) })
	return nil
}

// podOf tells of a sandbox what its runtime knows.
func podOf(s runtimeiface.Sandbox) corev1.Pod {
	pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: s.Name, Namespace: s.Namespace, UID: types.UID(s.UID), CreationTimestamp: metav1.NewTime(s.CreatedAt)}}
	started := metav1.NewTime(s.CreatedAt)
	pod.Status.StartTime = &started
	pod.Status.Phase = corev1.PodRunning
	if s.State != runtimeiface.SandboxReady {
		pod.Status.Phase = corev1.PodUnknown
	}
	for i, ip := range s.IPs {
		if i == 0 {
			pod.Status.PodIP = ip.String()
		}
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: ip.String()})
	}
	return pod
}

func addContainer(pod *corev1.Pod, c runtimeiface.Container) {
	running := c.State == runtimeiface.ContainerRunning
	status := corev1.ContainerStatus{Name: c.Name, Image: c.Image, ImageID: c.ImageID, ContainerID: c.ID, Ready: running, RestartCount: int32(c.Attempt)}
	switch c.State {
	case runtimeiface.ContainerRunning:
		status.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(c.StartedAt)}
	case runtimeiface.ContainerExited:
		status.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: c.ExitCode, Reason: c.Reason,
			StartedAt: metav1.NewTime(c.StartedAt), FinishedAt: metav1.NewTime(c.FinishedAt)}
	default:
		status.State.Waiting = &corev1.ContainerStateWaiting{Reason: string(c.State)}
	}
	// Lists go from the oldest to the newest: the last instance of a name counts.
	for i := range pod.Status.ContainerStatuses {
		if pod.Status.ContainerStatuses[i].Name == c.Name {
			pod.Status.ContainerStatuses[i] = status
			return
		}
	}
	pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: c.Name, Image: c.Image})
	pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, status)
}
