package podlifecycle_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

const secretRef = "reg.example/team/web:1"

// with gives a pod of a private image and its pull secrets.
func with(name string, policy corev1.PullPolicy, secrets ...string) *corev1.Pod {
	return newPod(name, func(p *corev1.Pod) {
		p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = secretRef, policy
		for _, s := range secrets {
			p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: s})
		}
	})
}

// wants are pods and their Secrets: "joe" and "copy" hold what opens the image.
func (r *rig) wants(pods ...*corev1.Pod) {
	r.m.Set(source.Set{Pods: pods, Secrets: []*corev1.Secret{pullSecret("joe", joes), pullSecret("copy", joes), pullSecret("other", others)}})
}

func (r *rig) waits(name, reason, text string) {
	r.t.Helper()
	waiting := status(r.pod(name), "app").State.Waiting
	if waiting == nil || waiting.Reason != reason || !strings.Contains(waiting.Message, text) {
		r.t.Errorf("%s: waiting %+v, want %s", name, waiting, reason)
	}
}

// What a pod has pulled with its secret is for those with the same, or what it
// holds; others ask the registry for themselves. A restart changes nothing.
func TestPullRights(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, private(secretRef)).start()
		first := with("first", corev1.PullIfNotPresent, "joe")
		r.wants(first)
		r.settle()
		r.ready("first", true)
		r.fake.ForgetCalls()
		pods := []*corev1.Pod{first, with("same", corev1.PullIfNotPresent, "joe"), with("copied", corev1.PullNever, "other", "copy")}
		r.wants(pods...)
		r.settle()
		for _, name := range []string{"same", "copied"} {
			r.ready(name, true)
		}
		if n := len(r.fake.Calls(runtimetest.OpPullImage)); n != 0 {
			t.Errorf("%d pulls: the registry need not answer", n)
		}
		pods = append(pods, with("none", corev1.PullIfNotPresent), with("wrong", corev1.PullIfNotPresent, "other"), with("never", corev1.PullNever))
		for range 2 {
			r.wants(pods...)
			r.settle()
			r.ready("first", true)
			r.waits("none", "ErrImagePull", "unauthorized")
			r.waits("wrong", "ErrImagePull", "unauthorized")
			r.waits("never", "ErrImageNeverPull", "present with pull policy of Never")
			r.kill()
			r.start()
		}
	})
}

// What the node pulled for itself, or somebody brought, is everybody's.
func TestPullRightsOfAll(t *testing.T) {
	for name, c := range map[string]struct {
		image runtimetest.FakeImage
		tune  func(*podlifecycle.Config)
	}{
		"anonymous": {runtimetest.FakeImage{Ref: secretRef}, nil},
		"file of the node": {private(secretRef), func(c *podlifecycle.Config) {
			c.AuthFiles = []string{filepath.Join(c.Root, "config.json")}
			_ = os.WriteFile(c.AuthFiles[0], []byte(`{"auths":`+joes+`}`), 0o600)
		}},
		"there before": {runtimetest.FakeImage{Ref: secretRef, Present: true, Auth: &joe}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, c.image)
				r.tune = c.tune
				r.start()
				r.wants(with("first", corev1.PullIfNotPresent))
				r.settle()
				r.ready("first", true)
				r.wants(with("first", corev1.PullIfNotPresent), with("never", corev1.PullNever))
				r.settle()
				r.ready("never", true)
			})
		})
	}
}

// An agent that is killed while it pulls does not take the image for one that
// somebody brought.
func TestPullRightsAfterKill(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, private(secretRef)).start()
		r.fake.Inject(runtimetest.Fault{Op: runtimetest.OpPullImage, AfterEffect: true, Hang: true, Times: 1})
		r.wants(with("first", corev1.PullIfNotPresent, "joe"))
		r.pass(time.Second)
		if len(r.images()) != 1 {
			t.Fatal("the image has not come")
		}
		r.kill()
		r.start()
		r.wants(with("none", corev1.PullIfNotPresent))
		r.settle()
		r.waits("none", "ErrImagePull", "unauthorized")
		r.wants(with("first", corev1.PullIfNotPresent, "joe"))
		r.pass(time.Minute)
		r.ready("first", true)
	})
}

// Once an image is gone, who pulled it is forgotten: the next one to bring it may be
// anybody.
func TestPullRightsForgotten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, private(secretRef)).start()
		r.wants(with("first", corev1.PullIfNotPresent, "joe"))
		r.settle()
		r.wants()
		r.pass(10 * time.Minute)
		if _, err := r.m.Reclaim(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.wantImages()
		r.pass(6 * time.Minute)
		if _, err := r.fake.PullImage(t.Context(), runtimeiface.ImageSpec{Ref: secretRef, Auth: &joe}, nil); err != nil {
			t.Fatal(err)
		}
		r.wants(with("none", corev1.PullNever))
		r.settle()
		r.ready("none", true)
	})
}
