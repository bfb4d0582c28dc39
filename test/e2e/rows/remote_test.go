package rows_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle/source"
)

func init() { rows = append(rows, remoteSources) }

// site serves one document, by its ETag, unless it is to fail.
type site struct {
	*httptest.Server
	mu                   sync.Mutex
	text, etag           string
	failing              bool
	whole, same, refused int
}

func newSite() *site {
	s := &site{failing: true}
	s.Server = httptest.NewServer(http.HandlerFunc(s.answer))
	DeferCleanup(s.Close)
	return s
}

func (s *site) answer(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("ETag", s.etag)
	switch {
	case s.failing:
		s.refused++
		w.WriteHeader(http.StatusServiceUnavailable)
	case r.Header.Get("If-None-Match") == s.etag:
		s.same++
		w.WriteHeader(http.StatusNotModified)
	default:
		s.whole++
		_, _ = w.Write([]byte(s.text))
	}
}

// offers has the site serve another document, or fail from now on.
func (s *site) offers(text string, failing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing = failing
	if text != s.text {
		s.text, s.etag = text, fmt.Sprintf(`"%x"`, len(s.etag)+len(text))
	}
}

// answers counts how the site has answered.
func (s *site) answers() (whole, same, refused int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.whole, s.same, s.refused
}

// source asks the site.
func (s *site) source() source.Part {
	GinkgoHelper()
	h, err := source.NewHTTP(source.HTTPConfig{URL: s.URL, Poll: 200 * time.Millisecond})
	Expect(err).NotTo(HaveOccurred())
	return source.Part{Name: "site", Source: h}
}

// with runs f while the agent has other sources beside its directory.
func (n *node) with(sources func() []source.Part, f func()) {
	GinkgoHelper()
	change := func(to func() []source.Part) {
		GinkgoHelper()
		n.besides = to
		n.stop()
		n.start()
	}
	change(sources)
	defer change(nil)
	f()
}

// problems is what is wrong with the manifests of all sources.
func (n *node) problems() string { return fmt.Sprint(n.manager.Problems()) }

func remoteSources(n *node) {
	manifest := func(name, steps string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec: {terminationGracePeriodSeconds: 1, containers: [" + n.does("app", steps) + "]}\n"
	}

	It("comes from a URL, is asked for by its ETag, and stays while nobody answers there", func() {
		n.apply("local", "containers: ["+n.does("app", "forever")+"]")
		n.untilReady("local")
		web := newSite()
		n.with(func() []source.Part { return []source.Part{web.source()} }, func() {
			// Not all sources have spoken: what comes begins, and nothing ends.
			Expect(os.Remove(filepath.Join(n.manifests, "local.yaml"))).To(Succeed())
			n.apply("other", "containers: ["+n.does("app", "forever")+"]")
			n.untilReady("other")
			Eventually(n.problems, patience).Should(ContainSubstring("503 Service Unavailable"))
			Expect(n.pod("local")).To(HaveField("DeletionTimestamp", BeNil()))

			web.offers(manifest("remote", "forever"), false)
			id := first(Default, n.untilReady("remote")).ContainerID
			Expect(n.pod("remote").Annotations).To(HaveKeyWithValue(source.AnnotationSource, "http"))
			Eventually(n.pod, patience).WithArguments("local").Should(BeNil())
			Expect(n.problems()).To(Equal("[]"))
			Eventually(func() int { _, same, _ := web.answers(); return same }, patience).Should(BeNumerically(">=", 2))
			whole, _, before := web.answers()
			Expect(whole).To(Equal(1), "the document is fetched once")

			web.offers(manifest("remote", "forever"), true)
			Eventually(func() int { _, _, refused := web.answers(); return refused - before }, patience).Should(BeNumerically(">=", 2))
			Eventually(n.problems, patience).Should(ContainSubstring("503 Service Unavailable"))
			n.stop() // another agent does not know what there was
			n.start()
			Eventually(n.problems, patience).Should(ContainSubstring("503 Service Unavailable"))
			n.untilReady("remote")
			web.offers(manifest("remote", "forever"), false)
			Eventually(n.problems, patience).Should(Equal("[]"))
			Expect(first(Default, n.untilReady("remote"))).To(And(HaveField("ContainerID", id), HaveField("RestartCount", BeZero())))

			web.offers("", false)
			Eventually(n.pod, patience).WithArguments("remote").Should(BeNil())
			n.untilReady("other")
		})
	})

	It("comes from a stream, when that has ended", func() {
		read, write, err := os.Pipe()
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { _, _ = read.Close(), write.Close() })
		n.with(func() []source.Part {
			r, err := source.NewReader(source.ReaderConfig{Reader: read})
			Expect(err).NotTo(HaveOccurred())
			return []source.Part{{Name: "stdin", Source: r}}
		}, func() {
			_, err := write.WriteString(manifest("streamed", "forever") + "---\n")
			Expect(err).NotTo(HaveOccurred())
			n.apply("beside", "containers: ["+n.does("app", "forever")+"]")
			n.untilReady("beside")
			Expect(n.pod("streamed")).To(BeNil(), "half of a stream is none")
			_, err = write.WriteString(manifest("last", "forever"))
			Expect(err).NotTo(HaveOccurred())
			Expect(write.Close()).To(Succeed())
			for _, name := range []string{"streamed", "last"} {
				Expect(n.untilReady(name).Annotations).To(HaveKeyWithValue(source.AnnotationSource, "stdin"))
			}
		})
		Eventually(func() []*corev1.Pod { return n.manager.Pods() }, patience).Should(HaveLen(1), "an agent without the stream does not want its pods")
	})

	It("of two with its name is the one of the first source, and the other is told", func() {
		web := newSite()
		web.offers(manifest("twice", "print second ; forever"), false)
		n.apply("twice", "containers: ["+n.does("app", "print first ; forever")+"]")
		n.with(func() []source.Part { return []source.Part{web.source()} }, func() {
			Eventually(n.problems, patience).Should(ContainSubstring("Pod default/twice is in manifests already"))
			n.untilReady("twice")
			Eventually(n.output, patience).WithArguments("twice", "app").Should(Equal("first\n"))
			Expect(os.Remove(filepath.Join(n.manifests, "twice.yaml"))).To(Succeed())
			Eventually(n.output, patience).WithArguments("twice", "app").Should(Equal("second\n"))
			Expect(n.problems()).To(Equal("[]"))
		})
	})
}
