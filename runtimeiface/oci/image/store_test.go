package image_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"go.uber.org/goleak"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

var _ = Describe("Store", func() {
	var h *hub
	var root string
	var s *image.Store
	BeforeEach(func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root)
		h = newHub()
		root = newRoot()
		s = open(image.Config{Root: root})
	})
	pull := func(ctx context.Context, ref string) image.Image {
		GinkgoHelper()
		got, err := s.Pull(ctx, ref, image.PullOptions{})
		Expect(err).NotTo(HaveOccurred())
		return got
	}

	It("reports all bad fields of its Config", func() {
		_, err := image.Open(image.Config{Root: "here", MaxParallel: -1, MaxLayerBytes: -1})
		for _, field := range []string{"Root", "MaxParallel", "MaxLayerBytes"} {
			Expect(err).To(MatchError(ContainSubstring(field)))
		}
	})

	It("is one process's at a time", func() {
		_, err := image.Open(image.Config{Root: root})
		Expect(err).To(MatchError(image.ErrLocked))
		Expect(s.Close()).To(Succeed())
		Expect(s.Close()).To(Succeed())
		next := open(image.Config{Root: root})
		_, err = s.Pull(context.Background(), h.push("web:1", imageOf(lay(file("a", "")))), image.PullOptions{})
		Expect(err).To(MatchError(ContainSubstring("image store is closed")))
		Expect(next.List()).To(BeEmpty())
	})

	It("keeps images when it is opened again", func(ctx context.Context) {
		ref := h.push("web:1", imageOf(lay(file("a", "1")), lay(file("b", "2"))))
		want := pull(ctx, ref)
		Expect(s.Close()).To(Succeed())
		next := open(image.Config{Root: root})
		Expect(next.Get(ref)).To(Equal(want))
		Expect(next.List()).To(Equal([]image.Image{want}))
	})

	It("hands out copies", func(ctx context.Context) {
		ref := h.push("web:1", imageOf(lay(file("a", "1"))))
		got := pull(ctx, ref)
		got.Config.Env[0], got.Config.Labels["k"], got.RepoTags[0] = "changed", "changed", "changed"
		found, err := s.Get(ref)
		Expect(err).NotTo(HaveOccurred())
		Expect(found.Config.Env[0]).To(Equal("A=b"))
		Expect(found.Config.Labels["k"]).To(Equal("v"))
		Expect(found.RepoTags[0]).To(Equal(ref))
	})

	It("moves a tag from one image to the next", func(ctx context.Context) {
		old := pull(ctx, h.push("web:1", imageOf(lay(file("a", "1")))))
		ref := h.push("web:1", imageOf(lay(file("a", "2"))))
		fresh := pull(ctx, ref)
		Expect(s.Get(ref)).To(Equal(fresh))
		left, err := s.Get(old.ID)
		Expect(err).NotTo(HaveOccurred())
		Expect(left.RepoTags).To(BeEmpty())
		Expect(left.RepoDigests).To(Equal(old.RepoDigests))
	})

	It("removes layers that no other image has", func(ctx context.Context) {
		shared := randomLayer(1, 1<<20)
		one := pull(ctx, h.push("one:1", imageOf(shared, lay(file("x", "1")))))
		two := pull(ctx, h.push("two:1", imageOf(shared, lay(file("y", "2")))))
		Expect(names(root, "layers")).To(HaveLen(3))
		Expect(s.Usage().Bytes).To(BeNumerically("<", one.Size+two.Size-1<<20+1))
		Expect(s.Remove(one.ID)).To(Succeed())
		Expect(names(root, "layers")).To(HaveLen(2))
		Expect(s.Usage().Bytes).To(Equal(two.Size))
		_, err := s.Get(one.ID)
		Expect(err).To(MatchError(image.ErrNotFound))
		Expect(s.Remove(one.ID)).To(Succeed(), "unknown is no error")
		Expect(s.Remove(two.RepoTags[0])).To(Succeed())
		Expect(names(root, "layers")).To(BeEmpty())
		Expect(s.Usage()).To(BeZero())
		Expect(s.Remove("No Name")).To(MatchError(image.ErrInvalidName))
		expectClean(root)
	})

	It("removes one name of several", func(ctx context.Context) {
		img := imageOf(lay(file("a", "1")))
		one, two := h.push("web:1", img), h.push("web:2", img)
		pull(ctx, one)
		Expect(pull(ctx, two).RepoTags).To(Equal([]string{one, two}))
		Expect(s.Remove(one)).To(Succeed())
		left, err := s.Get(two)
		Expect(err).NotTo(HaveOccurred())
		Expect(left.RepoTags).To(Equal([]string{two}))
		Expect(left.RepoDigests).To(HaveLen(1))
		Expect(s.Remove(two)).To(Succeed())
		Expect(s.List()).To(BeEmpty())
	})

	It("does not remove the image of a container", func(ctx context.Context) {
		kerneltest.Require(GinkgoT(), kerneltest.Overlay)
		ref := h.push("web:1", imageOf(lay(file("a", "1"))))
		img := pull(ctx, ref)
		_, err := s.Mount(ctx, "box", img.ID, image.MountOptions{})
		Expect(err).NotTo(HaveOccurred())
		for _, name := range []string{ref, img.ID} {
			err := s.Remove(name)
			Expect(err).To(MatchError(image.ErrInUse))
			Expect(err).To(MatchError(ContainSubstring("by container box")))
		}
		Expect(s.Get(ref)).To(Equal(img))
		Expect(s.Unmount("box")).To(Succeed())
		Expect(s.Remove(ref)).To(Succeed())
	})

	It("sets a damaged index aside and goes on", func(ctx context.Context) {
		ref := h.push("web:1", imageOf(lay(file("a", "1"))))
		pull(ctx, ref)
		Expect(s.Close()).To(Succeed())
		index := filepath.Join(root, "images.json")
		Expect(os.WriteFile(index, []byte(`{"images":[{"id":`), 0o600)).To(Succeed())
		s = open(image.Config{Root: root})
		Expect(s.List()).To(BeEmpty())
		Expect(index + ".damaged").To(BeAnExistingFile())
		pull(ctx, ref)
	})

	It("forgets an image whose layer is gone or damaged", func(ctx context.Context) {
		ref := h.push("web:1", imageOf(lay(file("a", "1"))))
		img := pull(ctx, ref)
		Expect(s.Close()).To(Succeed())
		dir := filepath.Join(root, "layers", strings.Replace(img.Layers[0], ":", "-", 1))
		Expect(os.Remove(filepath.Join(dir, "layer.json"))).To(Succeed())
		s = open(image.Config{Root: root})
		Expect(s.List()).To(BeEmpty())
		Expect(dir).NotTo(BeADirectory())
		pull(ctx, ref)
	})

	It("keeps fresh leftovers for the next pull, and clears old ones", func() {
		Expect(s.Close()).To(Succeed())
		old := time.Now().Add(-2 * time.Hour)
		for _, name := range []string{"ingest/old", "ingest/new", "tmp/x"} {
			Expect(os.WriteFile(filepath.Join(root, name), nil, 0o600)).To(Succeed())
		}
		Expect(os.Chtimes(filepath.Join(root, "ingest/old"), old, old)).To(Succeed())
		layerDir := filepath.Join(root, "layers", "sha256-"+strings.Repeat("a", 64))
		Expect(os.MkdirAll(filepath.Join(layerDir, "fs"), 0o700)).To(Succeed())
		meta := filepath.Join(layerDir, "layer.json")
		Expect(os.WriteFile(meta, []byte(`{"diffID":"sha256:`+strings.Repeat("a", 64)+`"}`), 0o600)).To(Succeed())
		s = open(image.Config{Root: root})
		Expect(names(root, "ingest")).To(Equal([]string{"new"}))
		Expect(names(root, "tmp")).To(BeEmpty())
		Expect(layerDir).To(BeADirectory())
		Expect(s.Close()).To(Succeed())
		Expect(os.Chtimes(meta, old, old)).To(Succeed())
		open(image.Config{Root: root})
		Expect(layerDir).NotTo(BeADirectory())
	})

	It("ends pulls under way when it is closed, and leaks no goroutine", func(ctx context.Context) {
		before := goleak.IgnoreCurrent()
		own := open(image.Config{})
		layer := randomLayer(1, 1<<20)
		ref := h.push("slow:1", imageOf(layer))
		reached, release := make(chan struct{}, 1), make(chan struct{})
		h.onRequest(stalling("/blobs/"+digestOf(layer), reached, release))
		result := make(chan error, 1)
		go func() { _, err := own.Pull(ctx, ref, image.PullOptions{}); result <- err }()
		<-reached
		Expect(own.Close()).To(Succeed())
		Expect(<-result).To(MatchError(context.Canceled))
		close(release)
		h.close()
		Eventually(func() error { return goleak.Find(before) }).Should(Succeed())
	})
})
