package image_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

var _ = Describe("A busy registry", func() {
	var h *hub
	BeforeEach(func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root)
		h = newHub()
	})
	// busyAt answers the first request of each path that holds part with code.
	busyAt := func(part string, code int, after string) func(http.ResponseWriter, *http.Request, http.Handler) {
		var mu sync.Mutex
		seen := map[string]bool{}
		return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			mu.Lock()
			first := strings.Contains(r.URL.Path, part) && !seen[r.URL.Path]
			seen[r.URL.Path] = true
			mu.Unlock()
			if first {
				w.Header().Set("Retry-After", after)
				w.WriteHeader(code)
				return
			}
			next.ServeHTTP(w, r)
		}
	}

	It("is asked again when it says, not when the back-off would", func(ctx context.Context) {
		ref := h.push("web:1", imageOf(randomLayer(1, 1000)))
		for _, part := range []string{"/manifests/", "/blobs/"} {
			h.onRequest(busyAt(part, http.StatusTooManyRequests, "1"))
			_, err := open(image.Config{RetryDelay: 24 * time.Hour}).Pull(ctx, ref, image.PullOptions{})
			Expect(err).NotTo(HaveOccurred())
		}
	}, SpecTimeout(time.Minute))
	It("cannot make a pull wait longer than the Config says", func(ctx context.Context) {
		ref := h.push("web:1", imageOf(randomLayer(1, 1000)))
		for _, after := range []string{"1000000", time.Now().Add(24 * time.Hour).UTC().Format(http.TimeFormat)} {
			for _, part := range []string{"/v2/", "/manifests/", "/blobs/"} {
				h.onRequest(busyAt(part, http.StatusServiceUnavailable, after))
				_, err := open(image.Config{RetryDelay: 24 * time.Hour, MaxRetryAfter: time.Millisecond, Attempts: 10}).Pull(ctx, ref, image.PullOptions{})
				Expect(err).NotTo(HaveOccurred(), part)
			}
		}
	}, SpecTimeout(time.Minute))
	It("may be that of the tokens", func(ctx context.Context) {
		ref := h.push("web:1", imageOf(randomLayer(1, 1000)))
		realm := newTokens()
		grant := realm.answer
		busy := true
		realm.answer = func(w http.ResponseWriter, r *http.Request) {
			if busy {
				busy = false
				w.Header().Set("Retry-After", "1000000")
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			grant(w, r)
		}
		h.onRequest(wantToken(realm.url))
		s := open(image.Config{RetryDelay: 24 * time.Hour, MaxRetryAfter: time.Millisecond})
		_, err := s.Pull(ctx, ref, image.PullOptions{Auth: image.Auth{Username: "joe", Password: "$ecret"}})
		Expect(err).NotTo(HaveOccurred())
	}, SpecTimeout(time.Minute))
	It("is given up on after the attempts, with what it says", func(ctx context.Context) {
		asked := 0
		h.onRequest(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			asked++
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = w.Write([]byte(`{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}`))
		})
		_, err := open(image.Config{Attempts: 3}).Pull(ctx, h.host+"/web:1", image.PullOptions{})
		Expect(err).To(MatchError(image.ErrUnavailable))
		Expect(err).To(MatchError(ContainSubstring("429 Too Many Requests: TOOMANYREQUESTS: slow down")))
		Expect(asked).To(Equal(3))
	})
})

var _ = Describe("A cancelled pull", func() {
	BeforeEach(func() { kerneltest.Require(GinkgoT(), kerneltest.Root) })

	It("ends at once, whatever it waits for", func(ctx context.Context) {
		h := newHub()
		layer := randomLayer(1, 1<<20)
		img := imageOf(layer)
		ref := h.push("web:1", img)
		for _, part := range []string{"/v2/", "/manifests/1", "/blobs/" + configDigest(img), "/blobs/" + digestOf(layer)} {
			root := newRoot()
			s := open(image.Config{Root: root, Attempts: 100, RetryDelay: time.Hour})
			ctx, cancel := context.WithCancel(ctx)
			h.onRequest(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if strings.HasSuffix(r.URL.Path, part) {
					cancel()
					<-r.Context().Done()
					return
				}
				next.ServeHTTP(w, r)
			})
			_, err := s.Pull(ctx, ref, image.PullOptions{})
			Expect(err).To(MatchError(context.Canceled), part)
			Expect(s.List()).To(BeEmpty())
			expectClean(root)
		}
	}, SpecTimeout(time.Minute))
	It("ends at once while it waits for a busy registry or to try again", func(ctx context.Context) {
		h := newHub()
		for _, after := range []string{"", "3600"} {
			ctx, cancel := context.WithCancel(ctx)
			h.onRequest(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				w.Header().Set("Retry-After", after)
				w.WriteHeader(http.StatusServiceUnavailable)
				time.AfterFunc(20*time.Millisecond, cancel)
			})
			_, err := open(image.Config{MaxRetryAfter: time.Hour, RetryDelay: time.Hour}).Pull(ctx, h.host+"/web:1", image.PullOptions{})
			Expect(err).To(MatchError(context.Canceled))
		}
	}, SpecTimeout(time.Minute))
})

var _ = It("Pulls work on no more layers at once than the Config says", func(ctx context.Context) {
	kerneltest.Require(GinkgoT(), kerneltest.Root)
	h := newHub()
	var refs []string
	configs := map[string]bool{}
	for i := range 2 {
		var layers []v1.Layer
		for j := range 5 {
			layers = append(layers, randomLayer(int64(10*i+j), 1000))
		}
		img := imageOf(layers...)
		configs[configDigest(img)] = true
		refs = append(refs, h.push(fmt.Sprintf("web%d:1", i), img))
	}
	var mu sync.Mutex
	now, most := 0, 0
	full, once := make(chan struct{}), sync.Once{}
	h.onRequest(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, "/blobs/") && !configs[r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]] {
			mu.Lock()
			now++
			if most = max(most, now); now == 3 {
				once.Do(func() { close(full) })
			}
			mu.Unlock()
			select {
			case <-full: // three came at once
			case <-r.Context().Done():
			}
			time.Sleep(5 * time.Millisecond) // room for a fourth
			defer func() {
				mu.Lock()
				now--
				mu.Unlock()
			}()
		}
		next.ServeHTTP(w, r)
	})
	s := open(image.Config{MaxParallel: 3})
	var wg sync.WaitGroup
	errs := make([]error, len(refs))
	for i, ref := range refs {
		wg.Go(func() { _, errs[i] = s.Pull(ctx, ref, image.PullOptions{}) })
	}
	wg.Wait()
	Expect(errs).To(HaveEach(BeNil()))
	Expect(most).To(Equal(3))
}, SpecTimeout(time.Minute))
