package podlifecycle_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/podlifecycle/volume"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

var joe = runtimeiface.Auth{Username: "joe", Password: "secret"}

// private is an image that only joe may pull.
func private(ref string) runtimetest.FakeImage { return runtimetest.FakeImage{Ref: ref, Auth: &joe} }

func pullSecret(name, auths string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":` + auths + `}`)}}
}

const (
	joes   = `{"*.example/team":{"auth":"am9lOnNlY3JldA=="}}`
	others = `{"reg.example":{"username":"other","password":"wrong"}}`
)

// plugins gives what it has for an image.
type plugins map[string][]runtimeiface.Auth

func (p plugins) Credentials(_ context.Context, image string) ([]runtimeiface.Auth, error) {
	return p[image], errBroken
}

// Wherever the right credential is from, and whatever else fits, the image comes;
// all that fit are tried.
func TestPullCredentials(t *testing.T) {
	const ref = "reg.example/team/web:1"
	for name, c := range map[string]struct {
		tune    func(*podlifecycle.Config)
		secrets []string // of the pod, in the set unless "missing"
		tries   int
		works   bool
	}{
		"none":                     {nil, nil, 1, false},
		"pull secret":              {nil, []string{"joe"}, 1, true},
		"secret of another":        {nil, []string{"other"}, 1, false},
		"two secrets":              {nil, []string{"other", "joe"}, 2, true},
		"secret that is not there": {nil, []string{"missing"}, 1, false},
		"one of two is not there":  {nil, []string{"missing", "joe"}, 1, true},
		"Auth comes first": {func(c *podlifecycle.Config) {
			c.Auth = func(*corev1.Pod, string) *runtimeiface.Auth { return &runtimeiface.Auth{Username: "x"} }
		}, []string{"joe"}, 2, true},
		"plug-in": {func(c *podlifecycle.Config) { c.Credentials = plugins{ref: {{Username: "x"}, joe}} }, nil, 2, true},
		"file": {func(c *podlifecycle.Config) {
			c.AuthFiles = []string{filepath.Join(c.Root, "config.json")}
			_ = os.WriteFile(c.AuthFiles[0], []byte(`{"auths":`+joes+`}`), 0o600)
		}, []string{"other"}, 2, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, private(ref))
				r.tune = c.tune
				r.start()
				r.m.Set(source.Set{Secrets: []*corev1.Secret{pullSecret("joe", joes), pullSecret("other", others)},
					Pods: []*corev1.Pod{newPod("web", func(p *corev1.Pod) {
						p.Spec.Containers[0].Image = ref
						for _, name := range c.secrets {
							p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
						}
					})}})
				r.settle()
				if n := len(r.fake.Calls(runtimetest.OpPullImage)); n != c.tries {
					t.Errorf("%d pulls, want %d", n, c.tries)
				}
				if c.works {
					r.ready("web", true)
					return
				}
				waiting := status(r.pod("web"), "app").State.Waiting
				if waiting == nil || waiting.Reason != "ErrImagePull" || !strings.Contains(waiting.Message, "unauthorized") {
					t.Fatalf("waiting %+v", waiting)
				}
				if slices.Contains(c.secrets, "missing") && !strings.Contains(waiting.Message, "spec.imagePullSecrets[0].name: secret default/missing") {
					t.Errorf("message %q", waiting.Message)
				}
				if strings.Contains(r.why("web"), "secret\"") || strings.Contains(r.why("web"), "wrong") {
					t.Error("a credential is told")
				}
			})
		})
	}
}

// The back-off of pulls is 10, 20, 40, 80, 160 and then 300 s, and the error is
// shown before the back-off.
func TestPullBackOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, private("reg.example/web:1")).start()
		r.set(newPod("web", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "reg.example/web:1" }))
		r.settle()
		last := time.Now()
		for i, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
			if reason := status(r.pod("web"), "app").State.Waiting.Reason; reason != "ErrImagePull" {
				t.Errorf("reason %s right after the failure", reason)
			}
			r.pass(want*time.Second - time.Millisecond)
			if n := len(r.fake.Calls(runtimetest.OpPullImage)); n != i+1 {
				t.Fatalf("%d pulls %v after the last", n, time.Since(last))
			}
			waiting := status(r.pod("web"), "app").State.Waiting
			if waiting.Reason != "ImagePullBackOff" || !strings.HasPrefix(waiting.Message, `Back-off pulling image "reg.example/web:1": `) {
				t.Errorf("waiting %+v", waiting)
			}
			r.pass(time.Millisecond)
			if n := len(r.fake.Calls(runtimetest.OpPullImage)); n != i+2 {
				t.Fatalf("%d pulls after %d s", n, want)
			}
			last = time.Now()
		}
	})
}

// Never waits for somebody else to bring the image, and sees it soon.
func TestPullNever(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, runtimetest.FakeImage{Ref: "late:1"}).start()
		r.set(newPod("web", func(p *corev1.Pod) {
			p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = "late:1", corev1.PullNever
		}))
		r.pass(10 * time.Minute)
		waiting := status(r.pod("web"), "app").State.Waiting
		if waiting.Reason != "ErrImageNeverPull" || !strings.Contains(waiting.Message, `Container image "late:1" is not present with pull policy of Never`) {
			t.Errorf("waiting %+v", waiting)
		}
		if n := len(r.fake.Calls(runtimetest.OpPullImage)); n != 0 {
			t.Errorf("%d pulls", n)
		}
		if _, err := r.fake.PullImage(t.Context(), imageSpec("late:1"), nil); err != nil {
			t.Fatal(err)
		}
		r.pass(10 * time.Second)
		r.ready("web", true)
	})
}

// Always asks the registry for each attempt, IfNotPresent never of an image that is there.
func TestPullPolicies(t *testing.T) {
	for policy, want := range map[corev1.PullPolicy]int{corev1.PullAlways: 3, corev1.PullIfNotPresent: 1} {
		bubble(t, func(t *testing.T) {
			r := newRig(t, runtimetest.FakeImage{Ref: "web:1"}).start()
			r.set(newPod("web", func(p *corev1.Pod) { p.Spec.Containers[0].ImagePullPolicy = policy }))
			r.settle()
			for range 2 {
				if err := r.fake.Exit(r.container("app").ID, 1); err != nil {
					t.Fatal(err)
				}
				r.pass(time.Minute)
			}
			if n := len(r.fake.Calls(runtimetest.OpPullImage)); n != want {
				t.Errorf("%s: %d pulls, want %d", policy, n, want)
			}
		})
	}
}

// imageVolumes are the fake volumes with those mounts that package volume gives.
type imageVolumes struct {
	*fakeVolumes
	real *volume.Manager
}

func (v imageVolumes) Mounts(ctx context.Context, pod *corev1.Pod, c *corev1.Container, environ []string) ([]specs.Mount, error) {
	return v.real.Mounts(ctx, pod, c, environ)
}

func withImageVolume(policy corev1.PullPolicy) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "data:1", PullPolicy: policy}}}}
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "PART", Value: "etc"}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"},
			{Name: "data", MountPath: "/part", SubPathExpr: "$(PART)/x"}}
		p.Spec.Containers = append(p.Spec.Containers, container("plain", "web:1"))
	}
}

// seenSpecs is a runtime that keeps what containers were made from.
type seenSpecs struct {
	*runtimetest.Fake
	mu   sync.Mutex
	list []runtimeiface.ContainerSpec
}

func (s *seenSpecs) CreateContainer(ctx context.Context, sandbox string, spec runtimeiface.ContainerSpec) (string, error) {
	s.mu.Lock()
	s.list = append(s.list, spec)
	s.mu.Unlock()
	return s.Fake.CreateContainer(ctx, sandbox, spec)
}

func (s *seenSpecs) mounts(container string) []specs.Mount {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []specs.Mount
	for _, spec := range s.list {
		if spec.Name == container {
			list = append(list, spec.Mounts...)
		}
	}
	return list
}

func imageRig(t *testing.T, images ...runtimetest.FakeImage) (*rig, *seenSpecs) {
	r := newRig(t, append(images, runtimetest.FakeImage{Ref: "web:1", Present: true})...)
	real, err := volume.New(volume.Config{Root: r.root})
	if err != nil {
		t.Fatal(err)
	}
	seen := &seenSpecs{Fake: r.fake}
	r.tune = func(c *podlifecycle.Config) { c.Volumes, c.Runtime = imageVolumes{r.volumes, real}, seen }
	return r.start(), seen
}

// An image volume is pulled before its container starts, and mounted by its ID.
func TestImageVolume(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, specs := imageRig(t, runtimetest.FakeImage{Ref: "data:1"})
		r.set(newPod("web", withImageVolume(corev1.PullIfNotPresent)))
		r.settle()
		r.ready("web", true)
		data, err := r.fake.ImageStatus(t.Context(), "data:1")
		if err != nil {
			t.Fatal(err)
		}
		var mounts []string
		for _, m := range specs.mounts("app") {
			if m.Type == "image" {
				mounts = append(mounts, fmt.Sprintf("%v %s %v", m.Source == data.ID, m.Destination, m.Options))
			}
		}
		if want := []string{"true /data [ro]", "true /part [ro subpath=etc/x]"}; !slices.Equal(mounts, want) {
			t.Errorf("mounts %q", mounts)
		}
		if freed, err := r.m.Reclaim(t.Context()); freed != 0 || err != nil {
			t.Errorf("%d bytes of images in use are freed, %v", freed, err)
		}
	})
}

// While an image volume cannot be had, its container waits with the reasons of a
// pull, and the others run.
func TestImageVolumeWaits(t *testing.T) {
	for name, c := range map[string]struct {
		policy        corev1.PullPolicy
		ref, at, then string
	}{
		"no such image": {corev1.PullIfNotPresent, "data:1", "ErrImagePull", "ImagePullBackOff"},
		"never":         {corev1.PullNever, "data:1", "ErrImageNeverPull", "ErrImageNeverPull"},
		"bad name":      {corev1.PullAlways, "Data:1", "InvalidImageName", "InvalidImageName"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, _ := imageRig(t)
				pod := newPod("web", withImageVolume(c.policy))
				pod.Spec.Volumes[0].Image.Reference = c.ref
				r.set(pod)
				r.settle()
				r.wantRunning("plain/0")
				waiting := status(r.pod("web"), "app").State.Waiting
				if waiting == nil || waiting.Reason != c.at || !strings.Contains(waiting.Message, "spec.volumes[0].image.reference of pod default/web") {
					t.Errorf("waiting %+v", waiting)
				}
				r.pass(9 * time.Second)
				waiting = status(r.pod("web"), "app").State.Waiting
				if waiting.Reason != c.then || c.then == "ImagePullBackOff" && !strings.HasPrefix(waiting.Message, `Back-off pulling image "data:1"`) {
					t.Errorf("waiting %+v", waiting)
				}
				if c.policy == corev1.PullIfNotPresent {
					if err := r.fake.AddImage(runtimetest.FakeImage{Ref: "data:1"}); err != nil {
						t.Fatal(err)
					}
					r.pass(time.Second)
					r.ready("web", true)
				}
			})
		})
	}
}

// An image that a dead container has as a volume only stays too: the runtime says so,
// and that is no failure.
func TestImageVolumeOfDeadContainer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _ := imageRig(t, runtimetest.FakeImage{Ref: "data:1"})
		r.set(newPod("web", withImageVolume(corev1.PullIfNotPresent), func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
		r.settle()
		for _, name := range []string{"app", "plain"} {
			if err := r.fake.Exit(r.container(name).ID, 0); err != nil {
				t.Fatal(err)
			}
		}
		r.pass(5 * time.Minute)
		r.phase("web", corev1.PodSucceeded)
		if freed, err := r.m.Reclaim(t.Context()); freed != 0 || err != nil {
			t.Errorf("freed %d, %v", freed, err)
		}
		if !slices.ContainsFunc(r.m.Records(), func(rec podlifecycle.Record) bool { return rec.Result == "kept: it is in use" && rec.Error == "" }) {
			t.Errorf("records %v", r.m.Records())
		}
		r.set()
		r.pass(time.Minute)
		if _, err := r.m.Reclaim(t.Context()); err != nil {
			t.Error(err)
		}
		r.wantImages()
	})
}
