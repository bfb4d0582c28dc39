package podlifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// limits writes what is set, such as "cpu 102/20000 memory 64".
func limits(r specs.LinuxResources) string {
	var words []string
	if r.CPU != nil {
		quota := int64(-1)
		if r.CPU.Quota != nil {
			quota = *r.CPU.Quota
		}
		words = append(words, fmt.Sprintf("cpu %d/%d", *r.CPU.Shares, quota))
	}
	if r.Memory != nil {
		words = append(words, fmt.Sprintf("memory %d", *r.Memory.Limit>>20))
	}
	return strings.Join(words, " ")
}

// sizingRuntime writes down in which order cgroups are changed.
type sizingRuntime struct {
	*runtimetest.Fake
	cgroups *fakeCgroups
}

func (s *sizingRuntime) UpdateContainer(ctx context.Context, id string, resources specs.LinuxResources) error {
	c, err := s.ContainerStatus(ctx, id)
	if err != nil {
		return err
	}
	s.cgroups.mu.Lock()
	s.cgroups.calls = append(s.cgroups.calls, c.Name+" "+limits(resources))
	s.cgroups.mu.Unlock()
	return s.Fake.UpdateContainer(ctx, id, resources)
}

func newSizingRig(t *testing.T) *rig {
	r := newRig(t)
	r.tune = func(c *podlifecycle.Config) {
		c.Runtime = &sizingRuntime{r.fake, r.cgroups}
		c.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("1Gi")}
	}
	return r
}

// want compares what was done to cgroups since the last look.
func (c *fakeCgroups) want(t *testing.T, want ...string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Equal(c.calls, want) {
		t.Errorf("cgroups:\n got %q\nwant %q", c.calls, want)
	}
	c.calls = nil
}

// resources of "cpu memory" for requests and limits alike.
func guaranteed(cpu, memory string) corev1.ResourceRequirements {
	list := corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory)}
	return corev1.ResourceRequirements{Requests: list, Limits: list.DeepCopy()}
}

func pair(name string, a, b corev1.ResourceRequirements, edits ...func(*corev1.Pod)) *corev1.Pod {
	return newPod(name, append([]func(*corev1.Pod){func(p *corev1.Pod) {
		p.Spec.Containers = []corev1.Container{container("a", "web:1"), container("b", "web:1")}
		p.Spec.Containers[0].Resources, p.Spec.Containers[1].Resources = a, b
	}}, edits...)...)
}

func condition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// Decreases come before increases, the pod's cgroup grows first and shrinks
// last, memory before CPU; nothing is restarted, and the status tells.
func TestResizeOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newSizingRig(t).start()
		r.set(pair("web", guaranteed("100m", "100Mi"), guaranteed("500m", "200Mi")))
		r.settle()
		r.cgroups.want(t, "pod cpu 614/60000 memory 300")
		ids := []string{r.container("a").ID, r.container("b").ID}

		r.set(pair("web", guaranteed("1", "300Mi"), guaranteed("200m", "50Mi"), func(p *corev1.Pod) { p.Generation = 2 }))
		r.settle()
		r.cgroups.want(t, "pod memory 350", "b memory 50", "a memory 300",
			"pod cpu 1228/120000", "b cpu 204/20000", "a cpu 1024/100000")
		pod := r.ready("web", true)
		if got := status(pod, "a"); got.Resources.Limits.Cpu().String() != "1" || got.AllocatedResources.Memory().String() != "300Mi" || got.RestartCount != 0 {
			t.Errorf("status %+v", got)
		}
		if condition(pod, corev1.PodResizeInProgress) != nil || condition(pod, corev1.PodResizePending) != nil || pod.Status.ObservedGeneration != 2 {
			t.Errorf("conditions %+v", pod.Status.Conditions)
		}
		r.set(pair("web", guaranteed("100m", "300Mi"), guaranteed("200m", "10Mi")))
		r.settle()
		r.cgroups.want(t, "b memory 10", "pod memory 310", "a cpu 102/10000", "pod cpu 307/30000")
		if now := []string{r.container("a").ID, r.container("b").ID}; !slices.Equal(now, ids) {
			t.Errorf("restarted: %v", now)
		}
		if why := r.why("web"); !strings.Contains(why, "[resize]") || !strings.Contains(why, "memory request from 50Mi to 10Mi") {
			t.Errorf("why:\n%s", why)
		}
	})
}

// A container whose policy says so is restarted, at once and alone, and is made
// with its new size; the pod's cgroup has grown before.
func TestResizeRestarts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newSizingRig(t).start()
		policy := func(p *corev1.Pod) {
			p.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: "memory", RestartPolicy: corev1.RestartContainer}}
		}
		r.set(pair("web", guaranteed("100m", "100Mi"), guaranteed("100m", "100Mi"), policy))
		r.settle()
		r.cgroups.want(t, "pod cpu 204/20000 memory 200")
		r.set(pair("web", guaranteed("100m", "200Mi"), guaranteed("200m", "100Mi"), policy))
		r.settle()
		r.wantRunning("a/1", "b/0")
		r.cgroups.want(t, "pod memory 300", "pod cpu 307/30000", "b cpu 204/20000")
		if spec := r.fake.State(); r.container("a").Annotations[podlifecycle.AnnotationSize] == "" || len(spec.Containers) == 0 {
			t.Error("no size written down")
		}
		if got := status(r.ready("web", true), "a"); got.RestartCount != 1 || got.Resources.Limits.Memory().String() != "200Mi" {
			t.Errorf("status %+v", got)
		}
		r.set(pair("web", guaranteed("300m", "200Mi"), guaranteed("200m", "100Mi"), policy)) // CPU needs none
		r.settle()
		r.wantRunning("a/1", "b/0")
		if condition(r.pod("web"), corev1.PodResizeInProgress) != nil {
			t.Error(r.why("web"))
		}
	})
}

// What does not fit now waits, what can never fit and what may not change is
// told, and in each case the pod goes on with what it has.
func TestResizePending(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newSizingRig(t).start()
		other := newPod("other", func(p *corev1.Pod) { p.Spec.Containers[0].Resources = guaranteed("3", "100Mi") })
		small := func(edits ...func(*corev1.Pod)) *corev1.Pod {
			return newPod("web", append([]func(*corev1.Pod){func(p *corev1.Pod) {
				p.Spec.Containers[0].Resources = guaranteed("500m", "100Mi")
			}}, edits...)...)
		}
		r.set(small(), other)
		r.settle()
		for _, test := range []struct {
			to      corev1.ResourceRequirements
			reason  string
			message string
		}{
			{guaranteed("2", "100Mi"), "Deferred", "Node didn't have enough resource: cpu, requested: 2000, used: 3000, capacity: 4000"},
			{guaranteed("5", "100Mi"), "Infeasible", "Node didn't have enough resource: cpu, requested: 5000, used: 3000, capacity: 4000"},
			{guaranteed("500m", "2Gi"), "Infeasible", "Node didn't have enough resource: memory, requested: 2147483648"},
			{corev1.ResourceRequirements{Requests: guaranteed("100m", "100Mi").Requests, Limits: guaranteed("500m", "100Mi").Limits}, "Infeasible",
				"spec: Pod QOS Class may not change as a result of resizing: it is Guaranteed and would be Burstable"},
		} {
			r.set(small(func(p *corev1.Pod) { p.Spec.Containers[0].Resources, p.Generation = test.to, 7 }), other)
			r.settle()
			pod := r.ready("web", true)
			c := condition(pod, corev1.PodResizePending)
			if c == nil || c.Status != corev1.ConditionTrue || c.Reason != test.reason || !strings.HasPrefix(c.Message, test.message) || c.ObservedGeneration != 7 {
				t.Errorf("%s: condition %+v", test.message, c)
			}
			if got := status(pod, "app"); got.Resources.Limits.Cpu().String() != "500m" || pod.Status.QOSClass != corev1.PodQOSGuaranteed {
				t.Errorf("%s: status %+v", test.message, got)
			}
			if why := r.why("web"); !strings.Contains(why, test.message) {
				t.Errorf("why:\n%s", why)
			}
		}
		r.cgroups.calls = nil
		want := small(func(p *corev1.Pod) { p.Spec.Containers[0].Resources = guaranteed("2", "100Mi") })
		r.set(want, other)
		r.settle()
		r.cgroups.want(t)
		r.set(want) // the other goes
		r.pass(time.Second)
		r.cgroups.want(t, "pod cpu 2048/200000", "app cpu 2048/200000")
		if pod := r.pod("web"); condition(pod, corev1.PodResizePending) != nil || status(pod, "app").Resources.Limits.Cpu().String() != "2" {
			t.Errorf("status %+v", pod.Status)
		}
	})
}

// A memory limit below what is used is not set, but told, until it can be.
func TestResizeBelowUsage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newSizingRig(t).start()
		r.set(pair("web", guaranteed("100m", "100Mi"), guaranteed("100m", "100Mi")))
		r.settle()
		r.cgroups.mu.Lock()
		r.cgroups.calls, r.cgroups.used = nil, map[string]int64{r.container("a").Cgroup: 60 << 20}
		r.cgroups.mu.Unlock()
		r.set(pair("web", guaranteed("100m", "50Mi"), guaranteed("200m", "100Mi")))
		r.settle()
		r.cgroups.want(t) // not even the CPU
		pod := r.ready("web", true)
		want := `cannot decrease memory limits: attempting to set container "a" memory limit (52428800) below current usage (62914560)`
		if c := condition(pod, corev1.PodResizeInProgress); c == nil || c.Reason != corev1.PodReasonError || c.Message != want {
			t.Errorf("condition %+v", c)
		}
		if got := status(pod, "a"); got.Resources.Limits.Memory().String() != "100Mi" || got.AllocatedResources.Memory().String() != "50Mi" {
			t.Errorf("status %+v", got)
		}
		if e, err := r.m.Why("default", "web"); err != nil || e.Next == nil || e.Next.Action != "resize" {
			t.Errorf("next %+v, %v", e.Next, err)
		}
		r.cgroups.mu.Lock()
		r.cgroups.used = nil
		r.cgroups.mu.Unlock()
		r.pass(11 * time.Second)
		r.cgroups.want(t, "a memory 50", "pod memory 150", "pod cpu 307/30000", "b cpu 204/20000")
		if condition(r.pod("web"), corev1.PodResizeInProgress) != nil {
			t.Error(r.why("web"))
		}
	})
}

// An agent that is killed anywhere in a resize goes on where it was, and one
// that restarts later does nothing again.
func TestResizeOutlivesTheAgent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newSizingRig(t).start()
		before := pair("web", guaranteed("100m", "200Mi"), guaranteed("100m", "100Mi"))
		after := pair("web", guaranteed("100m", "100Mi"), guaranteed("100m", "150Mi"))
		r.set(before)
		r.settle()
		// The second step fails.
		r.fake.Inject(runtimetest.Fault{Op: runtimetest.OpUpdateContainer, Match: func(c runtimetest.Call) bool { return c.Container == "b" }, Err: errors.New("busy"), Times: 1})
		r.cgroups.calls = nil
		r.set(after)
		r.settle()
		r.cgroups.want(t, "a memory 100", "b memory 150")
		if c := condition(r.pod("web"), corev1.PodResizeInProgress); c == nil || c.Reason != corev1.PodReasonError || !strings.Contains(c.Message, "busy") {
			t.Errorf("condition %+v", c)
		}
		r.kill()
		r.start()
		r.set(after)
		r.settle()
		r.cgroups.want(t, "pod cpu 204/20000 memory 300", "b memory 150", "pod memory 250")
		r.kill()
		r.start()
		r.set(after)
		r.settle()
		r.cgroups.want(t, "pod cpu 204/20000 memory 250")
		r.wantRunning("a/0", "b/0")
	})
}

// Random sizes in a row: what is never so is a container's limit above its
// pod's, and in the end all is as asked.
func TestResizeIsSafeAtEachStep(t *testing.T) {
	sizes := []string{"10Mi", "20Mi", "50Mi", "100Mi", "200Mi"}
	for seed := range 40 {
		have := []int{seed % 5, seed / 5 % 5}
		pod := func() *corev1.Pod {
			return pair("web", guaranteed("100m", sizes[have[0]]), guaranteed("100m", sizes[have[1]]))
		}
		first := pod()
		have[0], have[1] = (seed+2)%5, (seed/3+1)%5
		second := pod()
		w := newSizeWorld(first)
		for step := 0; ; step++ {
			d := podlifecycle.Plan(second, w.observed(), time.Unix(100, 0))
			if len(d.Actions) == 0 {
				break
			}
			if step > 20 {
				t.Fatalf("seed %d does not end: %+v", seed, d.Actions)
			}
			for _, a := range d.Actions {
				w.apply(a)
				sum := memoryLimit(w.actuated["ca"]) + memoryLimit(w.actuated["cb"])
				if whole := memoryLimit(w.cgroup); sum > whole {
					t.Fatalf("seed %d: after %+v containers may use %d of %d", seed, a, sum, whole)
				}
			}
		}
		if got, want := memoryLimit(w.cgroup), memoryLimit(second.Spec.Containers[0].Resources)+memoryLimit(second.Spec.Containers[1].Resources); got != want {
			t.Errorf("seed %d: pod has %d, want %d", seed, got, want)
		}
	}
}

func memoryLimit(r corev1.ResourceRequirements) int64 { return r.Limits.Memory().Value() }

// sizeWorld is a running pod of containers a and b, as far as sizes go.
type sizeWorld struct {
	actuated map[string]corev1.ResourceRequirements
	cgroup   corev1.ResourceRequirements
}

func newSizeWorld(pod *corev1.Pod) *sizeWorld {
	w := &sizeWorld{actuated: map[string]corev1.ResourceRequirements{}}
	var memory, cpu resource.Quantity
	for _, c := range pod.Spec.Containers {
		w.actuated["c"+c.Name] = *c.Resources.DeepCopy()
		memory.Add(*c.Resources.Limits.Memory())
		cpu.Add(*c.Resources.Limits.Cpu())
	}
	list := corev1.ResourceList{"memory": memory, "cpu": cpu}
	w.cgroup = corev1.ResourceRequirements{Requests: list, Limits: list.DeepCopy()}
	return w
}

func (w *sizeWorld) observed() podlifecycle.Observed {
	o := podlifecycle.Observed{Prepared: true, Actuated: w.actuated, Cgroup: &w.cgroup,
		Sandboxes: []runtimeiface.Sandbox{{ID: "s", State: runtimeiface.SandboxReady, IPs: anIP}}}
	for _, name := range []string{"a", "b"} {
		o.Containers = append(o.Containers, runtimeiface.Container{ID: "c" + name, SandboxID: "s", Name: name, State: runtimeiface.ContainerRunning})
	}
	return o
}

func (w *sizeWorld) apply(a podlifecycle.Action) {
	if a.ID == "" {
		w.cgroup = a.Size
		return
	}
	w.actuated[a.ID] = a.Size
}
