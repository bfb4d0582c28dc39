package statusserver_test

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/statusserver"
)

var _ = Describe("Metrics", func() {
	big := strings.Repeat("a_metric{label=\"value\"} 1\n", 20_000)
	writer := func(text string, err error) statusserver.MetricsFunc {
		return func(_ context.Context, w io.Writer) error {
			for part := range strings.Lines(text) {
				if _, err := io.WriteString(w, part); err != nil {
					return err
				}
			}
			return err
		}
	}
	get := func(cfg statusserver.Config, path string, header map[string]string) (*http.Response, string, error) {
		GinkgoHelper()
		request, err := http.NewRequest(http.MethodGet, serveOne(cfg)+path, nil)
		Expect(err).NotTo(HaveOccurred())
		for name, value := range header {
			request.Header.Set(name, value)
		}
		client := &http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}
		response, err := client.Do(request)
		Expect(err).NotTo(HaveOccurred())
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return response, string(body), err
	}

	It("come in pieces, whole", func() {
		response, body, err := get(statusserver.Config{Metrics: writer(big, nil)}, "/metrics", nil)
		Expect(err).NotTo(HaveOccurred())
		Expect(response.ContentLength).To(Equal(int64(-1)))
		Expect(body == big).To(BeTrue(), "%d bytes of %d", len(body), len(big))
	})

	It("come packed to those who can unpack", func() {
		response, body, err := get(statusserver.Config{Metrics: writer(big, nil)}, "/metrics", map[string]string{"Accept-Encoding": "gzip"})
		Expect(err).NotTo(HaveOccurred())
		Expect(response.Header.Get("Content-Encoding")).To(Equal("gzip"))
		z, err := gzip.NewReader(strings.NewReader(body))
		Expect(err).NotTo(HaveOccurred())
		plain, err := io.ReadAll(z)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(plain) == big).To(BeTrue())
	})

	It("are an error if they fail before the first piece went out", func() {
		response, body, err := get(statusserver.Config{Metrics: writer("a 1\n", errors.New("no hierarchy"))}, "/metrics", nil)
		Expect(err).NotTo(HaveOccurred())
		Expect(response.StatusCode).To(Equal(http.StatusInternalServerError))
		Expect(body).To(And(ContainSubstring("no hierarchy"), Not(ContainSubstring("a 1"))))
	})

	DescribeTable("are cut off if they fail later, so that the half is not taken for the whole", func(encoding string) {
		_, _, err := get(statusserver.Config{Metrics: writer(big, errors.New("gone"))}, "/metrics", map[string]string{"Accept-Encoding": encoding})
		Expect(err).To(MatchError(io.ErrUnexpectedEOF))
	}, Entry("plain", "identity"), Entry("packed", "gzip"))

	DescribeTable("are in the format that is asked for", func(accept string, open bool) {
		cfg := statusserver.Config{Metrics: writer("text\n", nil), OpenMetrics: map[string]statusserver.MetricsWriter{"/metrics": writer("open\n# EOF\n", nil)}}
		response, body, err := get(cfg, "/metrics", map[string]string{"Accept": accept})
		Expect(err).NotTo(HaveOccurred())
		if open {
			Expect(response.Header.Get("Content-Type")).To(Equal("application/openmetrics-text; version=1.0.0; charset=utf-8"))
			Expect(body).To(Equal("open\n# EOF\n"))
		} else {
			Expect(response.Header.Get("Content-Type")).To(Equal("text/plain; version=0.0.4; charset=utf-8"))
			Expect(body).To(Equal("text\n"))
		}
		Expect(response.Header.Values("Vary")).To(ContainElement("Accept"))
	},
		Entry("nothing", "", false),
		Entry("anything", "*/*", false),
		Entry("Prometheus 3", "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2", true),
		Entry("text first", "text/plain;version=0.0.4,application/openmetrics-text;q=0.5", false),
		Entry("a version that there is not", "application/openmetrics-text;version=2.0.0", false),
		Entry("refused", "application/openmetrics-text;q=0", false),
		Entry("nonsense", "application/openmetrics-text;q=NaN, ;;,", false),
	)

	It("refuse an OpenMetrics writer that nothing would ask", func() {
		_, err := statusserver.New(statusserver.Config{OpenMetrics: map[string]statusserver.MetricsWriter{"/metrics": writer("", nil), "/x": writer("", nil)}})
		Expect(err).To(MatchError(And(ContainSubstring("/metrics has to have"), ContainSubstring(`"/x" is not`))))
	})
})

type heavy struct {
	Burdens []string `json:"burdens"`
}

func (h heavy) String() string { return fmt.Sprint("heavy: ", h.Burdens) }

var _ = Describe("/burden", func() {
	It("is text or JSON", func() {
		cfg := statusserver.Config{Burden: statusserver.BurdenFunc(func(context.Context) (fmt.Stringer, error) { return heavy{[]string{"a"}}, nil })}
		base := serveOne(cfg)
		for path, want := range map[string]string{"/burden": "{\"burdens\":[\"a\"]}\n", "/burden?format=text": "heavy: [a]\n"} {
			response, err := http.Get(base + path)
			Expect(err).NotTo(HaveOccurred())
			body, err := io.ReadAll(response.Body)
			_ = response.Body.Close()
			Expect(err).NotTo(HaveOccurred())
			Expect(string(body)).To(Equal(want))
		}
	})
})
