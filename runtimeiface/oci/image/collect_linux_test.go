package image_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
	testclock "k8s.io/utils/clock/testing"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

const mib = 1 << 20

// diskRoot is a file system of its own.
func diskRoot(size int) string {
	root := newRoot()
	Expect(unix.Mount("tmpfs", root, "tmpfs", 0, fmt.Sprintf("size=%d", size))).To(Succeed())
	DeferCleanup(func() { Expect(unix.Unmount(root, unix.MNT_DETACH)).To(Succeed()) })
	return root
}

var _ = Describe("Collect", func() {
	var h *hub
	var root string
	var clock *testclock.FakePassiveClock
	var s *image.Store
	BeforeEach(func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root, kerneltest.Overlay)
		h = newHub()
		root = diskRoot(64 * mib)
		clock = testclock.NewFakePassiveClock(time.Now())
		s = open(image.Config{Root: root, Clock: clock})
	})
	later := func(d time.Duration) { clock.SetTime(clock.Now().Add(d)) }
	// pull brings an image of layers, an hour after the one before.
	pull := func(ctx context.Context, repo string, layers ...v1.Layer) image.Image {
		GinkgoHelper()
		later(time.Hour)
		img, err := s.Pull(ctx, h.push(repo, imageOf(layers...)), image.PullOptions{})
		Expect(err).NotTo(HaveOccurred())
		return img
	}
	collect := func(ctx context.Context, p image.CollectPolicy) image.Collection {
		GinkgoHelper()
		c, err := s.Collect(ctx, p)
		Expect(err).NotTo(HaveOccurred())
		return c
	}
	kept := func(c image.Collection) map[string]image.Kept {
		out := map[string]image.Kept{}
		for _, u := range c.Images {
			out[strings.TrimPrefix(u.Names[0], h.host+"/")] = u.Kept
		}
		return out
	}
	listed := func() []string {
		var list []string
		for _, img := range s.List() {
			list = append(list, strings.TrimPrefix(img.RepoTags[0], h.host+"/"))
		}
		return list
	}
	all := image.CollectPolicy{FreeBytes: math.MaxInt64, MinAge: time.Nanosecond}

	It("does nothing while less is used than the high threshold", func(ctx context.Context) {
		pull(ctx, "a:1", randomLayer(1, 10*mib))
		later(time.Hour)
		c := collect(ctx, image.CollectPolicy{HighPercent: 50, LowPercent: 1})
		Expect(c.Goal).To(BeZero())
		Expect(c.Freed).To(BeZero())
		Expect(kept(c)).To(Equal(map[string]image.Kept{"a:1": image.KeptUnneeded}))
		Expect(listed()).To(ConsistOf("a:1"))
	})

	It("removes the longest unused down to the low threshold", func(ctx context.Context) {
		for i, name := range []string{"c:1", "a:1", "d:1", "b:1"} {
			pull(ctx, name, randomLayer(int64(i), 10*mib))
		}
		_, err := s.Mount(ctx, "box", s.List()[0].ID, image.MountOptions{})
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Unmount("box")).To(Succeed())
		used := s.List()[0].RepoTags[0]
		later(time.Hour)
		before, err := s.Filesystem()
		Expect(err).NotTo(HaveOccurred())
		c := collect(ctx, image.CollectPolicy{HighPercent: 60, LowPercent: 40})
		Expect(c.Goal).To(BeNumerically("~", before.Size*60/100-before.Available, mib))
		after, err := s.Filesystem()
		Expect(err).NotTo(HaveOccurred())
		Expect(after.Available-before.Available).To(BeNumerically("~", c.Freed, mib), "what it says is so")
		Expect(c.Freed).To(BeNumerically(">=", c.Goal))
		Expect(100 - after.Available*100/after.Size).To(BeNumerically("<=", 40))
		gone := []string{}
		for _, u := range c.Images {
			if u.Kept == "" {
				gone = append(gone, u.Names[0])
				Expect(u.Frees).To(Equal(u.Exclusive))
			}
		}
		want := []string{}
		for _, name := range []string{"c:1", "a:1", "d:1", "b:1"} {
			if name = h.host + "/" + name; name != used && len(want) < 2 {
				want = append(want, name)
			}
		}
		Expect(gone).To(Equal(want))
		Expect(s.List()).To(HaveLen(2))
		Expect(names(root, "layers")).To(HaveLen(2))
		Expect(names(root, "used")).To(HaveLen(2))
		expectClean(root)
		c = collect(ctx, image.CollectPolicy{HighPercent: 60, LowPercent: 40})
		Expect(c.Goal).To(BeZero())
	})

	It("tells which image holds the disk and what would go when, and does nothing when dry", func(ctx context.Context) {
		base := randomLayer(9, 8*mib)
		one := pull(ctx, "one:1", base, randomLayer(1, 4*mib))
		two := pull(ctx, "two:1", base, randomLayer(2, 2*mib), base)
		pull(ctx, "pinned:1", randomLayer(3, mib))
		start := clock.Now()
		held := pull(ctx, "held:1", randomLayer(4, mib))
		_, err := s.Mount(ctx, "box-b", held.ID, image.MountOptions{})
		Expect(err).NotTo(HaveOccurred())
		_, err = s.Mount(ctx, "box-a", held.ID, image.MountOptions{ReadOnly: true})
		Expect(err).NotTo(HaveOccurred())
		young := pull(ctx, "young:1", randomLayer(5, mib))
		later(time.Minute)
		policy := image.CollectPolicy{FreeBytes: math.MaxInt64, MinAge: 30 * time.Minute, Keep: []string{h.host + "/pinned:1", h.host + "/unknown:1"}, DryRun: true}
		c := collect(ctx, policy)
		Expect(kept(c)).To(Equal(map[string]image.Kept{
			"one:1": "", "two:1": "", "pinned:1": image.KeptPinned, "held:1": image.KeptInUse, "young:1": image.KeptYoung,
		}))
		by := map[string]image.ImageUse{}
		for i, u := range c.Images {
			by[u.ID] = u
			Expect(i == 0 || !u.LastUsed.Before(c.Images[i-1].LastUsed)).To(BeTrue())
		}
		Expect(by[one.ID].Exclusive).To(BeNumerically("~", 4*mib, 64<<10))
		Expect(by[one.ID].Shared).To(BeNumerically("~", 8*mib, 64<<10))
		Expect(by[one.ID].Frees).To(Equal(by[one.ID].Exclusive))
		Expect(by[two.ID].Shared).To(Equal(by[one.ID].Shared), "a layer that comes twice counts once")
		Expect(by[two.ID].Frees).To(Equal(by[two.ID].Exclusive+by[two.ID].Shared), "the last to go takes the base with it")
		Expect(by[two.ID].LastUsed).To(BeTemporally("==", start.Add(-time.Hour)))
		Expect(by[two.ID].Collectable).To(BeTemporally("==", start.Add(-30*time.Minute)))
		Expect(by[held.ID].Containers).To(Equal([]string{"box-a", "box-b"}))
		Expect(by[held.ID].LastUsed).To(BeTemporally("==", clock.Now()))
		Expect(by[held.ID].Collectable).To(BeZero())
		Expect(by[young.ID].Collectable).To(BeTemporally("==", clock.Now().Add(29*time.Minute)))
		Expect(c.Freed).To(Equal(by[one.ID].Frees + by[two.ID].Frees))
		Expect(s.List()).To(HaveLen(5))
		Expect(names(root, "layers")).To(HaveLen(6))

		policy.DryRun = false
		done := collect(ctx, policy)
		Expect(done.Images).To(Equal(c.Images), "what was told is what is done")
		Expect(done.Freed).To(Equal(c.Freed))
		Expect(listed()).To(ConsistOf("pinned:1", "held:1", "young:1"))
		Expect(names(root, "layers")).To(HaveLen(3))
		Expect(filepath.Join(root, "containers/box-b/rootfs/file-4")).To(BeAnExistingFile())
	})

	It("keeps an image whose removal frees nothing", func(ctx context.Context) {
		base := randomLayer(9, mib)
		pull(ctx, "base:1", base)
		held := pull(ctx, "held:1", base, randomLayer(1, mib))
		_, err := s.Mount(ctx, "box", held.ID, image.MountOptions{})
		Expect(err).NotTo(HaveOccurred())
		later(time.Hour)
		Expect(kept(collect(ctx, all))).To(Equal(map[string]image.Kept{"base:1": image.KeptShared, "held:1": image.KeptInUse}))
		Expect(s.Unmount("box")).To(Succeed())
		later(time.Hour)
		Expect(kept(collect(ctx, all))).To(Equal(map[string]image.Kept{"base:1": "", "held:1": ""}))
		Expect(names(root, "layers")).To(BeEmpty())
	})

	It("keeps everything while a container's record is unreadable", func(ctx context.Context) {
		pull(ctx, "a:1", randomLayer(1, mib))
		Expect(s.Close()).To(Succeed())
		Expect(os.Mkdir(filepath.Join(root, "containers", "odd"), 0o700)).To(Succeed())
		s = open(image.Config{Root: root, Clock: clock})
		later(time.Hour)
		c := collect(ctx, all)
		Expect(c.Images[0].Containers).To(Equal([]string{"odd"}))
		Expect(listed()).To(ConsistOf("a:1"))
		Expect(s.Reap(func(string) bool { return false })).To(ConsistOf("odd"))
		collect(ctx, all)
		Expect(s.List()).To(BeEmpty())
	})

	It("knows the last use after a restart, from pulls, mounts and unmounts", func(ctx context.Context) {
		img := pull(ctx, "a:1", randomLayer(1, mib))
		lastUsed := func() time.Time {
			Expect(s.Close()).To(Succeed())
			s = open(image.Config{Root: root, Clock: clock})
			now := clock.Now()
			later(time.Hour)
			defer clock.SetTime(now)
			return collect(ctx, image.CollectPolicy{DryRun: true}).Images[0].LastUsed
		}
		Expect(lastUsed()).To(BeTemporally("==", clock.Now()))
		later(time.Hour)
		pulled := clock.Now()
		_, err := s.Pull(ctx, img.RepoTags[0], image.PullOptions{})
		Expect(err).NotTo(HaveOccurred())
		later(time.Hour)
		Expect(lastUsed()).To(BeTemporally("==", pulled))
		_, err = s.Mount(ctx, "box", img.ID, image.MountOptions{})
		Expect(err).NotTo(HaveOccurred())
		later(time.Hour)
		unmounted := clock.Now()
		Expect(s.Unmount("box")).To(Succeed())
		later(time.Hour)
		Expect(lastUsed()).To(BeTemporally("==", unmounted))
		clock.SetTime(unmounted.Add(-48 * time.Hour))
		c := collect(ctx, image.CollectPolicy{DryRun: true})
		Expect(c.Images[0].LastUsed).To(BeTemporally("==", clock.Now()), "a clock that was set back makes it young")
		Expect(os.WriteFile(filepath.Join(root, "used", "sha256-"+strings.Repeat("a", 64)), nil, 0o600)).To(Succeed())
		lastUsed()
		Expect(names(root, "used")).To(HaveLen(1))
	})

	It("removes what pulls left before any image, and nothing that a pull is at", func(ctx context.Context) {
		kept, half := randomLayer(1, mib), randomLayer(2, 4*mib)
		img := imageOf(kept, half)
		ref := h.push("half:1", img)
		h.onRequest(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.HasSuffix(r.URL.Path, "/blobs/"+digestOf(half)) {
				Eventually(func() []string { return names(root, "layers") }).Should(HaveLen(1))
				w = &breaking{ResponseWriter: w, left: 2 * mib}
			}
			next.ServeHTTP(w, r)
		})
		root = newRoot()
		s := open(image.Config{Root: root, Clock: clock, Attempts: 1})
		_, err := s.Pull(ctx, ref, image.PullOptions{})
		Expect(err).To(MatchError(image.ErrUnavailable))
		h.onRequest(nil)
		other := h.push("other:1", imageOf(randomLayer(3, mib)))
		_, err = s.Pull(ctx, other, image.PullOptions{})
		Expect(err).NotTo(HaveOccurred())

		// A second pull goes on with the download, and stands still in it.
		reached, release := make(chan struct{}), make(chan struct{})
		running := randomLayer(4, mib)
		runningRef := h.push("running:1", imageOf(running))
		h.onRequest(stalling("/blobs/"+digestOf(running), reached, release))
		result := make(chan error, 1)
		go func() { _, err := s.Pull(ctx, runningRef, image.PullOptions{}); result <- err }()
		<-reached
		Expect(names(root, "ingest")).To(HaveLen(2))

		clock.SetTime(time.Now().Add(time.Hour))
		policy := image.CollectPolicy{FreeBytes: mib, HighPercent: 100, DryRun: true}
		plan, err := s.Collect(ctx, policy)
		Expect(err).NotTo(HaveOccurred())
		Expect(plan.Leftovers).To(BeNumerically(">", 2*mib))
		policy.DryRun = false
		c, err := s.Collect(ctx, policy)
		Expect(err).NotTo(HaveOccurred())
		Expect(c.Freed).To(Equal(plan.Leftovers))
		Expect(c.Images).To(HaveLen(1))
		Expect(c.Images[0].Kept).To(Equal(image.KeptUnneeded))
		Expect(names(root, "ingest")).To(Equal([]string{strings.Replace(digestOf(running), ":", "-", 1)}))
		Expect(names(root, "layers")).To(HaveLen(1))
		close(release)
		Expect(<-result).NotTo(HaveOccurred())
		Expect(s.List()).To(HaveLen(2))
	})

	It("leaves the layers that a running pull needs, and does not count on them", func(ctx context.Context) {
		base, rest := randomLayer(1, 4*mib), randomLayer(2, mib)
		old := pull(ctx, "old:1", base, randomLayer(3, mib))
		ref := h.push("next:1", imageOf(base, rest))
		reached, release := make(chan struct{}), make(chan struct{})
		h.onRequest(stalling("/blobs/"+digestOf(rest), reached, release))
		result := make(chan error, 1)
		go func() { _, err := s.Pull(ctx, ref, image.PullOptions{}); result <- err }()
		<-reached
		later(time.Hour)
		c := collect(ctx, all)
		Expect(c.Images).To(HaveLen(1))
		Expect(c.Images[0].ID).To(Equal(old.ID))
		Expect(c.Images[0].Kept).To(BeEmpty())
		Expect(c.Images[0].Frees).To(BeNumerically("~", mib, 64<<10))
		Expect(c.Freed).To(Equal(c.Images[0].Frees))
		close(release)
		Expect(<-result).NotTo(HaveOccurred())
		Expect(h.blobGets(digestOf(base))).To(Equal(1))
		Expect(listed()).To(ConsistOf("next:1"))
	})

	It("gives what it did when it is cancelled, and the next call frees the rest", func(ctx context.Context) {
		pull(ctx, "a:1", randomLayer(1, mib), randomLayer(2, mib), randomLayer(3, mib))
		later(time.Hour)
		early := &endsAfter{Context: ctx, left: 3}
		c, err := s.Collect(early, all)
		Expect(err).To(MatchError(context.Canceled))
		Expect(c.Freed).To(And(BeNumerically(">", 0), BeNumerically("<", 3*mib)))
		Expect(s.List()).To(BeEmpty())
		Expect(names(root, "layers")).NotTo(BeEmpty())
		later(time.Hour)
		collect(ctx, all)
		Expect(names(root, "layers")).To(BeEmpty())
		over, cancel := context.WithCancel(ctx)
		cancel()
		_, err = s.Collect(over, all)
		Expect(err).To(MatchError(context.Canceled))
	})

	It("never takes an image from under a pull or a mount", func(ctx context.Context) {
		base := randomLayer(9, mib)
		refs := []string{h.push("a:1", imageOf(base, randomLayer(1, 1000))), h.push("b:1", imageOf(base, randomLayer(2, 1000)))}
		s := open(image.Config{})
		done := make(chan struct{})
		collected := 0
		var wg, collectors sync.WaitGroup
		collectors.Go(func() {
			defer GinkgoRecover()
			for {
				select {
				case <-done:
					return
				default:
					c, err := s.Collect(ctx, all)
					Expect(err).NotTo(HaveOccurred())
					for _, u := range c.Images {
						if u.Kept == "" {
							collected++
						}
					}
				}
			}
		})
		mounted := make([]int, 4)
		for i := range mounted {
			wg.Go(func() {
				defer GinkgoRecover()
				box := fmt.Sprint("box-", i)
				for range 40 {
					img, err := s.Pull(ctx, refs[i%2], image.PullOptions{})
					Expect(err).NotTo(HaveOccurred())
					rootfs, err := s.Mount(ctx, box, img.ID, image.MountOptions{})
					if errors.Is(err, image.ErrNotFound) {
						continue // collected in between
					}
					Expect(err).NotTo(HaveOccurred())
					info, err := os.Stat(filepath.Join(rootfs, "file-9"))
					Expect(err).NotTo(HaveOccurred())
					Expect(info.Size()).To(BeEquivalentTo(mib))
					Expect(filepath.Join(rootfs, fmt.Sprint("file-", i%2+1))).To(BeAnExistingFile())
					mounted[i]++
					Expect(s.Unmount(box)).To(Succeed())
				}
			})
		}
		wg.Wait()
		close(done)
		collectors.Wait()
		Expect(mounted).To(ContainElement(BeNumerically(">", 0)))
		Expect(collected).To(BeNumerically(">", 0))
		later(time.Hour)
		_, err := s.Collect(ctx, all)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Usage()).To(BeZero())
	})

	It("works on a disk without a byte left, as Remove does", func(ctx context.Context) {
		fill := func() {
			GinkgoHelper()
			f, err := os.OpenFile(filepath.Join(root, "filler"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
			Expect(err).NotTo(HaveOccurred())
			for size := mib; size > 0; size /= 2 {
				for err = nil; err == nil; {
					_, err = f.Write(make([]byte, size))
				}
				Expect(err).To(MatchError(unix.ENOSPC))
			}
			Expect(f.Close()).To(Succeed())
		}
		a := pull(ctx, "a:1", randomLayer(1, 4*mib))
		b := pull(ctx, "b:1", randomLayer(2, 4*mib))
		pull(ctx, "c:1", randomLayer(3, 4*mib))
		fill()
		Expect(s.Remove(a.ID)).To(Succeed())
		fill()
		later(time.Hour)
		c := collect(ctx, image.CollectPolicy{HighPercent: 99, LowPercent: 95})
		Expect(c.Filesystem.Available).To(BeZero())
		Expect(c.Images[0].ID).To(Equal(b.ID))
		Expect(c.Images[0].Kept).To(BeEmpty())
		Expect(c.Freed).To(BeNumerically(">=", c.Goal))
		Expect(names(root, "layers")).To(HaveLen(1))
		Expect(s.Close()).To(Succeed())
		s = open(image.Config{Root: root, Clock: clock})
		Expect(listed()).To(ConsistOf("c:1"))
	})

	It("reports all bad fields of its policy", func(ctx context.Context) {
		_, err := s.Collect(ctx, image.CollectPolicy{HighPercent: 101, LowPercent: -1, MinAge: -1, FreeBytes: -1, Keep: []string{"No Name"}})
		for _, field := range []string{"HighPercent", "LowPercent", "MinAge", "FreeBytes", "Keep[0]"} {
			Expect(err).To(MatchError(ContainSubstring(field)))
		}
		_, err = s.Collect(ctx, image.CollectPolicy{HighPercent: 50, LowPercent: 60})
		Expect(err).To(MatchError(ContainSubstring("LowPercent is not within 1 and HighPercent")))
	})
})

var _ = It("Filesystem reports what images take, and what the kernel says", func(ctx context.Context) {
	kerneltest.Require(GinkgoT(), kerneltest.Root)
	h := newHub()
	root := diskRoot(16 * mib)
	s := open(image.Config{Root: root})
	_, err := s.Pull(ctx, h.push("a:1", imageOf(randomLayer(1, 4*mib))), image.PullOptions{})
	Expect(err).NotTo(HaveOccurred())
	Expect(os.WriteFile(filepath.Join(root, "ingest", "sha256-x"), make([]byte, mib), 0o600)).To(Succeed())
	fs, err := s.Filesystem()
	Expect(err).NotTo(HaveOccurred())
	var st unix.Statfs_t
	Expect(unix.Statfs(root, &st)).To(Succeed())
	Expect(fs.Path).To(Equal(root))
	Expect(fs.Time).To(BeTemporally("~", time.Now(), time.Minute))
	Expect(fs.Size).To(BeEquivalentTo(16 * mib))
	Expect(fs.Available).To(Equal(int64(st.Bavail) * st.Bsize))
	Expect(fs.Inodes).To(BeEquivalentTo(st.Files))
	Expect(fs.InodesFree).To(BeEquivalentTo(st.Ffree))
	Expect(fs.Images.Bytes).To(BeNumerically("~", 5*mib, 64<<10))
	Expect(fs.Images.Inodes).To(BeEquivalentTo(3)) // the layer's root, its file, the download
})

// endsAfter is a context that ends when it was asked so often.
type endsAfter struct {
	context.Context
	left int
}

func (c *endsAfter) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}
