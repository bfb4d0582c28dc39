package podlifecycle

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// everyContainer gives the containers of all kinds, as copies of the structures.
func everyContainer(pod *corev1.Pod) []corev1.Container {
	list := slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
	for i := range pod.Spec.EphemeralContainers {
		list = append(list, corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	return list
}

// targetOf names the container whose processes an ephemeral one sees, or "".
func targetOf(pod *corev1.Pod, name string) string {
	for i := range pod.Spec.EphemeralContainers {
		if c := &pod.Spec.EphemeralContainers[i]; c.Name == name {
			return c.TargetContainerName
		}
	}
	return ""
}

// ephemerals starts each ephemeral container, once and for all, whatever the
// others do. Source: Kubernetes v1.37.0
// pkg/kubelet/kuberuntime/kuberuntime_manager.go computePodActions.
func (p *planner) ephemerals() {
	for _, v := range p.views {
		if v.kind != ephemeralKind {
			continue
		}
		f, busy := p.o.Flights[v.c.Name]
		switch {
		case busy:
			p.underWay(v, f)
		case p.busy[v.c.Name]:
		case v.cur != nil && v.cur.State == runtimeiface.ContainerCreated:
			p.startCreated(v)
		case v.cur == nil && !p.hasRun(v):
			p.startEphemeral(v)
		}
	}
}

func (p *planner) startEphemeral(v *view) {
	if target := targetOf(p.pod, v.c.Name); target != "" {
		i := slices.IndexFunc(p.views, func(other *view) bool { return other.c.Name == target })
		if i < 0 || p.views[i].cur == nil || p.views[i].cur.State != runtimeiface.ContainerRunning {
			p.note(v.c.Name, RuleStartOrder, "", "wait", fmt.Sprintf("container %s, whose processes it is to see, does not run", target))
			return
		}
	}
	p.start(v, p.nextAttempt(v), 0, RuleStart, "ephemeral containers run once", "")
}

// joinTarget has an ephemeral container see the processes of its target.
func (w *worker) joinTarget(spec *runtimeiface.ContainerSpec, pod *corev1.Pod, sandboxID string) error {
	target := targetOf(pod, spec.Name)
	if target == "" {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.seen.containers {
		c := &w.seen.containers[i]
		if c.Name == target && c.SandboxID == sandboxID && c.State == runtimeiface.ContainerRunning {
			spec.PID, spec.PIDTarget = runtimeiface.NamespaceTarget, c.ID
			return nil
		}
	}
	return fmt.Errorf("container %s, whose processes it is to see, does not run", target)
}
