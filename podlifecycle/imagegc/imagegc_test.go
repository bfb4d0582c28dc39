package imagegc_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/podlifecycle/imagegc"
	"github.com/nodekit/nodekit/runtimeiface"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func img(id string, edits ...func(*runtimeiface.Image)) runtimeiface.Image {
	i := runtimeiface.Image{ID: id, Tags: []string{"example/" + id + ":1"}, Size: 100}
	for _, edit := range edits {
		edit(&i)
	}
	return i
}

func removed(p imagegc.Plan) []string {
	var ids []string
	for _, v := range p.Verdicts {
		if v.Remove {
			ids = append(ids, v.Image.ID)
		}
	}
	return ids
}

func ago(d time.Duration) imagegc.Use { return imagegc.Use{LastUsed: now.Add(-d)} }

func TestDecide(t *testing.T) {
	pinned := func(i *runtimeiface.Image) { i.Pinned = true }
	uses := map[string]imagegc.Use{
		"a": ago(3 * time.Hour), "b": ago(2 * time.Hour), "c": ago(time.Hour), "old": {}, "held": ago(0),
		"young": {FirstSeen: now.Add(-time.Minute)}, "grown": {FirstSeen: now.Add(-2 * time.Minute)},
	}
	room := func(percentUsed int64) runtimeiface.Filesystem {
		return runtimeiface.Filesystem{CapacityBytes: 1000, AvailableBytes: 1000 - percentUsed*10}
	}
	for _, c := range []struct {
		name   string
		policy imagegc.Policy
		node   imagegc.Node
		want   []string
		goal   int64
	}{
		{"below the high mark nothing goes", imagegc.Policy{},
			imagegc.Node{Images: []runtimeiface.Image{img("a"), img("b")}, Filesystem: room(84)}, nil, 0},
		{"at the high mark the longest unused go, down to the low mark", imagegc.Policy{},
			imagegc.Node{Images: []runtimeiface.Image{img("c"), img("b"), img("a")}, Filesystem: room(91)}, []string{"a", "b"}, 110},
		{"one that was never used goes first", imagegc.Policy{},
			imagegc.Node{Images: []runtimeiface.Image{img("a"), img("old")}, Filesystem: room(85)}, []string{"old"}, 50},
		{"between the marks it goes on only once begun", imagegc.Policy{},
			imagegc.Node{Images: []runtimeiface.Image{img("a"), img("b")}, Filesystem: room(82), Begun: true}, []string{"a"}, 20},
		{"the marks are the caller's", imagegc.Policy{HighPercent: 50, LowPercent: 30},
			imagegc.Node{Images: []runtimeiface.Image{img("a"), img("b"), img("c")}, Filesystem: room(50)}, []string{"a", "b"}, 200},
		{"a high mark below the default low mark is both", imagegc.Policy{HighPercent: 40},
			imagegc.Node{Images: []runtimeiface.Image{img("a"), img("b"), img("c")}, Filesystem: room(45)}, []string{"a"}, 50},
		{"100 never removes for room", imagegc.Policy{HighPercent: 100},
			imagegc.Node{Images: []runtimeiface.Image{img("a")}, Filesystem: room(100)}, nil, 0},
		{"one in use, one pinned and one too young stay, whatever the need", imagegc.Policy{},
			imagegc.Node{Images: []runtimeiface.Image{img("held"), img("a", pinned), img("young"), img("grown")}, Filesystem: room(100), All: true,
				Holders: map[string]string{"held": "container x"}}, []string{"grown"}, 200},
		{"without a capacity nothing goes for room", imagegc.Policy{},
			imagegc.Node{Images: []runtimeiface.Image{img("a")}}, nil, 0},
		{"all goes when it is asked for", imagegc.Policy{HighPercent: 100},
			imagegc.Node{Images: []runtimeiface.Image{img("b"), img("a")}, All: true}, []string{"a", "b"}, 0},
		{"age alone removes", imagegc.Policy{MaxAge: 90 * time.Minute},
			imagegc.Node{Images: []runtimeiface.Image{img("a"), img("b"), img("c")}, Filesystem: room(10)}, []string{"a", "b"}, 0},
		{"age counts from when it is watched", imagegc.Policy{MaxAge: 90 * time.Minute},
			imagegc.Node{Images: []runtimeiface.Image{img("a"), img("old")}, Filesystem: room(10), Since: now.Add(-time.Hour)}, nil, 0},
		{"no age is for ever", imagegc.Policy{},
			imagegc.Node{Images: []runtimeiface.Image{img("old")}, Filesystem: room(10)}, nil, 0},
		{"more room than capacity is no need", imagegc.Policy{},
			imagegc.Node{Images: []runtimeiface.Image{img("a")}, Filesystem: runtimeiface.Filesystem{CapacityBytes: 10, AvailableBytes: 20}}, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := NewWithT(t)
			policy, err := c.policy.Complete()
			g.Expect(err).NotTo(HaveOccurred())
			c.node.Uses, c.node.Now = uses, now
			before := fmt.Sprint(c.node)
			plan := imagegc.Decide(policy, c.node)
			g.Expect(removed(plan)).To(Equal(c.want))
			g.Expect(plan.Goal).To(Equal(c.goal))
			g.Expect(plan.Verdicts).To(HaveLen(len(c.node.Images)))
			for _, v := range plan.Verdicts {
				g.Expect(v.Reason).NotTo(BeEmpty())
			}
			g.Expect(fmt.Sprint(c.node)).To(Equal(before), "the argument is not changed")
		})
	}
}

// FuzzDecide: whatever is on the node, what is held, pinned or young stays, and
// each image is judged once.
func FuzzDecide(f *testing.F) {
	f.Add(int64(1000), int64(10), 3, uint8(0b1010), int64(60))
	f.Fuzz(func(t *testing.T, capacity, available int64, count int, bits uint8, age int64) {
		node := imagegc.Node{Filesystem: runtimeiface.Filesystem{CapacityBytes: capacity % (1 << 50), AvailableBytes: available % (1 << 50)},
			Holders: map[string]string{}, Uses: map[string]imagegc.Use{}, Now: now, All: bits&1 != 0, Begun: bits&2 != 0}
		for i := range min(max(count, 0), 20) {
			id := fmt.Sprint(i)
			node.Images = append(node.Images, img(id, func(image *runtimeiface.Image) { image.Pinned = i%5 == 0 }))
			if bits>>(i%8)&1 != 0 {
				node.Holders[id] = "a container"
			}
			node.Uses[id] = imagegc.Use{FirstSeen: now.Add(-time.Duration(age%1000) * time.Second * time.Duration(i))}
		}
		policy, err := imagegc.Policy{MaxAge: time.Hour}.Complete()
		if err != nil {
			t.Fatal(err)
		}
		plan := imagegc.Decide(policy, node)
		var seen []string
		for _, v := range plan.Verdicts {
			seen = append(seen, v.Image.ID)
			young := now.Sub(node.Uses[v.Image.ID].FirstSeen) < policy.MinAge
			if v.Remove && (v.Image.Pinned || node.Holders[v.Image.ID] != "" || young) {
				t.Errorf("%s is removed: %s", v.Image.ID, v.Reason)
			}
		}
		slices.Sort(seen)
		if len(slices.Compact(seen)) != len(node.Images) {
			t.Errorf("%d verdicts for %d images", len(seen), len(node.Images))
		}
	})
}

func TestPolicy(t *testing.T) {
	g := NewWithT(t)
	_, err := imagegc.Policy{HighPercent: 101, LowPercent: 102, MinAge: -1, MaxAge: -1}.Complete()
	for _, field := range []string{"HighPercent", "LowPercent", "MinAge", "MaxAge"} {
		g.Expect(err).To(MatchError(ContainSubstring(field)))
	}
	_, err = imagegc.Policy{MinAge: time.Hour, MaxAge: time.Minute}.Complete()
	g.Expect(err).To(MatchError(ContainSubstring("MaxAge")))
}

func ExampleDecide() {
	policy, _ := imagegc.Policy{}.Complete()
	plan := imagegc.Decide(policy, imagegc.Node{
		Images:     []runtimeiface.Image{{ID: "sha256:1", Size: 60}, {ID: "sha256:2", Size: 60}},
		Filesystem: runtimeiface.Filesystem{CapacityBytes: 1000, AvailableBytes: 150},
		Holders:    map[string]string{"sha256:1": "container web of pod default/shop"},
		Now:        time.Now(),
	})
	for _, v := range plan.Verdicts {
		fmt.Println(v.Image.ID, v.Remove, v.Reason)
	}
	// Output:
	// sha256:1 false in use by container web of pod default/shop
	// sha256:2 true nobody uses it, and of the file system of images 85 % are used, 50 bytes more than 80 %
}
