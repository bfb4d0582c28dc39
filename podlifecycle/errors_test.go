package podlifecycle_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/manifest"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/podlifecycle/volume"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

func TestImageErrors(t *testing.T) {
	t.Run("back-off", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t).start()
			r.set(newPod("web", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "nowhere:1" }))
			r.settle()
			reason := func() string {
				s := status(r.pod("web"), "app")
				if s.State.Waiting == nil {
					t.Fatalf("status %+v", s)
				}
				return s.State.Waiting.Reason
			}
			if got := reason(); got != "ErrImagePull" {
				t.Errorf("first %s", got)
			}
			r.pass(2 * time.Second)
			if got := reason(); got != "ImagePullBackOff" {
				t.Errorf("then %s", got)
			}
			pulls := func() int { return len(r.fake.Calls(runtimetest.OpPullImage)) }
			for i, delay := range []time.Duration{8, 20, 40, 80, 160, 300, 300} {
				r.pass(delay*time.Second - time.Millisecond)
				before := pulls()
				r.pass(time.Millisecond)
				if before != i+1 || pulls() != i+2 {
					t.Fatalf("pulls %d then %d after delay %d", before, pulls(), i)
				}
			}
			if err := r.fake.AddImage(runtimetest.FakeImage{Ref: "nowhere:1"}); err != nil {
				t.Fatal(err)
			}
			r.pass(300 * time.Second)
			r.ready("web", true)
		})
	})
	for _, c := range []struct {
		image  string
		policy corev1.PullPolicy
		reason string
	}{
		{"Not A Name", corev1.PullIfNotPresent, "InvalidImageName"},
		{"absent:1", corev1.PullNever, "ErrImageNeverPull"},
	} {
		t.Run(c.reason, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t).start()
				r.set(newPod("web", func(p *corev1.Pod) {
					p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = c.image, c.policy
				}))
				r.settle()
				s := status(r.pod("web"), "app")
				if s.State.Waiting == nil || s.State.Waiting.Reason != c.reason || !strings.Contains(s.State.Waiting.Message, c.image) {
					t.Errorf("status %+v", s)
				}
				r.pass(time.Hour)
				if n := len(r.fake.Calls(runtimetest.OpPullImage)); n > 1 || c.policy == corev1.PullNever && n > 0 {
					t.Errorf("%d pulls", n)
				}
			})
		})
	}
}

func TestMissingConfigMapIsNamedAndCured(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		pod := newPod("web", func(p *corev1.Pod) {
			p.Annotations = map[string]string{source.AnnotationFile: "web.yaml"}
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "COLOUR", ValueFrom: &corev1.EnvVarSource{
				ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}, Key: "colour"}}}}
		})
		other := newPod("other")
		r.set(pod, other)
		r.pass(20 * time.Second)
		s := status(r.pod("web"), "app")
		if s.State.Waiting == nil || s.State.Waiting.Reason != "CreateContainerConfigError" {
			t.Fatalf("status %+v", s)
		}
		for _, word := range []string{"web.yaml", "default/web", "settings", "env[0]"} {
			if !strings.Contains(s.State.Waiting.Message, word) || !strings.Contains(r.why("web"), word) {
				t.Errorf("%q is missing in %q or in why:\n%s", word, s.State.Waiting.Message, r.why("web"))
			}
		}
		r.ready("other", true)
		cm := &corev1.ConfigMap{Data: map[string]string{"colour": "green"}}
		cm.Name, cm.Namespace = "settings", "default"
		r.m.Set(source.Set{Pods: []*corev1.Pod{pod, other}, ConfigMaps: []*corev1.ConfigMap{cm}})
		r.settle()
		r.ready("web", true)
		_, spec, err := r.fake.Specs(r.container("app").ID)
		if s := status(r.pod("web"), "app"); s.RestartCount != 0 {
			t.Errorf("restart count %d", s.RestartCount)
		}
		if err != nil || !slices.Contains(spec.Env, "COLOUR=green") {
			t.Errorf("environment %v, %v", spec.Env, err)
		}
	})
}

func TestHostPortClash(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		port := func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080}}
			p.Annotations = map[string]string{source.AnnotationFile: p.Name + ".yaml"}
		}
		first, second := newPod("second", port), newPod("first", port)
		r.set(first, second, newPod("third"))
		r.settle()
		r.ready("second", true)
		r.ready("third", true)
		pod := r.phase("first", corev1.PodPending)
		for _, word := range []string{"8080/TCP", "first.yaml", "default/second"} {
			if pod.Status.Reason != "NodePorts" || !strings.Contains(pod.Status.Message, word) || !strings.Contains(r.why("first"), word) {
				t.Errorf("%q is not in %s: %s\n%s", word, pod.Status.Reason, pod.Status.Message, r.why("first"))
			}
		}
		r.set(second, newPod("third"))
		r.settle()
		r.ready("first", true)
		if pod := r.pod("first"); pod.Status.Reason != "" {
			t.Errorf("reason stays: %s", pod.Status.Reason)
		}
	})
}

func TestInvalidManifestIsShown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		problem := manifest.Problem{File: "bad.yaml", Document: 1, Kind: "Pod", Namespace: "default", Name: "bad",
			Field: "spec.containers[0].imge", Err: errors.New("unknown field")}
		r.m.Set(source.Set{Pods: []*corev1.Pod{newPod("web")}, Problems: []manifest.Problem{problem}})
		r.settle()
		r.ready("web", true)
		pod := r.phase("bad", corev1.PodPending)
		if pod.Status.Reason != podlifecycle.ReasonInvalid || pod.Status.Message != problem.Error() {
			t.Errorf("status %+v", pod.Status)
		}
		if e, err := r.m.Why("default", "bad"); err != nil || len(e.Problems) != 1 || len(r.m.Problems()) != 1 || len(r.m.Pods()) != 2 {
			t.Errorf("why %+v, %v", e, err)
		}
		r.m.Set(source.Set{Pods: []*corev1.Pod{newPod("web"), newPod("bad")}})
		r.settle()
		r.ready("bad", true)
	})
}

// A volume that cannot be made is told of in the status, cured by a new set at
// once, and does not hold up the pod's end.
func TestVolumeFault(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		pod := newPod("web", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "settings", VolumeSource: corev1.VolumeSource{
				ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}}}
		})
		r.volumes.fail(&volume.Error{Pod: "default/web", Field: "spec.volumes[0].configMap", Volume: "settings", Err: volume.ErrMissing})
		r.set(pod)
		r.pass(20 * time.Second)
		s := status(r.phase("web", corev1.PodPending), "app")
		if s.State.Waiting == nil || s.State.Waiting.Reason != "ContainerCreating" || !strings.Contains(s.State.Waiting.Message, "default/web") {
			t.Errorf("status %+v", s)
		}
		r.volumes.fail(nil)
		cm := &corev1.ConfigMap{Data: map[string]string{"a": "b"}}
		cm.Name, cm.Namespace = "settings", "default"
		r.m.Set(source.Set{Pods: []*corev1.Pod{pod}, ConfigMaps: []*corev1.ConfigMap{cm}})
		r.settle()
		r.ready("web", true)
		other := newPod("other")
		r.volumes.fail(errors.New("disk on fire"))
		r.m.Set(source.Set{Pods: []*corev1.Pod{pod, other}, ConfigMaps: []*corev1.ConfigMap{cm}})
		r.pass(40 * time.Second)
		r.volumes.fail(nil)
		r.m.Set(source.Set{Pods: []*corev1.Pod{pod}, ConfigMaps: []*corev1.ConfigMap{cm}})
		r.settle()
		if _, err := r.m.Pod("default", "other"); !errors.Is(err, podlifecycle.ErrNotFound) {
			t.Errorf("the end waits for an old fault:\n%s", r.why("other"))
		}
	})
}

// A pod that has ended leaves nothing once nobody wants it; nor does one whose
// journal was lost.
func TestNothingIsLeft(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).start()
		r.set(newPod("job", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
		r.settle()
		if err := r.fake.Exit(r.container("app").ID, 0); err != nil {
			t.Fatal(err)
		}
		r.settle()
		r.phase("job", corev1.PodSucceeded)
		logs, _ := r.m.LogPath("default", "job", "app", false)
		if _, err := os.Stat(logs); err != nil {
			t.Errorf("log of an ended pod: %v", err)
		}
		r.set()
		r.settle()
		if _, err := os.Stat(filepath.Dir(filepath.Dir(logs))); err == nil || len(r.fake.State().Sandboxes) != 0 {
			t.Errorf("left: %s, %+v", logs, r.fake.State())
		}
		r.stop()
		if err := os.MkdirAll(r.volumes.PodDir("lost"), 0o700); err != nil {
			t.Fatal(err)
		}
		r.start()
		r.set()
		r.settle()
		if !r.volumes.called("teardown lost") {
			t.Error("the directory of a lost pod stays")
		}
	})
}

// Each problem of a manifest is on the log, once.
func TestProblemsAreLogged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		var mu sync.Mutex
		var lines []string
		r.tune = func(c *podlifecycle.Config) {
			c.Logger = funcr.New(func(_, args string) {
				mu.Lock()
				defer mu.Unlock()
				lines = append(lines, args)
			}, funcr.Options{})
		}
		r.start()
		set := source.Set{Pods: []*corev1.Pod{newPod("web")}, Problems: []manifest.Problem{{File: "bad.yaml", Document: 2, Kind: "Service",
			Namespace: "default", Name: "svc", Field: "spec.ports[0].port", Err: errors.New("must be positive")}}}
		r.m.Set(set)
		r.settle()
		set.Pods = append(set.Pods, newPod("more"))
		r.m.Set(set)
		r.settle()
		mu.Lock()
		defer mu.Unlock()
		found := 0
		for _, line := range lines {
			if strings.Contains(line, "bad.yaml") && strings.Contains(line, "svc") && strings.Contains(line, "spec.ports[0].port") {
				found++
			}
		}
		if found != 1 {
			t.Errorf("told %d times:\n%s", found, strings.Join(lines, "\n"))
		}
	})
}

// A sandbox that ends while a container is made costs no back-off.
func TestSandboxThatEndsMeanwhileCostsNoTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		r.fake.Inject(runtimetest.Fault{Op: runtimetest.OpCreateContainer, Times: 1, Err: runtimeiface.ErrNotRunning})
		r.start()
		r.set(newPod("web"))
		r.settle()
		r.wantRunning("app/0")
	})
}
