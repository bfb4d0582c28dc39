package main

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/probe"
	"github.com/nodekit/nodekit/runtimeiface"
)

// state is what is on the node of one pod.
type state struct {
	Pod        string           `json:"pod"`
	Deleted    bool             `json:"deleted"`
	Sandbox    string           `json:"sandbox"`
	Containers []containerState `json:"containers"`
}

type containerState struct {
	Name     string          `json:"name"`
	State    string          `json:"state"`
	Attempt  uint32          `json:"attempt"`
	ExitCode int32           `json:"exitCode"`
	Reason   string          `json:"reason"`
	Started  metav1.Duration `json:"started"`
	Finished metav1.Duration `json:"finished"`
	Image    string          `json:"image"`
	Ready    *bool           `json:"ready"`
	Alive    *bool           `json:"alive"`
	// Resources that it was made with, if others than the manifest's.
	Resources *corev1.ResourceRequirements `json:"resources"`
}

func (s state) empty() bool { return reflect.DeepEqual(s, state{}) }

func readState(path string) (state, error) {
	var s state
	if path == "" {
		return s, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	if err := yaml.UnmarshalStrict(bytes.TrimSpace(data), &s); err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// begin puts the world in a state.
func (w *world) begin(s state) error {
	w.told = "on a node in the state that is given"
	switch s.Sandbox {
	case "":
	case "ready", "lost":
		w.prepared = true
		w.makeSandbox(0)
		if s.Sandbox == "lost" {
			w.sandboxes[0].State = runtimeiface.SandboxNotReady
		}
	default:
		return fmt.Errorf("sandbox: %q is not ready or lost", s.Sandbox)
	}
	for i, c := range s.Containers {
		if err := w.beginContainer(c); err != nil {
			return fmt.Errorf("containers[%d]: %w", i, err)
		}
	}
	if s.Deleted {
		w.ending = &podlifecycle.Ending{Reason: podlifecycle.EndingDeleted, Message: "no source wants the pod any more",
			Since: w.now, Grace: podlifecycle.GracePeriod(w.pod), Forget: true}
	}
	return nil
}

func (w *world) beginContainer(s containerState) error {
	spec := w.container(s.Name)
	if spec == nil {
		return fmt.Errorf("name: the pod has no container %q", s.Name)
	}
	if len(w.sandboxes) == 0 {
		return fmt.Errorf("name: %s cannot be without a sandbox", s.Name)
	}
	made := *spec
	if s.Image != "" {
		made.Image = s.Image
	}
	c := w.makeContainer(&made, podlifecycle.Action{Container: s.Name, ID: w.sandboxes[0].ID, Attempt: s.Attempt, Level: int(s.Attempt)})
	c.StartedAt = w.now.Add(-s.Started.Duration)
	switch s.State {
	case "running":
		c.State = runtimeiface.ContainerRunning
	case "exited":
		c.State, c.ExitCode, c.FinishedAt = runtimeiface.ContainerExited, s.ExitCode, w.now.Add(-s.Finished.Duration)
		if c.Reason = s.Reason; c.Reason == "" {
			c.Reason = exitReason(s.ExitCode)
		}
		if c.StartedAt.After(c.FinishedAt) {
			return fmt.Errorf("started: %s must have started before it finished", s.Name)
		}
	case "created":
		c.StartedAt = time.Time{}
	default:
		return fmt.Errorf("state: %q is not running, exited or created", s.State)
	}
	v := verdictsOf(spec)
	if s.Ready != nil && !*s.Ready {
		v.Readiness = probe.Failure
	}
	if s.Alive != nil && !*s.Alive {
		v.Liveness, v.Output = probe.Failure, "as the state says"
	}
	w.verdicts[c.ID] = v
	if s.Resources != nil {
		w.actuated[c.ID] = *s.Resources
	}
	w.containers = append(w.containers, c)
	return nil
}

func (w *world) container(name string) *corev1.Container {
	for _, list := range [][]corev1.Container{w.pod.Spec.InitContainers, w.pod.Spec.Containers} {
		if i := slices.IndexFunc(list, func(c corev1.Container) bool { return c.Name == name }); i >= 0 {
			return &list[i]
		}
	}
	for _, e := range w.pod.Spec.EphemeralContainers {
		if e.Name == name {
			c := corev1.Container(e.EphemeralContainerCommon)
			return &c
		}
	}
	return nil
}

func exitReason(code int32) string {
	if code == 0 {
		return runtimeiface.ReasonCompleted
	}
	return runtimeiface.ReasonError
}
