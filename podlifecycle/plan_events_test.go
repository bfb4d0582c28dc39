package podlifecycle_test

import (
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/probe"
	"github.com/nodekit/nodekit/runtimeiface"
)

// happen does one thing that nobody asked for.
func (w *world) happen() {
	pick := func() (runtimeiface.Container, bool) {
		var list []runtimeiface.Container
		for _, c := range w.containers {
			if c.State == runtimeiface.ContainerRunning {
				list = append(list, c)
			}
		}
		if len(list) == 0 {
			return runtimeiface.Container{}, false
		}
		return list[w.rng.IntN(len(list))], true
	}
	c, any := pick()
	switch n := w.rng.IntN(100); {
	case n < 30 && any:
		w.exit(c.ID, int32(w.rng.IntN(2)*w.rng.IntN(3)))
	case n < 50 && any:
		w.verdicts[c.ID] = podlifecycle.Verdicts{Startup: probe.Success, Liveness: probe.Success, Readiness: probe.Success}
	case n < 55 && any:
		w.verdicts[c.ID] = podlifecycle.Verdicts{Startup: probe.Success, Liveness: probe.Failure}
	case n < 60 && len(w.sandboxes) > 0:
		w.stopSandbox(w.sandboxes[w.rng.IntN(len(w.sandboxes))].ID)
	case n < 65: // the image of a container is edited
		pod := w.pod.DeepCopy()
		i := w.rng.IntN(len(pod.Spec.Containers))
		pod.Spec.Containers[i].Image = fmt.Sprintf("web:%d", 1+w.rng.IntN(2))
		w.pod = pod
	case n < 66: // and its resources
		pod := w.pod.DeepCopy()
		pod.Spec.Containers[w.rng.IntN(len(pod.Spec.Containers))].Resources = guaranteed(fmt.Sprint(1+w.rng.IntN(3)), fmt.Sprint(1+w.rng.IntN(3), "Mi"))
		w.pod = pod
	case n == 66 && len(w.pod.Spec.EphemeralContainers) == 0: // somebody wants to look
		pod := w.pod.DeepCopy()
		debugged("debug", []string{"", "app"}[w.rng.IntN(2)], "web:1")(pod)
		w.pod = pod
	case n < 68:
		w.ending = w.ending.Merge(podlifecycle.Ending{Reason: podlifecycle.EndingDeleted, Since: w.now,
			Grace: time.Duration(w.rng.IntN(40)) * time.Second, Forget: true})
	case n < 72: // somebody prunes what is dead
		w.containers = slices.DeleteFunc(w.containers, func(c runtimeiface.Container) bool {
			return c.State == runtimeiface.ContainerExited && w.chance(50)
		})
	case n < 75: // the agent dies, and what it had begun is done or not
		for lane, a := range w.flights {
			if w.chance(50) && a.Type != podlifecycle.ActionKill {
				_ = w.effect(a, false)
			}
			delete(w.flights, lane)
		}
		w.images, w.faults, w.cancelled = map[string]podlifecycle.Image{}, map[string]podlifecycle.Fault{}, map[string]bool{}
		w.prepared, w.ended = false, podlifecycle.Ended{}
		for _, c := range w.containers {
			if c.State == runtimeiface.ContainerRunning && w.hooks[c.ID].State == "" {
				w.hooks[c.ID] = podlifecycle.Hook{State: podlifecycle.HookDone}
			}
		}
	default:
		w.now = w.now.Add(time.Duration(w.rng.IntN(20000)) * time.Millisecond)
	}
}

// step lets something land or happen, and plans.
func (w *world) step() error {
	lanes := slices.Sorted(maps.Keys(w.flights))
	if len(lanes) > 0 && w.chance(60) {
		if err := w.land(lanes[w.rng.IntN(len(lanes))]); err != nil {
			return err
		}
	} else {
		w.happen()
	}
	return w.plan()
}

// calmDown has everything go well from now on, and gives an error if the pod
// does not come to rest: running, or ended and cleared away.
func (w *world) calmDown() error {
	w.calm = true
	for range 2000 {
		for _, lane := range slices.Sorted(maps.Keys(w.flights)) {
			if err := w.land(lane); err != nil {
				return err
			}
		}
		for _, c := range slices.Clone(w.containers) {
			if c.State != runtimeiface.ContainerRunning {
				continue
			}
			if w.isInit(c.Name) {
				w.exit(c.ID, 0)
			}
			w.verdicts[c.ID] = podlifecycle.Verdicts{Startup: probe.Success, Liveness: probe.Success, Readiness: probe.Success}
		}
		if err := w.plan(); err != nil {
			return err
		}
		if w.done {
			return nil
		}
		if len(w.flights) > 0 || !w.idle {
			continue
		}
		if w.atRest() {
			return nil
		}
		if w.next == nil {
			return fmt.Errorf("stuck: nothing under way, nothing planned, phase %s", w.status.Phase)
		}
		w.now = maxTime(w.now, w.next.At)
	}
	return fmt.Errorf("no rest within 2000 steps, phase %s", w.status.Phase)
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// atRest: every container runs, or has ended and is not to be restarted.
func (w *world) atRest() bool {
	if w.ending != nil {
		return false
	}
	if slices.ContainsFunc(w.status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodResizeInProgress }) {
		return false
	}
	for _, s := range w.status.ContainerStatuses {
		if s.State.Running == nil && s.State.Terminated == nil {
			return false
		}
	}
	return w.status.StartTime != nil && w.status.StartTime.After((metav1.Time{}).Time)
}
