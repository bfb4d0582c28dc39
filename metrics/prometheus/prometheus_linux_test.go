package prometheus_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"sort"
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	client "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/nodekit/nodekit/metrics"
	"github.com/nodekit/nodekit/metrics/prometheus"
)

func TestPrometheus(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "metrics/prometheus")
}

type fixed []metrics.Target

func (f fixed) Targets(context.Context) ([]metrics.Target, error) { return f, nil }

func meter() *metrics.Meter {
	m, err := metrics.New(metrics.Config{
		CgroupRoot: "../testdata/v2/cgroup", ProcRoot: "../testdata/v2/proc", SysRoot: "../testdata/v2/sys",
		Targets: fixed{
			{Cgroup: "/kubepods/pod1", Namespace: "default", Pod: "web", PodUID: "u1", PID: 101},
			{Cgroup: "/kubepods/pod1/c1", Namespace: "default", Pod: "web", PodUID: "u1", Container: "app", ID: "c1", Image: `a"b\c`},
			{Cgroup: "/kubepods/pod1/c2", Namespace: "default", Pod: "web", PodUID: "u1", Container: "sidecar", ID: "c2"},
		},
	})
	if err != nil {
		panic(err)
	}
	return m
}

// scrape serves a registry with the collector and returns the text.
func scrape(cfg prometheus.Config) (int, string) {
	GinkgoHelper()
	c, err := prometheus.New(cfg)
	Expect(err).NotTo(HaveOccurred())
	registry := client.NewPedanticRegistry()
	Expect(registry.Register(c)).To(Succeed())
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return answer.Code, answer.Body.String()
}

// canonical makes two texts comparable that write the same series in another
// order of families and labels, or a number another way.
func canonical(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, "container_last_seen") {
			lines = append(lines, strings.Split(line, "{")[0])
			continue
		}
		var value float64
		at := strings.LastIndexByte(line, ' ')
		_, err := fmt.Sscan(line[at:], &value)
		Expect(err).NotTo(HaveOccurred())
		name, labels, _ := strings.Cut(line[:at], "{")
		parts := strings.Split(strings.TrimSuffix(labels, "}"), ",")
		sort.Strings(parts)
		lines = append(lines, fmt.Sprintf("%s{%s} %v", name, strings.Join(parts, ","), value))
	}
	sort.Strings(lines)
	return lines
}

var _ = Describe("Collector", func() {
	It("gives what WriteCAdvisor writes", func() {
		m := meter()
		var text strings.Builder
		Expect(m.WriteCAdvisor(context.Background(), &text)).To(Succeed())
		code, got := scrape(prometheus.Config{Meter: m})
		Expect(code).To(Equal(http.StatusOK))
		Expect(canonical(got)).To(Equal(canonical(text.String())))
	})

	It("puts times on what is read, if asked for", func() {
		_, got := scrape(prometheus.Config{Meter: meter(), Timestamps: true})
		Expect(got).To(MatchRegexp(`container_memory_rss\{[^}]*\} \S+ \d{13}\n`))
		Expect(got).To(MatchRegexp(`container_scrape_error 0\n`))
	})

	It("has the meter's own counters, under names that promlint likes", func() {
		m := meter()
		_, err := m.Samples(context.Background(), 0)
		Expect(err).NotTo(HaveOccurred())
		_, got := scrape(prometheus.Config{Meter: m, Own: true})
		Expect(got).To(And(ContainSubstring("nodekit_metrics_rounds_total 1\n"),
			ContainSubstring("nodekit_metrics_targets 3\n"), ContainSubstring("nodekit_metrics_read_errors_total 0\n")))
		problems, err := promlint.New(strings.NewReader(got)).Lint()
		Expect(err).NotTo(HaveOccurred())
		Expect(problems).To(BeEmpty())
	})

	It("has no family that FIGURES.md does not tell of", func() {
		document, err := os.ReadFile("../FIGURES.md")
		Expect(err).NotTo(HaveOccurred())
		_, text := scrape(prometheus.Config{Meter: meter(), Own: true})
		families := regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`).FindAllStringSubmatch(text, -1)
		Expect(len(families)).To(Equal(strings.Count(string(document), "\n| `nodekit_metrics_")))
		for _, f := range families {
			Expect(string(document)).To(ContainSubstring("\n| `%s` | %s | ", f[1], f[2]))
		}
	})

	It("fails the scrape if there is nothing to tell", func() {
		code, text := scrape(prometheus.Config{Meter: broken{}})
		Expect(code).To(Equal(http.StatusInternalServerError))
		Expect(text).To(ContainSubstring("no hierarchy"))
	})

	It("reports all bad fields together", func() {
		_, err := prometheus.New(prometheus.Config{Timeout: -1})
		Expect(err).To(MatchError(And(ContainSubstring("Meter"), ContainSubstring("Timeout"))))
	})
})

type broken struct{}

func (broken) EachSeries(context.Context, func(*metrics.Series)) error {
	return errors.New("no hierarchy")
}
func (broken) Stats() metrics.Stats { return metrics.Stats{} }

func Example() {
	c, err := prometheus.New(prometheus.Config{Meter: meter()})
	if err != nil {
		log.Fatal(err)
	}
	registry := client.NewRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "container_memory_rss" {
			fmt.Fprintln(os.Stdout, f.GetName(), f.GetType(), len(f.GetMetric()))
		}
	}
	// Output: container_memory_rss GAUGE 4
}
