package podlifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/crilog"
)

// Exec runs a command in the instance of a container that runs now, and gives
// its exit code, as runtimeiface.Streams.Exec does. "" is the only container of
// a pod that has one. ErrNotFound: no such pod or container;
// runtimeiface.ErrNotRunning: it does not run, and the error says why.
func (m *Manager) Exec(ctx context.Context, namespace, pod, container string, spec runtimeiface.ExecSpec) (exitCode int, err error) {
	id, err := m.current(namespace, pod, container)
	if err != nil {
		return -1, fmt.Errorf("exec: %w", err)
	}
	return m.config.Runtime.Exec(ctx, id, spec)
}

// Attach connects to the standard streams of the instance of a container that
// runs now, until that ends: the next one, after a restart, is another. Errors
// as of Exec; runtimeiface.ErrInvalid for Stdin if the container has no stdin.
func (m *Manager) Attach(ctx context.Context, namespace, pod, container string, spec runtimeiface.AttachSpec) error {
	id, err := m.current(namespace, pod, container)
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	return m.config.Runtime.Attach(ctx, id, spec)
}

// PortForward connects conn to a TCP port on the pod's loopback, as
// runtimeiface.Streams.PortForward does. conn is closed on return, whatever the
// error. ErrNotFound: no such pod; runtimeiface.ErrNotRunning: it has no
// sandbox that is ready; runtimeiface.ErrUnavailable: nothing listens.
func (m *Manager) PortForward(ctx context.Context, namespace, pod string, port uint16, conn io.ReadWriteCloser) error {
	id, err := m.readySandbox(namespace, pod)
	if err != nil {
		return errors.Join(fmt.Errorf("port-forward: %w", err), conn.Close())
	}
	return m.config.Runtime.PortForward(ctx, id, port, conn)
}

// Logs writes the log of a container, or of the instance before it, as opts
// ask; opts.Done is the Manager's: a log that is followed ends with the instance
// that writes it. ErrNotFound as of LogPath.
func (m *Manager) Logs(ctx context.Context, namespace, pod, container string, previous bool, opts crilog.Options, stdout, stderr io.Writer) error {
	w, container, err := m.findContainer(namespace, pod, container)
	if err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	path, err := m.LogPath(namespace, pod, container, previous)
	if err != nil {
		return err
	}
	opts.Done = func() bool {
		now, err := m.LogPath(namespace, pod, container, false)
		_, ended := w.instance(container)
		return previous || err != nil || now != path || ended != nil
	}
	return crilog.Read(ctx, path, opts, stdout, stderr)
}

// current gives the ID of the instance that runs.
func (m *Manager) current(namespace, pod, container string) (string, error) {
	w, container, err := m.findContainer(namespace, pod, container)
	if err != nil {
		return "", err
	}
	return w.instance(container)
}

// findContainer gives the pod's worker, and the container's name in full.
func (m *Manager) findContainer(namespace, pod, container string) (*worker, string, error) {
	w := m.find(namespace, pod)
	if w == nil {
		return nil, "", fmt.Errorf("pod %s/%s: %w", namespace, pod, ErrNotFound)
	}
	w.mu.Lock()
	spec := w.pod
	w.mu.Unlock()
	if container == "" {
		if len(spec.Spec.Containers) != 1 {
			var names []string
			for _, c := range spec.Spec.Containers {
				names = append(names, c.Name)
			}
			return nil, "", fmt.Errorf("a container of pod %s/%s must be named, one of %s: %w", namespace, pod, strings.Join(names, ", "), ErrNotFound)
		}
		container = spec.Spec.Containers[0].Name
	}
	if containerOf(spec, container) == nil {
		return nil, "", fmt.Errorf("container %s in pod %s/%s: %w", container, namespace, pod, ErrNotFound)
	}
	return w, container, nil
}

// instance gives the ID of the container's instance that runs, as last seen.
func (w *worker) instance(container string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found *runtimeiface.Container
	for i := range w.seen.containers {
		c := &w.seen.containers[i]
		if c.Name == container && c.State == runtimeiface.ContainerRunning && (found == nil || c.Attempt > found.Attempt) {
			found = c
		}
	}
	if found != nil {
		return found.ID, nil
	}
	return "", fmt.Errorf("container %s in pod %s is %s: %w", container, w.key, standing(&w.status, container), runtimeiface.ErrNotRunning)
}

// standing says in a few words how a container that does not run stands.
func standing(s *corev1.PodStatus, container string) string {
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			switch state := list[i].State; {
			case list[i].Name != container:
			case state.Waiting != nil:
				return "waiting (" + state.Waiting.Reason + ")"
			case state.Terminated != nil:
				return fmt.Sprintf("terminated with %d (%s)", state.Terminated.ExitCode, state.Terminated.Reason)
			}
		}
	}
	return "not there yet"
}

// readySandbox gives the ID of the pod's sandbox.
func (m *Manager) readySandbox(namespace, pod string) (string, error) {
	w := m.find(namespace, pod)
	if w == nil {
		return "", fmt.Errorf("pod %s/%s: %w", namespace, pod, ErrNotFound)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var found *runtimeiface.Sandbox
	for i := range w.seen.sandboxes {
		s := &w.seen.sandboxes[i]
		if s.State == runtimeiface.SandboxReady && (found == nil || s.Attempt > found.Attempt) {
			found = s
		}
	}
	if found == nil {
		return "", fmt.Errorf("pod %s/%s is %s and has no sandbox that is ready: %w", namespace, pod, w.status.Phase, runtimeiface.ErrNotRunning)
	}
	return found.ID, nil
}
