package podlifecycle_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nodekit/nodekit/podlifecycle"
)

func cpu(amount string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(amount)}
	}
}

func criticalPod(p *corev1.Pod) {
	priority := int32(2_000_000_000)
	p.Spec.Priority = &priority
}

func twoCores(c *podlifecycle.Config) {
	c.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}
}

func disruption(pod *corev1.Pod) string {
	i := slices.IndexFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.DisruptionTarget })
	if i < 0 {
		return ""
	}
	c := pod.Status.Conditions[i]
	return string(c.Status) + " " + c.Reason + ": " + c.Message
}

// Of pods that come together the one of the higher priority has the room, wherever
// it stands in the set.
func TestAdmittedByPriority(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		r.tune = twoCores
		r.start()
		r.set(newPod("low", cpu("1500m")), newPod("high", cpu("1500m"), prio(100)))
		r.settle()
		r.ready("high", true)
		r.phase("low", corev1.PodFailed)
	})
}

// A pod that does not fit is Failed for good, over restarts too, and holds nothing.
func TestRejectedPods(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		r.tune = twoCores
		r.start()
		big, small, late := newPod("big", cpu("1500m")), newPod("small", cpu("1")), newPod("late", cpu("500m"))
		r.set(big, small, late)
		r.settle()
		r.ready("big", true)
		r.ready("late", true)
		pod := r.phase("small", corev1.PodFailed)
		want := "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000"
		if pod.Status.Reason != "OutOfcpu" || pod.Status.Message != want {
			t.Errorf("status %s: %s", pod.Status.Reason, pod.Status.Message)
		}
		for name, word := range map[string]string{"small": "[admission] reject: OutOfcpu", "big": "[admission] admit"} {
			if text := r.why(name); !strings.Contains(text, word) {
				t.Errorf("why %s does not say %q: %s", name, word, text)
			}
		}
		r.set(small, late) // there is room now, but terminal is terminal
		r.pass(time.Minute)
		r.phase("small", corev1.PodFailed)
		r.kill()
		r.start()
		r.set(small, late, newPod("next", cpu("1500m")))
		r.settle()
		if pod := r.phase("small", corev1.PodFailed); pod.Status.Reason != "OutOfcpu" || pod.Status.Message != want {
			t.Errorf("status after a restart %s: %s", pod.Status.Reason, pod.Status.Message)
		}
		r.ready("next", true)
		for _, c := range r.fake.State().Containers {
			if c.Labels[podlifecycle.LabelPodName] == "small" {
				t.Errorf("the rejected pod ran: %+v", c)
			}
		}
	})
}

func TestRejectedForTheNode(t *testing.T) {
	for reason, edit := range map[string]func(*corev1.Pod){
		"PodOSNotSupported": func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} },
		"NodeAffinity":      func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "fast"} },
		"SysctlForbidden": func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "net.core.somaxconn", Value: "1"}}}
		},
	} {
		t.Run(reason, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t).start()
				r.set(newPod("web", edit), newPod("here", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": "node1"} }))
				r.settle()
				r.ready("here", true)
				if pod := r.phase("web", corev1.PodFailed); pod.Status.Reason != reason || !strings.Contains(r.why("web"), "(spec.") {
					t.Errorf("reason %s: %s", pod.Status.Reason, r.why("web"))
				}
			})
		})
	}
}

// What an ending pod still holds is waited for, and kept for who waited first.
func TestWaitsForRoom(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, lingers)
		r.tune = twoCores
		r.start()
		r.set(newPod("web", cpu("1500m")))
		r.settle()
		r.set(newPod("one", cpu("1500m")), newPod("two", cpu("1")))
		r.pass(time.Second)
		if pod := r.phase("one", corev1.PodPending); pod.Status.Reason != "OutOfcpu" || !strings.Contains(pod.Status.Message, "waiting until pods that end") {
			t.Errorf("status %s: %s", pod.Status.Reason, pod.Status.Message)
		}
		if pod := r.phase("two", corev1.PodFailed); pod.Status.Reason != "OutOfcpu" {
			t.Errorf("reason %s", pod.Status.Reason)
		}
		r.pass(5 * time.Second)
		r.ready("one", true)
	})
}

// Trap 1 for resources: what runs is not judged again, though the node has
// become smaller, the newcomers are first in the set and the journal is lost.
func TestTrap1RunningPodsAreNotReallocated(t *testing.T) {
	for _, lost := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			r := newRig(t)
			r.tune = twoCores
			r.start()
			a, b := newPod("zz-a", cpu("1")), newPod("zz-b", cpu("1"))
			r.set(a, b)
			r.settle()
			r.wantRunning("app/0", "app/0")
			r.kill()
			if lost {
				if err := os.Remove(filepath.Join(r.root, "journal")); err != nil {
					t.Fatal(err)
				}
			}
			r.tune = func(c *podlifecycle.Config) {
				c.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m")}
			}
			r.start()
			r.set(newPod("new", cpu("1")), newPod("free"), a, b)
			r.pass(time.Minute)
			for _, name := range []string{"zz-a", "zz-b", "free"} {
				r.ready(name, true)
			}
			if pod := r.phase("new", corev1.PodFailed); pod.Status.Reason != "OutOfcpu" {
				t.Errorf("reason %s", pod.Status.Reason)
			}
			r.wantRunning("app/0", "app/0", "app/0")
		})
	}
}

// A critical pod takes the room of others, once they have ended in order, and an
// agent that dies in the midst of it ends nobody else.
func TestPreemption(t *testing.T) {
	for _, restart := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			r := newRig(t, lingers)
			r.tune = twoCores
			r.start()
			pods := []*corev1.Pod{newPod("a", cpu("1")), newPod("b", cpu("500m")), newPod("c", cpu("500m"))}
			r.set(pods...)
			r.settle()
			pods = append(pods, newPod("crit", cpu("1"), criticalPod))
			r.set(pods...)
			r.pass(time.Second)
			if pod := r.phase("crit", corev1.PodPending); pod.Status.Reason != "OutOfcpu" || !strings.Contains(r.why("crit"), "pod default/a ends to make room") {
				t.Errorf("status %s: %s", pod.Status.Reason, r.why("crit"))
			}
			want := "True TerminationByKubelet: Pod was preempted by Kubelet to accommodate a critical pod."
			if got := disruption(r.phase("a", corev1.PodRunning)); got != want {
				t.Errorf("condition while it ends: %q", got)
			}
			if restart {
				r.kill()
				r.start()
				r.set(pods...)
			}
			r.pass(10 * time.Second)
			r.ready("crit", true)
			r.ready("b", true)
			r.ready("c", true)
			pod := r.phase("a", corev1.PodFailed)
			if pod.Status.Reason != "Preempting" || pod.Status.Message != "Preempted in order to admit critical pod" || disruption(pod) != want {
				t.Errorf("victim: %s: %s, %s", pod.Status.Reason, pod.Status.Message, disruption(pod))
			}
			if text := r.why("a"); !strings.Contains(text, "[preemption] end: pod default/crit is critical") {
				t.Errorf("why: %s", text)
			}
			r.set(append(pods, newPod("crit2", cpu("3"), criticalPod))...)
			r.settle()
			if pod := r.phase("crit2", corev1.PodFailed); pod.Status.Reason != "UnexpectedAdmissionError" {
				t.Errorf("reason %s", pod.Status.Reason)
			}
		})
	}
}

// A deleted pod that is preempted or evicted keeps the reason of its failure.
func TestEndingMergeKeepsTheFailure(t *testing.T) {
	now := time.Now()
	e := &podlifecycle.Ending{Reason: podlifecycle.EndingEvicted, Message: "low", Failed: true, Since: now, Grace: time.Second}
	got := e.Merge(podlifecycle.Ending{Reason: podlifecycle.EndingDeleted, Since: now, Grace: time.Minute, Forget: true})
	if got.Reason != podlifecycle.EndingEvicted || got.Message != "low" || !got.Forget || got.Grace != time.Second {
		t.Errorf("%+v", got)
	}
}
