package podlifecycle_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/imagegc"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// smallNode is a rig whose images have room for ten.
func smallNode(t *testing.T, images ...runtimetest.FakeImage) *rig {
	t.Helper()
	r := newRig(t)
	for i := range images {
		images[i].Size = 10
	}
	fake, err := runtimetest.NewFake(runtimetest.FakeConfig{Images: images, ImageCapacity: 100})
	if err != nil {
		t.Fatal(err)
	}
	r.fake = fake
	return r
}

// images are the tags on the node.
func (r *rig) images() []string {
	list, err := r.fake.ListImages(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	var tags []string
	for _, image := range list {
		for _, tag := range image.Tags {
			tags = append(tags, tag[strings.LastIndex(tag, "/")+1:])
		}
	}
	slices.Sort(tags)
	return tags
}

func (r *rig) wantImages(want ...string) {
	r.t.Helper()
	if got := r.images(); !slices.Equal(got, want) {
		r.t.Errorf("images %v, want %v\n%v", got, want, r.m.Records())
	}
}

func present(refs ...string) []runtimetest.FakeImage {
	var list []runtimetest.FakeImage
	for _, ref := range refs {
		list = append(list, runtimetest.FakeImage{Ref: ref, Present: true})
	}
	return list
}

// From the high mark on images go until the low mark, never one that a container
// has, a pod wants or the runtime pins; each removal leaves a record.
func TestImageGarbage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		list := append(present("web:1", "wanted:1", "a:1", "b:1", "c:1", "d:1", "e:1", "f:1"),
			runtimetest.FakeImage{Ref: "pinned:1", Present: true, Pinned: true})
		r := smallNode(t, list...).start()
		waits := newPod("waits", func(p *corev1.Pod) {
			p.Spec.Containers[0].Image = "wanted:1"
			p.Spec.InitContainers = []corev1.Container{container("init", "nowhere:1")}
		})
		r.m.Set(source.Set{Pods: []*corev1.Pod{newPod("web"), waits}, Waiting: []string{"http"}})
		r.pass(6 * time.Minute)
		if n := len(r.images()); n != len(list) {
			t.Errorf("%d images are left while a source has not spoken", n)
		}
		if _, err := r.m.Reclaim(t.Context()); err == nil {
			t.Error("Reclaim removes while a source has not spoken")
		}
		r.set(newPod("web"), waits)
		r.pass(5 * time.Minute)
		if n := len(r.images()); n != 8 { // 90 % are full, 80 % is the goal
			t.Errorf("%d images are left, want 8: %v\n%v", n, r.images(), r.m.Records())
		}
		records := r.m.Records()
		last := records[len(records)-1]
		if last.Rule != podlifecycle.RuleImageGC || !strings.Contains(last.Reason, "90 %") || last.Result != "done" || last.Time.IsZero() {
			t.Errorf("record %+v", last)
		}
		r.pass(time.Hour)
		if n := len(r.images()); n != 8 {
			t.Errorf("%d images are left between the marks", n)
		}

		freed, err := r.m.Reclaim(t.Context())
		if err != nil || freed != 50 {
			t.Errorf("Reclaim freed %d, %v", freed, err)
		}
		r.wantImages("pinned:1", "wanted:1", "web:1")
	})
}

// An image that has just come stays for its time, one that nobody wants any more
// goes, and how long nobody has used one is seen.
func TestImageAges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := smallNode(t, append(present("old:1"), runtimetest.FakeImage{Ref: "new:1"})...)
		r.tune = func(c *podlifecycle.Config) { c.ImageGC = imagegc.Policy{MaxAge: time.Hour} }
		r.start()
		r.set()
		r.pass(time.Minute)
		if _, err := r.fake.PullImage(t.Context(), imageSpec("new:1"), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := r.m.Reclaim(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.wantImages("new:1")
		r.pass(2 * time.Minute)
		r.set(newPod("web", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "new:1" }))
		r.pass(2 * time.Hour)
		r.wantImages("new:1")
		r.set()
		r.pass(55 * time.Minute)
		r.wantImages("new:1")
		r.pass(15 * time.Minute)
		r.wantImages()
	})
}

// What cannot be removed stops neither the others nor the manager.
func TestImageGarbageFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := smallNode(t, present("a:1", "b:1")...)
		r.start()
		r.set()
		r.settle()
		r.fake.Inject(runtimetest.Fault{Op: runtimetest.OpRemoveImage, Err: errBroken, Times: 1})
		freed, err := r.m.Reclaim(t.Context())
		if err == nil || freed != 20 {
			t.Errorf("freed %d, %v: it is tried again once another is gone", freed, err)
		}
		r.wantImages()
		failed := slices.ContainsFunc(r.m.Records(), func(rec podlifecycle.Record) bool { return rec.Result == "failed" && rec.Error != "" })
		if !failed {
			t.Errorf("no record of the failure: %v", r.m.Records())
		}
	})
}

// errBroken is what a broken part says.
var errBroken = errors.New("disk on fire")

func imageSpec(ref string) runtimeiface.ImageSpec { return runtimeiface.ImageSpec{Ref: ref} }
