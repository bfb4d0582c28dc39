package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	testclock "k8s.io/utils/clock/testing"

	"github.com/nodekit/nodekit/metrics"
)

var _ = Describe("Exposition", func() {
	It("is the kubelet's /metrics/cadvisor, to the byte", func() {
		expectGolden("cadvisor.golden", cadvisorText(newTree().meter()))
	})

	It("has less in lean mode, and times if asked for", func() {
		t := newTree()
		cfg := t.config()
		cfg.Labels, cfg.Timestamps = metrics.Lean, true
		m, err := metrics.New(cfg)
		Expect(err).NotTo(HaveOccurred())
		expectGolden("cadvisor-lean.golden", cadvisorText(m))
	})

	It("is the kubelet's /metrics/resource, to the byte", func() {
		expectGolden("resource.golden", resourceText(newTree().meter()))
	})

	// onV1 meters the recorded hybrid machine.
	onV1 := func(labels metrics.Labels) *metrics.Meter {
		GinkgoHelper()
		to := &targets{}
		to.set(podTarget, appTarget)
		m, err := metrics.New(metrics.Config{Targets: to, Clock: testclock.NewFakeClock(epoch), Labels: labels,
			CgroupRoot: "testdata/v1", ProcRoot: "testdata/v2/proc", SysRoot: "testdata/v2/sys"})
		Expect(err).NotTo(HaveOccurred())
		return m
	}

	It("is the kubelet's /metrics/resource on v1 too", func() {
		expectGolden("resource-v1.golden", resourceText(onV1(metrics.Compat)))
	})

	It("is OpenMetrics where that is asked for, with the same series", func() {
		t := newTree()
		cfg := t.config()
		cfg.Timestamps = true
		m, err := metrics.New(cfg)
		Expect(err).NotTo(HaveOccurred())
		var open strings.Builder
		Expect(m.WriteCAdvisorOpenMetrics(context.Background(), &open)).To(Succeed())
		expectGolden("cadvisor.openmetrics.golden", open.String())
		expectOpenMetrics(open.String())
		// But for the unit of time, series are those of the text format.
		series := func(text string) (lines []string) {
			for line := range strings.Lines(text) {
				if !strings.HasPrefix(line, "#") {
					lines = append(lines, timeOf.ReplaceAllString(line, " "))
				}
			}
			return lines
		}
		Expect(series(open.String())).To(Equal(series(cadvisorText(m))))
		open.Reset()
		Expect(m.WriteResourceOpenMetrics(context.Background(), &open)).To(Succeed())
		expectOpenMetrics(open.String())
	})

	DescribeTable("passes promlint but for names that the kubelet chose", func(text func() string) {
		problems, err := promlint.New(strings.NewReader(text())).Lint()
		Expect(err).NotTo(HaveOccurred())
		for _, p := range problems {
			Expect(lintReasons).To(HaveKey(p.Metric), p.Text)
			Expect(lintReasons[p.Metric]).NotTo(BeEmpty())
		}
	},
		Entry("cadvisor", func() string { return cadvisorText(newTree().meter()) }),
		Entry("cadvisor on v1", func() string { return cadvisorText(onV1(metrics.Compat)) }),
		Entry("lean on v1", func() string { return cadvisorText(onV1(metrics.Lean)) }),
		Entry("resource", func() string { return resourceText(newTree().meter()) }),
		Entry("resource on v1", func() string { return resourceText(onV1(metrics.Compat)) }),
	)

	It("escapes what a label must not have", func() {
		t := newTree()
		odd := sidecarTarget
		odd.Image = "a\"b\\c\nd"
		t.to.set(odd)
		Expect(cadvisorText(t.meter())).To(ContainSubstring(`image="a\"b\\c\nd",name="c2"`))
	})

	It("has each series once while a container and its successor both have a cgroup", func() {
		t := newTree()
		again := appTarget
		again.Cgroup, again.ID, again.StartedAt = "/kubepods/pod1/c9", "c9", epoch
		Expect(copyDir(t.dir+"/cgroup/kubepods/pod1/c1", t.dir+"/cgroup/kubepods/pod1/c9")).To(Succeed())
		t.burn(again.Cgroup, "77000000")
		t.to.set(podTarget, appTarget, again)
		cfg := t.config()
		cfg.Labels = metrics.Lean
		lean, err := metrics.New(cfg)
		Expect(err).NotTo(HaveOccurred())
		for _, text := range []string{cadvisorText(t.meter()), cadvisorText(lean), resourceText(t.meter())} {
			expectUnique(text)
		}
		Expect(resourceText(t.meter())).To(ContainSubstring(`container_cpu_usage_seconds_total{container="app",namespace="default",pod="web"} 77 `))
	})

	It("has the node's file systems, each device once", func() {
		t := newTree()
		t.write("proc/self/mountinfo", fmt.Sprintf("23 1 254:0 / %s rw,relatime shared:1 - ext4 /dev/sda1 rw\n"+
			"24 1 254:0 / %s/proc rw - ext4 /dev/sda1 rw\n25 1 0:3 / %s rw - tmpfs tmpfs rw\n", t.dir, t.dir, t.dir))
		m := t.meter()
		text := cadvisorText(m)
		s, err := m.Sample(context.Background(), "/", time.Hour)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Filesystems).To(HaveLen(1))
		f := s.Filesystems[0]
		for family, want := range map[string]uint64{"usage_bytes": f.Used, "limit_bytes": f.Capacity, "inodes_free": f.InodesFree, "inodes_total": f.Inodes} {
			Expect(text).To(ContainSubstring(fmt.Sprintf("\ncontainer_fs_%s{container=\"\",id=\"/\",image=\"\",name=\"\",namespace=\"\",pod=\"\",device=\"/dev/sda1\"} %d\n", family, want)))
		}
	})

	It("has what a container has written, where somebody tells", func() {
		t := newTree()
		cfg := t.config()
		cfg.OnDisk = func(one metrics.Target) (written, logs metrics.DiskUse) {
			if one.Container == "app" {
				written = metrics.DiskUse{Device: "/dev/sda1", Bytes: 12345, Inodes: 6, At: epoch}
			}
			return written, logs
		}
		m, err := metrics.New(cfg)
		Expect(err).NotTo(HaveOccurred())
		text := cadvisorText(m)
		Expect(text).To(ContainSubstring(`container_fs_usage_bytes{container="app",id="/kubepods/pod1/c1",image="registry.local/web:1",name="c1",namespace="default",pod="web",device="/dev/sda1"} 12345`))
		Expect(strings.Count(text, "\ncontainer_fs_usage_bytes{")).To(Equal(1))
	})

	It("leaves out what is not known", func() {
		t := newTree()
		t.write("cgroup/kubepods/pod1/c1/cpu.stat", "garbage")
		text := cadvisorText(t.meter())
		Expect(text).NotTo(MatchRegexp(`container_cpu_\w+_total\{container="app"`))
		Expect(text).To(ContainSubstring(`container_memory_rss{container="app"`))
	})

	It("gives the same series one by one", func() {
		m := newTree().meter()
		var lines []string
		Expect(m.EachSeries(context.Background(), func(s *metrics.Series) {
			labels := make([]string, 0, len(s.Labels))
			for _, l := range s.Labels {
				labels = append(labels, l.Name)
			}
			lines = append(lines, s.Name+" "+strings.Join(labels, ","))
		})).To(Succeed())
		want := 0
		for line := range strings.Lines(cadvisorText(m)) {
			if !strings.HasPrefix(line, "#") {
				want++
			}
		}
		Expect(lines).To(HaveLen(want))
		Expect(lines).To(ContainElement("container_memory_failures_total container,id,image,name,namespace,pod,failure_type,scope"))
	})

	It("stops at a reader that has gone", func() {
		broken := errors.New("connection reset")
		Expect(newTree().meter().WriteCAdvisor(context.Background(), failingWriter{broken})).To(MatchError(broken))
	})

	It("makes a round when there was none of late", func() {
		t := newTree()
		m := t.meter()
		cadvisorText(m)
		t.clock.Step(20 * time.Second)
		cadvisorText(m)
		Expect(m.Stats().Rounds).To(Equal(uint64(1)))
		t.clock.Step(time.Second)
		cadvisorText(m)
		Expect(m.Stats().Rounds).To(Equal(uint64(2)))
	})
})

var timeOf = regexp.MustCompile(` 1800000000(000)?\n$`)

// expectOpenMetrics checks what the format demands beyond the text format's:
// samples of a counter, and no others, end in _total, and the text in # EOF.
func expectOpenMetrics(text string) {
	GinkgoHelper()
	Expect(text).To(HaveSuffix("\n# EOF\n"))
	family, kind := "", ""
	for line := range strings.Lines(strings.TrimSuffix(text, "# EOF\n")) {
		words := strings.Fields(line)
		switch {
		case words[0] == "#" && words[1] == "TYPE":
			Expect(words[2]).To(Equal(family), "TYPE follows HELP")
			kind = words[3]
		case words[0] == "#":
			family = words[2]
		default:
			name, _, _ := strings.Cut(words[0], "{")
			if kind == "counter" {
				Expect(name).To(Equal(family + "_total"))
			} else {
				Expect(name).To(Equal(family))
				Expect(kind).To(Or(Equal("gauge"), Equal("unknown")))
			}
		}
	}
}

// lintReasons says why a name stays though promlint objects.
var lintReasons = map[string]string{
	"container_memory_failcnt":  "cAdvisor's name for a counter; alerts know it",
	"container_hugetlb_failcnt": "cAdvisor's name for a counter",
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

var seriesName = regexp.MustCompile(`(?m)^[a-z_]+(\{[^\n]*\})? `)

func expectUnique(text string) {
	GinkgoHelper()
	seen := map[string]bool{}
	for _, name := range seriesName.FindAllString(text, -1) {
		Expect(seen).NotTo(HaveKey(name))
		seen[name] = true
	}
	Expect(seen).NotTo(BeEmpty())
}

var lastSeen = regexp.MustCompile(`(?m)^(container_last_seen\{[^\n]*\}) \d+$`)

// withoutLastSeen takes out the time of the scrape.
func withoutLastSeen(text string) string { return lastSeen.ReplaceAllString(text, "$1 NOW") }
