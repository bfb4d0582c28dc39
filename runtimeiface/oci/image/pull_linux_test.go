package image_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/klauspost/compress/zstd"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

var _ = Describe("Pull", func() {
	var h *hub
	var root string
	var s *image.Store
	BeforeEach(func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root)
		h = newHub()
		root = newRoot()
		s = open(image.Config{Root: root, Attempts: 3})
	})

	It("brings an image by tag with its configuration", func(ctx context.Context) {
		base, app := lay(dir("etc"), file("etc/a", "one")), lay(file("b", "two"))
		img := imageOf(base, app)
		ref := h.push("team/web:1", img)
		got, err := s.Pull(ctx, ref, image.PullOptions{})
		Expect(err).NotTo(HaveOccurred())
		Expect(got.ID).To(Equal(configDigest(img)))
		Expect(got.RepoTags).To(Equal([]string{ref}))
		Expect(got.RepoDigests).To(Equal([]string{h.host + "/team/web@" + manifestDigest(img)}))
		Expect(got.Layers).To(Equal([]string{diffID(base), diffID(app)}))
		Expect(got.Size).To(BeNumerically(">", 0))
		Expect(got.Config).To(Equal(image.ImageConfig{
			Entrypoint: []string{"/web"}, Cmd: []string{"-v"}, Env: []string{"A=b"}, WorkingDir: "/srv",
			User: "1000:1000", StopSignal: "SIGQUIT", Labels: map[string]string{"k": "v"},
			Volumes: []string{"/data"}, ExposedPorts: []string{"80/tcp"},
		}))
		for _, name := range []string{ref, got.ID, got.RepoDigests[0]} {
			found, err := s.Get(name)
			Expect(err).NotTo(HaveOccurred(), name)
			Expect(found).To(Equal(got))
		}
		expectClean(root)
	})

	It("brings an image by digest, without a tag", func(ctx context.Context) {
		img := imageOf(lay(file("a", "1")))
		h.push("web:1", img)
		ref := h.host + "/web@" + manifestDigest(img)
		got, err := s.Pull(ctx, ref, image.PullOptions{})
		Expect(err).NotTo(HaveOccurred())
		Expect(got.RepoTags).To(BeEmpty())
		Expect(got.RepoDigests).To(Equal([]string{ref}))
	})

	It("downloads nothing twice, and asks again whether it may", func(ctx context.Context) {
		layer := lay(file("a", "1"))
		ref := h.push("web:1", imageOf(layer))
		first, err := s.Pull(ctx, ref, image.PullOptions{})
		Expect(err).NotTo(HaveOccurred())
		again, err := s.Pull(ctx, ref, image.PullOptions{})
		Expect(err).NotTo(HaveOccurred())
		Expect(again).To(Equal(first))
		Expect(h.blobGets(digestOf(layer))).To(Equal(1))
		h.onRequest(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(http.StatusForbidden) })
		_, err = s.Pull(ctx, ref, image.PullOptions{})
		Expect(err).To(MatchError(image.ErrUnauthorized))
	})

	It("takes the platform's image from an index", func(ctx context.Context) {
		arm, amd := imageFor("arm64", lay(file("arm", ""))), imageFor("amd64", lay(file("amd", "")))
		idx := mutate.AppendManifests(empty.Index,
			mutate.IndexAddendum{Add: arm, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}}},
			mutate.IndexAddendum{Add: amd, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
		ref := h.pushIndex("multi:1", idx)
		for arch, want := range map[string]v1.Image{"arm64": arm, "amd64": amd} {
			got, err := s.Pull(ctx, ref, image.PullOptions{Platform: image.Platform{Architecture: arch}})
			Expect(err).NotTo(HaveOccurred())
			Expect(got.ID).To(Equal(configDigest(want)))
			Expect(got.Architecture).To(Equal(arch))
		}
		d, err := idx.Digest()
		Expect(err).NotTo(HaveOccurred())
		_, err = s.Get(h.host + "/multi@" + d.String())
		Expect(err).NotTo(HaveOccurred(), "the index's digest is a name of the image")
		_, err = s.Pull(ctx, ref, image.PullOptions{Platform: image.Platform{Architecture: "riscv64"}})
		Expect(err).To(MatchError(image.ErrNoPlatform))
		Expect(err.Error()).To(HaveSuffix("wanted is linux/riscv64, the index offers linux/arm64/v8, linux/amd64"))
	})

	It("unpacks zstd and uncompressed layers", func(ctx context.Context) {
		plain := archive(file("plain", "p"))
		packed := archive(file("packed", "z"))
		enc, err := zstd.NewWriter(nil)
		Expect(err).NotTo(HaveOccurred())
		ref := h.push("z:1", imageOf(blobLayer(plain, plain), blobLayer(enc.EncodeAll(packed, nil), packed)))
		got, err := s.Pull(ctx, ref, image.PullOptions{})
		Expect(err).NotTo(HaveOccurred())
		Expect(names(root, "layers", strings.Replace(got.Layers[0], ":", "-", 1), "fs")).To(ConsistOf("plain"))
		Expect(names(root, "layers", strings.Replace(got.Layers[1], ":", "-", 1), "fs")).To(ConsistOf("packed"))
	})

	It("tells progress in order, ending at all bytes", func(ctx context.Context) {
		img := imageOf(randomLayer(1, 3<<20), randomLayer(2, 3<<20))
		ref := h.push("p:1", img)
		var seen []image.Progress
		_, err := s.Pull(ctx, ref, image.PullOptions{Progress: func(p image.Progress) { seen = append(seen, p) }})
		Expect(err).NotTo(HaveOccurred())
		Expect(seen[0]).To(Equal(image.Progress{Ref: ref, Phase: image.PhaseResolving}))
		Expect(seen[1].Phase).To(Equal(image.PhaseDownloading))
		Expect(seen[1].Layers).To(HaveLen(2))
		order := map[image.Phase]int{image.PhaseResolving: 0, image.PhaseDownloading: 1, image.PhaseUnpacking: 2, image.PhaseDone: 3}
		for i := 1; i < len(seen); i++ {
			Expect(order[seen[i].Phase]).To(BeNumerically(">=", order[seen[i-1].Phase]))
			Expect(seen[i].Done).To(BeNumerically(">=", seen[i-1].Done))
		}
		last := seen[len(seen)-1]
		Expect(last.Phase).To(Equal(image.PhaseDone))
		Expect(last.Done).To(Equal(last.Total))
		Expect(last.Total).To(BeNumerically(">", 6<<20))
	})

	It("shares layers among pulls at once", func(ctx context.Context) {
		shared := randomLayer(1, 1<<20)
		refs := []string{h.push("one:1", imageOf(shared, lay(file("x", "1")))), h.push("two:1", imageOf(shared, lay(file("y", "2"))))}
		gate := make(chan struct{})
		h.onRequest(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.HasSuffix(r.URL.Path, "/blobs/"+digestOf(shared)) {
				<-gate
			}
			next.ServeHTTP(w, r)
		})
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			wg.Go(func() { _, errs[i] = s.Pull(ctx, refs[i%2], image.PullOptions{}) })
		}
		time.AfterFunc(50*time.Millisecond, func() { close(gate) })
		wg.Wait()
		Expect(errors.Join(errs...)).NotTo(HaveOccurred())
		Expect(h.blobGets(digestOf(shared))).To(Equal(1))
		Expect(s.List()).To(HaveLen(2))
		expectClean(root)
	})

	It("goes on for others when one of several pulls is cancelled", func(ctx context.Context) {
		shared := randomLayer(1, 1<<20)
		ref := h.push("one:1", imageOf(shared))
		gate, reached := make(chan struct{}), make(chan struct{}, 8)
		h.onRequest(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.HasSuffix(r.URL.Path, "/blobs/"+digestOf(shared)) {
				reached <- struct{}{}
				<-gate
			}
			next.ServeHTTP(w, r)
		})
		cancelled, cancel := context.WithCancel(ctx)
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { _, err := s.Pull(cancelled, ref, image.PullOptions{}); first <- err }()
		<-reached
		joined := make(chan struct{}, 8)
		go func() {
			_, err := s.Pull(ctx, ref, image.PullOptions{Progress: func(p image.Progress) {
				if len(p.Layers) > 0 {
					joined <- struct{}{}
				}
			}})
			second <- err
		}()
		<-joined
		cancel()
		Expect(<-first).To(MatchError(context.Canceled))
		close(gate)
		Expect(<-second).NotTo(HaveOccurred())
		Expect(h.blobGets(digestOf(shared))).To(Equal(1))
	})

	It("resumes a download that breaks", func(ctx context.Context) {
		layer := randomLayer(3, 2<<20)
		ref := h.push("r:1", imageOf(layer))
		var ranges []string
		var mu sync.Mutex
		h.onRequest(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.HasSuffix(r.URL.Path, "/blobs/"+digestOf(layer)) {
				mu.Lock()
				ranges = append(ranges, r.Header.Get("Range"))
				first := len(ranges) == 1
				mu.Unlock()
				if first {
					w = &breaking{ResponseWriter: w, left: 1 << 20}
				}
			}
			next.ServeHTTP(w, r)
		})
		_, err := s.Pull(ctx, ref, image.PullOptions{})
		Expect(err).NotTo(HaveOccurred())
		Expect(ranges).To(HaveLen(2))
		Expect(ranges[1]).To(MatchRegexp(`^bytes=[1-9][0-9]*-[1-9][0-9]*$`))
	})

	It("gives up on a stalled download", func(ctx context.Context) {
		layer := randomLayer(3, 1<<20)
		ref := h.push("r:1", imageOf(layer))
		quick := open(image.Config{Attempts: 2, StallTimeout: 20 * time.Millisecond})
		h.onRequest(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.HasSuffix(r.URL.Path, "/blobs/"+digestOf(layer)) {
				w.WriteHeader(http.StatusOK)
				w.(http.Flusher).Flush()
				<-r.Context().Done()
				return
			}
			next.ServeHTTP(w, r)
		})
		_, err := quick.Pull(ctx, ref, image.PullOptions{})
		Expect(err).To(MatchError(image.ErrUnavailable))
	})

	Describe("fails with a reason and leaves nothing", func() {
		expectNothing := func() {
			GinkgoHelper()
			Expect(s.List()).To(BeEmpty())
			expectClean(root)
		}

		It("for a bad name", func(ctx context.Context) {
			_, err := s.Pull(ctx, "Not A Name", image.PullOptions{})
			Expect(err).To(MatchError(image.ErrInvalidName))
		})
		It("for an unknown tag", func(ctx context.Context) {
			h.push("web:1", imageOf(lay(file("a", ""))))
			_, err := s.Pull(ctx, h.host+"/web:2", image.PullOptions{})
			Expect(err).To(MatchError(image.ErrNotFound))
			Expect(err.Error()).To(ContainSubstring("web:2"))
			Expect(err.Error()).To(ContainSubstring("MANIFEST_UNKNOWN"))
			expectNothing()
		})
		It("for a registry that does not answer", func(ctx context.Context) {
			_, err := s.Pull(ctx, "127.0.0.1:1/web:1", image.PullOptions{})
			Expect(err).To(MatchError(image.ErrUnavailable))
			Expect(err.Error()).To(ContainSubstring("connection refused"))
		})
		It("for plain HTTP beyond loopback", func(ctx context.Context) {
			dead, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			_, err := open(image.Config{Attempts: 1, Transport: refusing{}}).Pull(dead, "10.0.0.1:5000/web:1", image.PullOptions{})
			Expect(err).To(MatchError(ContainSubstring("plain HTTP to 10.0.0.1:5000 is not allowed")))
		})
		It("for a truncated layer", func(ctx context.Context) {
			layer := randomLayer(1, 1<<20)
			ref := h.push("web:1", imageOf(layer))
			blob := gz(archive(file("short", "")))
			h.serve(digestOf(layer), blob)
			_, err := s.Pull(ctx, ref, image.PullOptions{})
			Expect(err).To(MatchError(image.ErrCorrupt))
			var pull *image.PullError
			Expect(errors.As(err, &pull)).To(BeTrue())
			Expect(pull.Ref).To(Equal(ref))
			Expect(pull.Layer).To(Equal(digestOf(layer)))
			expectNothing()
		})
		It("for a layer cut off again and again", func(ctx context.Context) {
			layer := randomLayer(1, 1<<20)
			ref := h.push("web:1", imageOf(layer))
			h.onRequest(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if strings.HasSuffix(r.URL.Path, "/blobs/"+digestOf(layer)) {
					w = &breaking{ResponseWriter: w, left: 0}
				}
				next.ServeHTTP(w, r)
			})
			_, err := s.Pull(ctx, ref, image.PullOptions{})
			Expect(err).To(MatchError(image.ErrUnavailable))
			Expect(err).To(MatchError(ContainSubstring("connection broke at byte 0 of")))
			expectNothing()
		})
		It("for a layer of another digest", func(ctx context.Context) {
			layer := randomLayer(1, 1<<20)
			ref := h.push("web:1", imageOf(layer))
			rc, err := layer.Compressed()
			Expect(err).NotTo(HaveOccurred())
			var buf bytes.Buffer
			_, err = buf.ReadFrom(rc)
			Expect(err).NotTo(HaveOccurred())
			blob := buf.Bytes()
			blob[len(blob)/2] ^= 1
			h.serve(digestOf(layer), blob)
			_, err = s.Pull(ctx, ref, image.PullOptions{})
			Expect(err).To(MatchError(image.ErrCorrupt))
			Expect(err).To(MatchError(ContainSubstring("download: corrupt content: digest is sha256:")))
			expectNothing()
		})
		It("for a configuration of another digest", func(ctx context.Context) {
			img := imageOf(lay(file("a", "")))
			ref := h.push("web:1", img)
			h.serve(configDigest(img), []byte(`{"rootfs":{"type":"layers","diff_ids":[]}}`))
			_, err := s.Pull(ctx, ref, image.PullOptions{})
			Expect(err).To(MatchError(image.ErrCorrupt))
			expectNothing()
		})
		It("for a manifest of another digest", func(ctx context.Context) {
			img := imageOf(lay(file("a", "")))
			h.push("web:1", img)
			h.onRequest(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if strings.Contains(r.URL.Path, "/manifests/sha256:") {
					r.URL.Path = "/v2/web/manifests/2"
				}
				next.ServeHTTP(w, r)
			})
			h.push("web:2", imageOf(lay(file("b", ""))))
			_, err := s.Pull(ctx, h.host+"/web@"+manifestDigest(img), image.PullOptions{})
			Expect(err).To(MatchError(image.ErrCorrupt))
			expectNothing()
		})
		It("for a layer that unpacks to another diff ID", func(ctx context.Context) {
			lie := blobLayer(gz(archive(file("a", "evil"))), archive(file("a", "good")))
			ref := h.push("web:1", imageOf(lie))
			_, err := s.Pull(ctx, ref, image.PullOptions{})
			Expect(err).To(MatchError(image.ErrCorrupt))
			Expect(err).To(MatchError(ContainSubstring("the image says " + diffID(lie))))
			expectNothing()
		})
		It("for a layer that is no archive", func(ctx context.Context) {
			junk := bytes.Repeat([]byte("junk"), 500)
			_, err := s.Pull(ctx, h.push("web:1", imageOf(blobLayer(gz(junk), junk))), image.PullOptions{})
			Expect(err).To(MatchError(image.ErrCorrupt))
			expectNothing()
		})
		It("for too little free space", func(ctx context.Context) {
			ref := h.push("web:1", imageOf(lay(file("a", ""))))
			full := newRoot()
			_, err := open(image.Config{Root: full, MinFreeBytes: 1 << 60}).Pull(ctx, ref, image.PullOptions{})
			Expect(err).To(MatchError(image.ErrDiskFull))
			Expect(err).To(MatchError(MatchRegexp(`%s: \d+ bytes are needed and %d must stay free \(MinFreeBytes\), \d+ are available`, full, int64(1<<60))))
			expectClean(full)
		})
		It("for a disk that fills up while unpacking", func(ctx context.Context) {
			small := newRoot()
			Expect(unix.Mount("tmpfs", small, "tmpfs", 0, "size=8m")).To(Succeed())
			DeferCleanup(func() { Expect(unix.Unmount(small, unix.MNT_DETACH)).To(Succeed()) })
			tiny := open(image.Config{Root: small})
			ref := h.push("web:1", imageOf(lay(file("zeros", string(make([]byte, 20<<20))))))
			_, err := tiny.Pull(ctx, ref, image.PullOptions{})
			Expect(err).To(MatchError(image.ErrDiskFull))
			Expect(err).To(MatchError(ContainSubstring(`entry "zeros"`)))
			Expect(err).To(MatchError(ContainSubstring("no space left on device")))
			expectClean(small)
			Expect(names(small, "layers")).To(BeEmpty())
		})
		It("for an image of another architecture", func(ctx context.Context) {
			_, err := s.Pull(ctx, h.push("web:1", imageFor("s390x", lay(file("a", "")))), image.PullOptions{})
			Expect(err).To(MatchError(image.ErrNoPlatform))
			expectNothing()
		})
	})

	Describe("with credentials", func() {
		It("sends them where they belong", func(ctx context.Context) {
			ref := h.push("private:1", imageOf(lay(file("a", ""))))
			h.onRequest(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if user, pass, ok := r.BasicAuth(); !ok || user != "joe" || pass != "secret" {
					w.Header().Set("WWW-Authenticate", `Basic realm="here"`)
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				next.ServeHTTP(w, r)
			})
			_, err := s.Pull(ctx, ref, image.PullOptions{})
			Expect(err).To(MatchError(image.ErrUnauthorized))
			_, err = s.Pull(ctx, ref, image.PullOptions{Auth: image.Auth{Username: "joe", Password: "wrong"}})
			Expect(err).To(MatchError(image.ErrUnauthorized))
			Expect(err.Error()).NotTo(ContainSubstring("wrong"))
			_, err = s.Pull(ctx, ref, image.PullOptions{Auth: image.Auth{Username: "joe", Password: "secret"}})
			Expect(err).NotTo(HaveOccurred())
			var asked string
			other := open(image.Config{Auth: func(_ context.Context, registry string) (image.Auth, error) {
				asked = registry
				return image.Auth{Username: "joe", Password: "secret"}, nil
			}})
			_, err = other.Pull(ctx, ref, image.PullOptions{})
			Expect(err).NotTo(HaveOccurred())
			Expect(asked).To(Equal(h.host))
		})

		It("exchanges them for a token", func(ctx context.Context) {
			ref := h.push("private:1", imageOf(lay(file("a", ""))))
			h.onRequest(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.URL.Path == "/token" {
					if user, pass, _ := r.BasicAuth(); user+pass != "joesecret" || r.FormValue("scope") != "repository:private:pull" {
						w.WriteHeader(http.StatusUnauthorized)
						return
					}
					_, _ = w.Write([]byte(`{"token":"t0ken"}`))
					return
				}
				if r.Header.Get("Authorization") != "Bearer t0ken" {
					w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+h.host+`/token",service="here"`)
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				next.ServeHTTP(w, r)
			})
			_, err := s.Pull(ctx, ref, image.PullOptions{Auth: image.Auth{Username: "joe", Password: "wrong"}})
			Expect(err).To(MatchError(image.ErrUnauthorized))
			_, err = s.Pull(ctx, ref, image.PullOptions{Auth: image.Auth{Username: "joe", Password: "secret"}})
			Expect(err).NotTo(HaveOccurred())
			_, err = open(image.Config{}).Pull(ctx, ref, image.PullOptions{Auth: image.Auth{RegistryToken: "t0ken"}})
			Expect(err).NotTo(HaveOccurred())
		})

		It("goes without TLS where the Config allows it", func(ctx context.Context) {
			h.push("web:1", imageOf(lay(file("a", ""))))
			dialer := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", h.host)
			}}
			defer dialer.CloseIdleConnections()
			for _, allowed := range []bool{false, true} {
				other := open(image.Config{Transport: dialer, Attempts: 1, PlainHTTP: func(r string) bool { return allowed && r == "reg.example:80" }})
				_, err := other.Pull(ctx, "reg.example:80/web:1", image.PullOptions{})
				Expect(err == nil).To(Equal(allowed), "%v", err)
			}
		})
	})
})

// breaking ends the connection after so many bytes of a body.
type breaking struct {
	http.ResponseWriter
	left int
}

func (b *breaking) Write(p []byte) (int, error) {
	if len(p) > b.left {
		_, _ = b.ResponseWriter.Write(p[:b.left])
		b.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	b.left -= len(p)
	return b.ResponseWriter.Write(p)
}

// refusing fails all TLS, as a plain server would.
type refusing struct{}

func (refusing) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("server gave HTTP response to HTTPS client")
}
