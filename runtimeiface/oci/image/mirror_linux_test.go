package image_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

// blobRanges notes the Range of each request for a blob, and lets f answer.
func (h *hub) blobRanges(layer v1.Layer, f func(n int, w http.ResponseWriter) http.ResponseWriter) func() []string {
	var mu sync.Mutex
	ranges := []string{}
	h.onRequest(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.HasSuffix(r.URL.Path, "/blobs/"+digestOf(layer)) {
			mu.Lock()
			ranges = append(ranges, r.Header.Get("Range"))
			n := len(ranges)
			mu.Unlock()
			w = f(n, w)
		}
		next.ServeHTTP(w, r)
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return ranges
	}
}

var _ = Describe("A mirror", func() {
	var origin, first, second *hub
	var root string
	var cfg image.Config
	BeforeEach(func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root)
		origin, first, second = newHub(), newHub(), newHub()
		root = newRoot()
		cfg = image.Config{Root: root, Attempts: 2, Mirrors: map[string][]image.Mirror{origin.host: {{Host: first.host}, {Host: second.host}}}}
	})
	pull := func(ctx context.Context, ref string, opts image.PullOptions) image.Image {
		GinkgoHelper()
		got, err := open(cfg).Pull(ctx, ref, opts)
		Expect(err).NotTo(HaveOccurred())
		Expect(got.RepoTags).To(Equal([]string{ref}))
		Expect(got.RepoDigests).To(HaveLen(1))
		Expect(got.RepoDigests[0]).To(HavePrefix(origin.host + "/"))
		expectClean(root)
		return got
	}
	contents := func(img image.Image, layer v1.Layer) {
		GinkgoHelper()
		Expect(img.Layers).To(Equal([]string{diffID(layer)}))
		files, err := os.ReadDir(filepath.Join(root, "layers", strings.Replace(diffID(layer), ":", "-", 1), "fs"))
		Expect(err).NotTo(HaveOccurred())
		Expect(files).To(HaveLen(1))
	}

	It("serves what has the registry's name", func(ctx context.Context) {
		layer := randomLayer(1, 1000)
		first.push("team/web:1", imageOf(layer))
		contents(pull(ctx, origin.host+"/team/web:1", image.PullOptions{}), layer)
		Expect(origin.requests() + second.requests()).To(BeZero())
	})
	It("may keep several registries apart by a prefix", func(ctx context.Context) {
		layer := randomLayer(1, 1000)
		cfg.Mirrors[origin.host][0].Prefix = "cache/origin"
		first.push("cache/origin/team/web:1", imageOf(layer))
		contents(pull(ctx, origin.host+"/team/web:1", image.PullOptions{}), layer)
	})
	It("is for its own registry alone", func(ctx context.Context) {
		ref := second.push("web:1", imageOf(randomLayer(1, 1000)))
		_, err := open(cfg).Pull(ctx, ref, image.PullOptions{})
		Expect(err).NotTo(HaveOccurred())
		Expect(first.requests()).To(BeZero())
	})
	It("that lacks the image, is down, is busy or refuses is passed over, in order", func(ctx context.Context) {
		layer := randomLayer(1, 1000)
		ref := origin.push("web:1", imageOf(layer))
		status := func(code int) func(http.ResponseWriter, *http.Request, http.Handler) {
			return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				w.Header().Set("Retry-After", "3600")
				w.WriteHeader(code)
			}
		}
		for _, code := range []int{http.StatusNotFound, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusForbidden} {
			first.onRequest(status(code))
			cfg.Root, root = "", newRoot()
			cfg.Root = root
			contents(pull(ctx, ref, image.PullOptions{}), layer)
		}
		asked := second.requests()
		Expect(asked).To(BeNumerically(">=", 4))
		second.push("web:1", imageOf(layer))
		before := origin.requests()
		first.close()
		root = newRoot()
		cfg.Root = root
		contents(pull(ctx, ref, image.PullOptions{}), layer)
		Expect(origin.requests()).To(Equal(before))
	})
	It("that fails like all others is told with all causes; the registry's own counts", func(ctx context.Context) {
		first.close()
		second.onRequest(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(http.StatusForbidden) })
		_, err := open(cfg).Pull(ctx, origin.host+"/web:1", image.PullOptions{})
		Expect(err).To(MatchError(image.ErrNotFound))
		Expect(err).NotTo(MatchError(image.ErrUnavailable))
		Expect(err).To(MatchError(ContainSubstring("NAME_UNKNOWN")))
		Expect(err).To(MatchError(ContainSubstring("mirror " + first.host + ": ")))
		Expect(err).To(MatchError(ContainSubstring("connection refused")))
		Expect(err).To(MatchError(MatchRegexp("mirror %s: .*403 Forbidden", second.host)))
	})
	It("that serves something else than the digest is not believed", func(ctx context.Context) {
		right, wrong := imageOf(randomLayer(1, 1000)), imageOf(randomLayer(2, 1000))
		origin.push("web:1", right)
		first.push("web:1", wrong)
		first.onRequest(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.Contains(r.URL.Path, "/manifests/") {
				r.URL.Path = "/v2/web/manifests/1"
			}
			next.ServeHTTP(w, r)
		})
		got, err := open(cfg).Pull(ctx, origin.host+"/web@"+manifestDigest(right), image.PullOptions{})
		Expect(err).NotTo(HaveOccurred())
		Expect(got.ID).To(Equal(configDigest(right)))
	})
	It("that serves wrong layers has them fetched elsewhere", func(ctx context.Context) {
		layer := randomLayer(1, 1<<20)
		ref := origin.push("web:1", imageOf(layer))
		first.push("web:1", imageOf(layer))
		rc, err := layer.Compressed()
		Expect(err).NotTo(HaveOccurred())
		blob, err := io.ReadAll(rc)
		Expect(err).NotTo(HaveOccurred())
		for _, wrong := range [][]byte{append([]byte("xxxx"), blob[4:]...), blob[:1000], append(blob[:len(blob):len(blob)], 0), {}} {
			first.serve(digestOf(layer), wrong)
			root = newRoot()
			cfg.Root = root
			contents(pull(ctx, ref, image.PullOptions{}), layer)
		}
	})
	It("that breaks off is gone on from by another", func(ctx context.Context) {
		layer := randomLayer(1, 4<<20)
		ref := origin.push("web:1", imageOf(layer))
		first.push("web:1", imageOf(layer))
		second.push("web:1", imageOf(layer))
		first.blobRanges(layer, func(_ int, w http.ResponseWriter) http.ResponseWriter {
			return &breaking{ResponseWriter: w, left: 1 << 20}
		})
		seconds := second.blobRanges(layer, func(_ int, w http.ResponseWriter) http.ResponseWriter {
			return &breaking{ResponseWriter: w, left: 1 << 20}
		})
		origins := origin.blobRanges(layer, func(_ int, w http.ResponseWriter) http.ResponseWriter { return w })
		contents(pull(ctx, ref, image.PullOptions{}), layer)
		Expect(seconds()).To(HaveLen(1))
		Expect(origins()).To(HaveLen(1))
		var from2, from3, end int64
		for i, r := range append(seconds(), origins()...) {
			_, err := fmt.Sscanf(r, "bytes=%d-%d", []*int64{&from2, &from3}[i], &end)
			Expect(err).NotTo(HaveOccurred(), r)
		}
		Expect(from2).To(BeNumerically(">", 0))
		Expect(from3).To(BeNumerically(">", from2))
	})
	It("that breaks off after wrong bytes is found out, and all comes from one source", func(ctx context.Context) {
		layer := randomLayer(1, 2<<20)
		ref := origin.push("web:1", imageOf(layer))
		first.push("web:1", imageOf(layer))
		first.onRequest(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.HasSuffix(r.URL.Path, "/blobs/"+digestOf(layer)) {
				w = &breaking{ResponseWriter: &flipping{ResponseWriter: w}, left: 1 << 20}
			}
			next.ServeHTTP(w, r)
		})
		origins := origin.blobRanges(layer, func(_ int, w http.ResponseWriter) http.ResponseWriter { return w })
		contents(pull(ctx, ref, image.PullOptions{}), layer)
		Expect(origins()).To(HaveLen(2))
		Expect(origins()[0]).To(HavePrefix("bytes="))
		Expect(origins()[1]).To(BeEmpty())
	})
	It("that lies and breaks off, as the registry breaks off, makes no pull endless", func(ctx context.Context) {
		layer := randomLayer(1, 2<<20)
		ref := origin.push("web:1", imageOf(layer))
		first.push("web:1", imageOf(layer))
		lies := func(w http.ResponseWriter) http.ResponseWriter { return &flipping{ResponseWriter: w} }
		for _, honest := range []func(http.ResponseWriter) http.ResponseWriter{nil, lies} {
			first.blobRanges(layer, func(_ int, w http.ResponseWriter) http.ResponseWriter {
				return &breaking{ResponseWriter: lies(w), left: 1 << 20}
			})
			origins := origin.blobRanges(layer, func(_ int, w http.ResponseWriter) http.ResponseWriter {
				if honest != nil {
					w = honest(w)
				}
				return &breaking{ResponseWriter: w, left: 700 << 10}
			})
			root = newRoot()
			cfg.Root = root
			s := open(cfg)
			_, err := s.Pull(ctx, ref, image.PullOptions{})
			Expect(err).To(Or(MatchError(image.ErrUnavailable), MatchError(image.ErrCorrupt)))
			Expect(len(origins())).To(BeNumerically("<", 20))
			Expect(s.List()).To(BeEmpty())
		}
	}, SpecTimeout(time.Minute))
	It("gets its own credentials, never the registry's nor a pull's", func(ctx context.Context) {
		layer := randomLayer(1, 1000)
		ref := origin.push("web:1", imageOf(layer))
		first.push("web:1", imageOf(layer))
		first.onRequest(wantBasic("mirror", "m"))
		second.onRequest(wantBasic("nobody", "n"))
		origin.onRequest(wantBasic("joe", "$ecret"))
		cfg.AuthFiles = []string{authFile(`{"auths":{"%s":{"username":"origin","password":"o"}}}`, origin.host)}
		pull(ctx, ref, image.PullOptions{Auth: image.Auth{Username: "joe", Password: "$ecret"}})
		Expect(first.shown()).To(BeEmpty())
		Expect(second.shown()).To(BeEmpty())
		Expect(origin.shown()).To(HaveEach(basic("joe", "$ecret")))
		cfg.AuthFiles = []string{authFile(`{"auths":{"%s":{"username":"mirror","password":"m"}}}`, first.host)}
		before := origin.requests()
		cfg.Root = newRoot()
		pull(ctx, ref, image.PullOptions{Auth: image.Auth{Username: "joe", Password: "$ecret"}})
		Expect(first.shown()).To(HaveEach(basic("mirror", "m")))
		Expect(origin.requests()).To(Equal(before))
	})
	It("beyond loopback is spoken to without TLS only when its entry says so", func(ctx context.Context) {
		layer := randomLayer(1, 1000)
		first.push("web:1", imageOf(layer))
		for _, allowed := range []bool{false, true} {
			_, err := open(image.Config{Attempts: 1, Transport: &plainLine{to: first.host}, Mirrors: map[string][]image.Mirror{
				"docker.io": {{Host: "mirror.example", PlainHTTP: allowed}}}}).Pull(ctx, "docker.io/web:1", image.PullOptions{})
			// library/web is not there, and the registry itself gets no plain HTTP.
			Expect(err).To(MatchError(image.ErrUnavailable))
			Expect(strings.Contains(err.Error(), "mirror mirror.example: manifest 1: not found")).To(Equal(allowed), "%v", err)
		}
	})
	It("must be written as hosts and prefixes are", func() {
		_, err := image.Open(image.Config{Root: "/x", AuthFiles: []string{"config.json"}, Mirrors: map[string][]image.Mirror{
			"https://reg.example": {{Host: ""}, {Host: "a/b"}, {Host: "m.example", Prefix: "/up/.."}}}})
		for _, text := range []string{`Mirrors: "https://reg.example"`, `[0].Host ""`, `[1].Host "a/b"`, `[2].Prefix "/up/.."`, `AuthFiles[0] "config.json"`} {
			Expect(err).To(MatchError(ContainSubstring(text)))
		}
	})
})

// flipping turns every byte of a body.
type flipping struct{ http.ResponseWriter }

func (f *flipping) Write(p []byte) (int, error) {
	turned := make([]byte, len(p))
	for i, b := range p {
		turned[i] = ^b
	}
	return f.ResponseWriter.Write(turned)
}

func (f *flipping) Flush() { f.ResponseWriter.(http.Flusher).Flush() }
