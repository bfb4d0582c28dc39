package source_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit/nodekit/podlifecycle/manifest"
	"github.com/nodekit/nodekit/podlifecycle/source"
)

// answers is a server that has an answer for each request, the last one for all
// that follow, and notes when each came.
type answers struct {
	mu    sync.Mutex
	list  []func(*http.Request) (*http.Response, error)
	times []time.Time
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.times = append(a.times, time.Now())
	return a.list[min(len(a.times), len(a.list))-1](r)
}

func answer(status int, body string, header ...string) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		response := &http.Response{StatusCode: status, Status: fmt.Sprint(status, " ", http.StatusText(status)), Header: http.Header{},
			Body: io.NopCloser(strings.NewReader(body)), Request: r}
		for i := 0; i < len(header); i += 2 {
			response.Header.Set(header[i], header[i+1])
		}
		return response, nil
	}
}

func unchanged(r *http.Request) (*http.Response, error) {
	if r.Header.Get("If-None-Match") != `"1"` {
		return nil, fmt.Errorf("If-None-Match is %q", r.Header.Get("If-None-Match"))
	}
	return answer(http.StatusNotModified, "")(r)
}

// follow runs a source and gives what it said last, and how often it spoke.
func follow(t *testing.T, s source.Source) func() (source.Set, int) {
	var mu sync.Mutex
	var last source.Set
	count := 0
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- s.Run(ctx, func(set source.Set) {
			mu.Lock()
			defer mu.Unlock()
			last, count = set, count+1
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return func() (source.Set, int) {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		return last, count
	}
}

func podNames(set source.Set) string {
	var names []string
	for _, pod := range set.Pods {
		names = append(names, pod.Name)
	}
	return strings.Join(names, " ")
}

func newHTTP(t *testing.T, list ...func(*http.Request) (*http.Response, error)) (*answers, func() (source.Set, int)) {
	a := &answers{list: list}
	s, err := source.NewHTTP(source.HTTPConfig{URL: "https://config.test/pods", Transport: a, Header: http.Header{"Authorization": {"Bearer x"}}})
	if err != nil {
		t.Fatal(err)
	}
	return a, follow(t, s)
}

func TestHTTPAsksOnlyForWhatIsNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, now := newHTTP(t, answer(200, podYAML("a", ""), "ETag", `"1"`), unchanged, answer(200, podYAML("b", "")))
		set, count := now()
		if podNames(set) != "a" || count != 1 || len(set.Waiting)+len(set.Problems) != 0 || set.Pods[0].Annotations[source.AnnotationSource] != "http" {
			t.Fatalf("first: %d %+v", count, set)
		}
		time.Sleep(20 * time.Second)
		if set, count = now(); podNames(set) != "a" || count != 1 {
			t.Fatalf("unchanged: %d %+v", count, set)
		}
		time.Sleep(20 * time.Second)
		if set, count = now(); podNames(set) != "b" || count != 2 || len(a.times) != 3 {
			t.Fatalf("changed: %d of %d %+v", count, len(a.times), set)
		}
	})
}

func TestHTTPFailuresEndNothingAndAreAskedAgainLaterAndLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }
		a, now := newHTTP(t, down, answer(200, podYAML("a", "")), down, answer(500, ""), answer(503, "", "Retry-After", "100"), answer(200, podYAML("b", "")))
		set, _ := now()
		if len(set.Waiting) != 1 || len(set.Problems) != 1 || !strings.Contains(set.Problems[0].Error(), "https://config.test/pods: get: connection refused") {
			t.Fatalf("before the first answer: %+v", set)
		}
		time.Sleep(2 * time.Second)
		if set, _ = now(); podNames(set) != "a" || len(set.Waiting)+len(set.Problems)+len(set.Broken) != 0 {
			t.Fatalf("answered: %+v", set)
		}
		time.Sleep(25 * time.Second)
		if set, _ = now(); podNames(set) != "a" || len(set.Waiting) != 0 || len(set.Broken) != 1 || !strings.Contains(set.Problems[0].Error(), "503 Service Unavailable") {
			t.Fatalf("failing: %+v", set)
		}
		time.Sleep(2 * time.Minute)
		if set, _ = now(); podNames(set) != "b" || len(set.Problems) != 0 {
			t.Fatalf("answered again: %+v", set)
		}
		var gaps []time.Duration
		for i := range a.times[1:6] {
			gaps = append(gaps, a.times[i+1].Sub(a.times[i]))
		}
		for i, least := range []time.Duration{time.Second, 20 * time.Second, time.Second, 2 * time.Second, 100 * time.Second} {
			if gaps[i] < least || gaps[i] > least+least/10 {
				t.Errorf("wait %d is %v, want %v and at most a tenth more", i, gaps[i], least)
			}
		}
	})
}

func TestHTTPKeepsWhatABadDocumentSpoils(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, now := newHTTP(t, answer(200, podYAML("a", "")+"---\n"+podYAML("b", "")), answer(200, podYAML("a", "")+"---\n"+podYAML("b", ", imag: x")))
		time.Sleep(30 * time.Second)
		set, _ := now()
		if podNames(set) != "a b" || len(set.Problems) != 1 || !strings.Contains(set.Problems[0].Error(), "spec.containers[0].imag") {
			t.Fatalf("got %+v", set)
		}
	})
}

func TestHTTPFollowsNoRedirectToAnotherHost(t *testing.T) {
	asked := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer other.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) }))
	defer server.Close()
	s, err := source.NewHTTP(source.HTTPConfig{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err = s.Run(ctx, func(set source.Set) {
		if len(set.Problems) != 1 || !strings.Contains(set.Problems[0].Error(), "redirect to "+other.URL+" is not followed") {
			t.Errorf("got %+v", set)
		}
		cancel()
	})
	if err != nil || asked {
		t.Errorf("asked: %v, error %v", asked, err)
	}
}

func TestConfigsOfSources(t *testing.T) {
	for text, err := range map[string]error{
		"an http or https URL is required": second(source.NewHTTP(source.HTTPConfig{URL: "ftp://x"})),
		"credentials belong in Header":     second(source.NewHTTP(source.HTTPConfig{URL: "http://a:b@x"})),
		"negative Poll":                    second(source.NewHTTP(source.HTTPConfig{URL: "http://x", Poll: -1})),
		"a Reader is required":             second(source.NewReader(source.ReaderConfig{})),
		"NodeName":                         second(source.NewReader(source.ReaderConfig{Reader: strings.NewReader(""), NodeName: "_"})),
		"a channel of Objects is required": second(source.NewChannel(source.ChannelConfig{})),
		"no part":                          second(source.NewMerge()),
		"a Name and a Source are required": second(source.NewMerge(source.Part{})),
	} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want %s", err, text)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// breaks gives its text and then an error.
type breaks struct{ text io.Reader }

func (b breaks) Read(p []byte) (int, error) {
	if n, err := b.text.Read(p); err == nil {
		return n, nil
	}
	return 0, errors.New("cable cut")
}

func TestReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run := func(r io.Reader) func() (source.Set, int) {
			s, err := source.NewReader(source.ReaderConfig{Reader: r, NodeName: "n1"})
			if err != nil {
				t.Fatal(err)
			}
			return follow(t, s)
		}
		in, out := io.Pipe()
		now := run(in)
		_, _ = io.WriteString(out, podYAML("a", ""))
		if _, count := now(); count != 0 {
			t.Fatal("spoke before the end of the stream")
		}
		_, _ = io.WriteString(out, "---\n"+podYAML("b", ""))
		_ = out.Close()
		if set, count := now(); count != 1 || podNames(set) != "a-n1 b-n1" || set.Pods[0].Annotations[source.AnnotationFile] != "stdin" {
			t.Fatalf("got %+v", set)
		}
		if set, _ := run(breaks{strings.NewReader(podYAML("a", ""))})(); len(set.Pods) != 0 || len(set.Waiting) != 1 ||
			!strings.Contains(set.Problems[0].Error(), "stdin: read: cable cut") {
			t.Fatalf("half a stream: %+v", set)
		}
		if set, _ := run(strings.NewReader(strings.Repeat("#", manifest.MaxSize+1)))(); len(set.Problems) != 1 {
			t.Fatalf("too much: %+v", set)
		}
		// Ends while the stream does not.
		in, _ = io.Pipe()
		run(in)
	})
}

func channelPod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app:1"}}}}
}

func TestChannelAndMerge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		objects := map[string]chan manifest.Objects{"first": make(chan manifest.Objects), "second": make(chan manifest.Objects)}
		var parts []source.Part
		for _, name := range []string{"first", "second"} {
			s, err := source.NewChannel(source.ChannelConfig{Objects: objects[name], Name: name})
			if err != nil {
				t.Fatal(err)
			}
			parts = append(parts, source.Part{Name: name, Source: s})
		}
		merge, err := source.NewMerge(parts...)
		if err != nil {
			t.Fatal(err)
		}
		now := follow(t, merge)
		if _, count := now(); count != 0 {
			t.Fatal("spoke before anyone else did")
		}
		objects["second"] <- manifest.Objects{Pods: []*corev1.Pod{channelPod("b"), channelPod("c")}}
		set, _ := now()
		if podNames(set) != "b c" || strings.Join(set.Waiting, " ") != "first" || set.Pods[0].Namespace != "default" || set.Pods[0].UID == "" {
			t.Fatalf("one has spoken: %+v", set)
		}
		objects["first"] <- manifest.Objects{Pods: []*corev1.Pod{channelPod("a"), channelPod("b")}}
		set, _ = now()
		if podNames(set) != "a b c" || len(set.Waiting) != 0 || len(set.Problems) != 1 || !errors.Is(set.Problems[0], source.ErrDuplicate) ||
			set.Pods[1].Annotations[source.AnnotationFile] != "first" {
			t.Fatalf("both have spoken: %+v", set)
		}
		objects["first"] <- manifest.Objects{}
		if set, _ = now(); podNames(set) != "b c" || len(set.Problems) != 0 {
			t.Fatalf("the first wants nothing: %+v", set)
		}
		close(objects["second"])
		if set, _ = now(); podNames(set) != "b c" {
			t.Fatalf("closed: %+v", set)
		}
	})
}

func TestDirectoryThatCannotBeReadHasNotSpoken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir, err := source.New(source.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if set := dir.Read(); len(set.Waiting) != 1 || len(set.Problems) != 1 {
		t.Errorf("got %+v", set)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if set := dir.Read(); len(set.Waiting) != 0 {
		t.Errorf("a directory that is not there wants nothing: %+v", set)
	}
}

type failing struct{}

func (failing) Run(context.Context, func(source.Set)) error { return errors.New("out of order") }

func TestMergeEndsWithAFailingPart(t *testing.T) {
	idle, err := source.NewChannel(source.ChannelConfig{Objects: make(chan manifest.Objects)})
	if err != nil {
		t.Fatal(err)
	}
	merge, err := source.NewMerge(source.Part{Name: "idle", Source: idle}, source.Part{Name: "bad", Source: failing{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := merge.Run(t.Context(), func(source.Set) {}); err == nil || err.Error() != "source bad: out of order" {
		t.Errorf("got %v", err)
	}
}
