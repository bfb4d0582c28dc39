package image_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

var _ = Describe("A manifest", func() {
	var h *hub
	var root string
	var s *image.Store
	BeforeEach(func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root)
		h = newHub()
		root = newRoot()
		s = open(image.Config{Root: root, Attempts: 2})
	})
	// fails pulls ref and wants nothing to come of it.
	fails := func(ctx context.Context, ref string, kind error, text string) {
		GinkgoHelper()
		_, err := s.Pull(ctx, ref, image.PullOptions{})
		Expect(err).To(MatchError(kind))
		Expect(err).To(MatchError(ContainSubstring(text)))
		Expect(s.List()).To(BeEmpty())
		Expect(names(root, "layers")).To(BeEmpty())
		expectClean(root)
	}
	// answer serves a document as the manifest web:1.
	answer := func(mediaType, doc string) string {
		h.onRequest(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.HasSuffix(r.URL.Path, "/manifests/1") {
				w.Header().Set("Content-Type", mediaType)
				_, _ = w.Write([]byte(doc))
				return
			}
			next.ServeHTTP(w, r)
		})
		return h.host + "/web:1"
	}
	// manifest gives the document of an image that is pushed, changed by edit.
	manifest := func(img v1.Image, edit func(*v1.Manifest)) string {
		h.push("web:0", img)
		m, err := img.Manifest()
		Expect(err).NotTo(HaveOccurred())
		m = m.DeepCopy()
		edit(m)
		data, err := json.Marshal(m)
		Expect(err).NotTo(HaveOccurred())
		return string(data)
	}

	It("of schema 1 is not supported, and says what to do", func(ctx context.Context) {
		for mediaType, doc := range map[string]string{
			"application/vnd.docker.distribution.manifest.v1+prettyjws": `{"schemaVersion":1,"name":"web","fsLayers":[]}`,
			"application/vnd.docker.distribution.manifest.v1+json":      `{}`,
			"application/json": `{"schemaVersion":1,"fsLayers":[{"blobSum":"sha256:x"}]}`,
		} {
			fails(ctx, answer(mediaType, doc), image.ErrNotSupported, "Docker schema 1, which no registry should serve any more: push the image anew")
		}
	})
	It("of an unknown type is not supported, by name", func(ctx context.Context) {
		fails(ctx, answer("application/vnd.example.thing+json", `{"schemaVersion":2}`), image.ErrNotSupported, `of type "application/vnd.example.thing+json"`)
		fails(ctx, answer(string(types.OCIManifestSchema1), `{"schemaVersion":2,"mediaType":"application/vnd.example.thing+json"}`),
			image.ErrNotSupported, `of type "application/vnd.example.thing+json"`)
		fails(ctx, answer("text/html", `<html>`), image.ErrCorrupt, "no JSON")
	})
	It("without a type is told by its contents", func(ctx context.Context) {
		doc := manifest(imageOf(lay(file("a", ""))), func(m *v1.Manifest) { m.MediaType = "" })
		_, err := s.Pull(ctx, answer("application/json", doc), image.PullOptions{})
		Expect(err).NotTo(HaveOccurred())
	})
	It("that could be an image and an index is neither", func(ctx context.Context) {
		for _, kind := range []types.MediaType{types.OCIManifestSchema1, types.OCIImageIndex, ""} {
			doc := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"%s","config":{},"layers":[],"manifests":[]}`, kind)
			fails(ctx, answer(string(types.OCIImageIndex), doc), image.ErrCorrupt, "both an image and an index")
		}
	})
	It("of something that is no container image is not supported, by name", func(ctx context.Context) {
		const chart = "application/vnd.cncf.helm.config.v1+json"
		fails(ctx, answer(string(types.OCIManifestSchema1), manifest(imageOf(lay(file("a", ""))), func(m *v1.Manifest) { m.Config.MediaType = chart })),
			image.ErrNotSupported, `the configuration is of type "`+chart+`": no container image`)
		encrypted := static.NewLayer([]byte("x"), "application/vnd.oci.image.layer.v1.tar+gzip+encrypted")
		d, err := encrypted.Digest()
		Expect(err).NotTo(HaveOccurred())
		fails(ctx, h.push("web:2", imageOf(rawLayer{encrypted, d})), image.ErrNotSupported, `is of type "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"`)
	})
	It("with more or fewer layers than its configuration is corrupt", func(ctx context.Context) {
		two := imageOf(lay(file("a", "")), lay(file("b", "")))
		kind := string(types.OCIManifestSchema1)
		fails(ctx, answer(kind, manifest(two, func(m *v1.Manifest) { m.Layers = m.Layers[:1] })), image.ErrCorrupt, "1 layers but 2 diff IDs")
		fails(ctx, answer(kind, manifest(two, func(m *v1.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) })), image.ErrCorrupt, "3 layers but 2 diff IDs")
	})
	It("with layers in another order than its configuration is corrupt", func(ctx context.Context) {
		two := imageOf(lay(file("a", "")), lay(file("b", "")))
		doc := manifest(two, func(m *v1.Manifest) { m.Layers[0], m.Layers[1] = m.Layers[1], m.Layers[0] })
		_, err := s.Pull(ctx, answer(string(types.OCIManifestSchema1), doc), image.PullOptions{})
		Expect(err).To(MatchError(image.ErrCorrupt))
		Expect(err).To(MatchError(ContainSubstring("unpacked digest is")))
		Expect(s.List()).To(BeEmpty())
	})
	It("with a wrong size or no digest of configuration or layer is corrupt", func(ctx context.Context) {
		img := imageOf(lay(file("a", "")))
		kind := string(types.OCIManifestSchema1)
		for _, off := range []int64{-1, 1} {
			fails(ctx, answer(kind, manifest(img, func(m *v1.Manifest) { m.Config.Size += off })), image.ErrCorrupt, "configuration sha256:")
			fails(ctx, answer(kind, manifest(img, func(m *v1.Manifest) { m.Layers[0].Size += off })), image.ErrCorrupt, "the manifest says")
		}
		for _, size := range []int64{-1, 1 << 40} {
			fails(ctx, answer(kind, manifest(img, func(m *v1.Manifest) { m.Config.Size = size })), image.ErrCorrupt, "configuration of ")
		}
		fails(ctx, answer(kind, manifest(img, func(m *v1.Manifest) { m.Layers[0].Size = -1 })), image.ErrCorrupt, "is of size -1")
		fails(ctx, answer(kind, manifest(img, func(m *v1.Manifest) { m.Config.Digest = v1.Hash{} })), image.ErrCorrupt, "manifest: ")
		fails(ctx, answer(kind, manifest(img, func(m *v1.Manifest) { m.Layers[0].Digest = v1.Hash{} })), image.ErrCorrupt, "manifest: ")
		fails(ctx, answer(string(types.OCIImageIndex), `{"schemaVersion":2,"manifests":[{"mediaType":"`+kind+`"}]}`), image.ErrCorrupt, "an entry has no digest")
		// Before a byte is fetched.
		fails(ctx, answer(kind, manifest(img, func(m *v1.Manifest) { m.Layers[0].Size = 1 << 60 })), image.ErrDiskFull, "bytes are needed")
	})
	It("of more than 4 MiB is corrupt", func(ctx context.Context) {
		fails(ctx, answer(string(types.OCIManifestSchema1), strings.Repeat(" ", 5<<20)), image.ErrCorrupt, "document of more than")
	})
	It("with more layers than can be mounted is refused", func(ctx context.Context) {
		fails(ctx, h.push("web:1", imageOf(slices.Repeat([]v1.Layer{lay(file("a", ""))}, 191)...)), image.ErrRefused, "191 layers, more than 190")
	})
	It("of a layer that ends early without saying its length is told as a broken connection", func(ctx context.Context) {
		layer := randomLayer(1, 1<<20)
		ref := h.push("web:1", imageOf(layer))
		h.onRequest(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.HasSuffix(r.URL.Path, "/blobs/"+digestOf(layer)) {
				w.(http.Flusher).Flush() // chunked from here on
				_, _ = w.Write([]byte("short"))
				return
			}
			next.ServeHTTP(w, r)
		})
		_, err := s.Pull(ctx, ref, image.PullOptions{})
		Expect(err).To(MatchError(image.ErrUnavailable))
		Expect(err).To(MatchError(ContainSubstring("connection broke at byte 5 of")))
		Expect(s.List()).To(BeEmpty())
	})
})

var _ = Describe("An index", func() {
	var h *hub
	var s *image.Store
	BeforeEach(func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root)
		h = newHub()
		s = open(image.Config{Attempts: 2})
	})
	// offering is an index of images that differ in one file's name.
	offering := func(platforms ...v1.Platform) (v1.ImageIndex, map[string]v1.Platform) {
		idx, ids := v1.ImageIndex(empty.Index), map[string]v1.Platform{}
		for _, p := range platforms {
			img := imageFor(p.Architecture, lay(file(p.String(), "")))
			ids[configDigest(img)] = p
			idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &p}})
		}
		return idx, ids
	}

	DescribeTable("gives the image that fits best", func(ctx context.Context, arch, variant, want string, variants ...string) {
		var offered []v1.Platform
		for _, v := range variants {
			offered = append(offered, v1.Platform{OS: "linux", Architecture: arch, Variant: v})
		}
		idx, ids := offering(append(offered, v1.Platform{OS: "linux", Architecture: "s390x"}, v1.Platform{OS: "windows", Architecture: arch})...)
		got, err := s.Pull(ctx, h.pushIndex("multi:1", idx), image.PullOptions{Platform: image.Platform{Architecture: arch, Variant: variant}})
		if want == "none" {
			Expect(err).To(MatchError(image.ErrNoPlatform))
			return
		}
		Expect(err).NotTo(HaveOccurred())
		Expect(ids[got.ID].Variant).To(Equal(want))
	},
		Entry("the variant asked for", "arm", "v7", "v7", "v6", "v7", "v8"),
		Entry("an older variant", "arm", "v7", "v6", "v5", "v6", "v8"),
		Entry("none that is newer", "arm", "v6", "none", "v7", "v8"),
		Entry("the newest if none is asked for", "arm", "", "v7", "v5", "v7", "v6"),
		Entry("the one without a variant before others", "arm64", "", "", "v8", ""),
		Entry("the one without a variant for any", "arm64", "v8", "", ""),
		Entry("the plain amd64 before what this processor may not have", "amd64", "", "", "v3", "", "v2"),
		Entry("an older amd64", "amd64", "v3", "v2", "v4", "v2", "v1"),
	)
	It("without the platform tells what it offers", func(ctx context.Context) {
		idx, _ := offering(v1.Platform{OS: "linux", Architecture: "s390x"}, v1.Platform{OS: "linux", Architecture: "arm", Variant: "v7"},
			v1.Platform{OS: "windows", Architecture: runtime.GOARCH}, v1.Platform{OS: "unknown", Architecture: "unknown"})
		_, err := s.Pull(ctx, h.pushIndex("multi:1", idx), image.PullOptions{})
		Expect(err).To(MatchError(image.ErrNoPlatform))
		Expect(err).To(MatchError(HaveSuffix("wanted is linux/%s, the index offers linux/s390x, linux/arm/v7, windows/%[1]s", runtime.GOARCH)))
		_, err = s.Pull(ctx, h.pushIndex("none:1", mutate.IndexMediaType(empty.Index, types.OCIImageIndex)), image.PullOptions{})
		Expect(err).To(MatchError(HaveSuffix("the index offers nothing")))
	})
	It("may hold an index, but no endless chain of them", func(ctx context.Context) {
		idx, ids := offering(v1.Platform{OS: "linux", Architecture: runtime.GOARCH})
		outer := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: idx})
		got, err := s.Pull(ctx, h.pushIndex("multi:1", outer), image.PullOptions{})
		Expect(err).NotTo(HaveOccurred())
		Expect(ids).To(HaveKey(got.ID))
		for range 5 {
			outer = mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: outer})
		}
		_, err = s.Pull(ctx, h.pushIndex("deep:1", outer), image.PullOptions{})
		Expect(err).To(MatchError(image.ErrRefused))
	})
	It("whose manifest is of another size is corrupt", func(ctx context.Context) {
		idx, _ := offering(v1.Platform{OS: "linux", Architecture: runtime.GOARCH})
		h.pushIndex("multi:0", idx)
		doc, err := idx.IndexManifest()
		Expect(err).NotTo(HaveOccurred())
		doc = doc.DeepCopy()
		doc.Manifests[0].Size++
		data, err := json.Marshal(doc)
		Expect(err).NotTo(HaveOccurred())
		h.onRequest(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.HasSuffix(r.URL.Path, "/manifests/1") {
				w.Header().Set("Content-Type", string(types.OCIImageIndex))
				_, _ = w.Write(data)
				return
			}
			next.ServeHTTP(w, r)
		})
		_, err = s.Pull(ctx, h.host+"/multi:1", image.PullOptions{})
		Expect(err).To(MatchError(image.ErrCorrupt))
		Expect(err).To(MatchError(ContainSubstring("the index says")))
	})
})
