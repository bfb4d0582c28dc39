package discovery_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"go.uber.org/goleak"

	"github.com/nodekit/nodekit/metrics"
	"github.com/nodekit/nodekit/metrics/discovery"
)

// churned is how many cgroups come and go; `make churn` has 10,000.
func churned() int {
	GinkgoHelper()
	text := os.Getenv("NODEKIT_CHURN")
	if text == "" {
		return 400
	}
	n, err := strconv.Atoi(text)
	Expect(err).NotTo(HaveOccurred())
	return n
}

var _ = Describe("Churn", Label("kernel"), func() {
	DescribeTable("leaves nothing behind, and what stays without a gap", func(method discovery.Method) {
		t := kernelTree()
		needs(method)
		before := goleak.IgnoreCurrent()
		files := openFiles()
		steady := []string{"steady-1", "steady-2"}
		for _, name := range steady {
			t.make(name)
			t.burnIn(name)
		}
		var meter *metrics.Meter
		found, err := discovery.New(discovery.Config{Below: t.below, First: method, Rescan: time.Hour,
			OnChange: func(emptied ...string) { meter.Refresh(emptied...) }})
		Expect(err).NotTo(HaveOccurred())
		meter, err = metrics.New(metrics.Config{Targets: found, Interval: 20 * time.Millisecond, History: 50, Descriptors: 100, Exited: 10})
		Expect(err).NotTo(HaveOccurred())
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 2)
		go func() { done <- found.Run(ctx) }()
		go func() { done <- meter.Run(ctx) }()
		ended := false
		end := func() {
			if !ended {
				ended = true
				cancel()
				Eventually(done, patience).Should(Receive(BeNil()))
				Eventually(done, patience).Should(Receive(BeNil()))
			}
		}
		DeferCleanup(end)
		Eventually(meter.Stats, patience).Should(HaveField("Targets", len(steady)))
		watches := found.Stats().Watches
		descriptors := meter.Stats().Descriptors

		last := map[string]uint64{}
		// check looks at what stays: every point knows its CPU time, none less than
		// the one before, and no sample has a gap but for what this kernel lacks.
		check := func() {
			GinkgoHelper()
			for _, name := range steady {
				cgroup := t.below + "/" + name
				points, err := meter.History(cgroup)
				Expect(err).NotTo(HaveOccurred())
				previous := uint64(0)
				for i := range points {
					used, ok := points[i].Get(metrics.CPUUsage)
					Expect(ok).To(BeTrue(), "a gap in %s", name)
					Expect(used).To(BeNumerically(">=", previous))
					previous = used
				}
				Expect(previous).To(BeNumerically(">=", last[name]))
				last[name] = previous
				s, err := meter.Sample(ctx, cgroup, time.Hour)
				Expect(err).NotTo(HaveOccurred())
				Expect(s.Gone).To(BeFalse())
				for _, gap := range s.Gaps {
					Expect(gap.Err).To(MatchError(metrics.ErrAbsent), gap.File)
				}
			}
		}
		const width = 40
		total, seen := churned(), uint64(0)
		for wave := 0; wave < total; wave += width {
			for i := range width {
				t.make(fmt.Sprintf("w%d", wave+i))
			}
			if wave%(10*width) == 0 { // of each tenth wave all are metered
				Eventually(meter.Stats, patience).Should(HaveField("Targets", BeNumerically(">=", len(steady)+width)))
				Expect(meter.Stats().Descriptors).To(BeNumerically("<=", 100))
				seen += width
			}
			for i := range width {
				t.remove(fmt.Sprintf("w%d", wave+i))
			}
			check()
		}

		Eventually(meter.Stats, patience).Should(And(HaveField("Targets", len(steady)), HaveField("Gone", 0)))
		Eventually(found.Stats, patience).Should(And(HaveField("Cgroups", len(steady)), HaveField("Watches", watches), HaveField("Ignored", 0)))
		Expect(found.Stats().Events).To(BeNumerically(">=", 2*seen))
		// The budget lasts for more again, so more are kept than in the churn.
		Eventually(func() int { return meter.Stats().Descriptors }, patience).Should(BeNumerically("<=", descriptors))
		Expect(len(meter.Exited())).To(BeNumerically("<=", 10))
		var text strings.Builder
		Expect(meter.WriteCAdvisor(ctx, &text)).To(Succeed())
		Expect(strings.Count(text.String(), "\ncontainer_memory_rss{")).To(Equal(len(steady) + 1)) // and the node
		check()
		end()
		Expect(goleak.Find(before)).To(Succeed())
		Eventually(openFiles, patience).Should(BeNumerically("<=", files+3*len(steady))) // pipes of the workers
	},
		Entry("with fanotify", discovery.Fanotify),
		Entry("with inotify", discovery.Inotify),
	)
})

// burnIn starts a process that works a little all the time.
func (t *tree) burnIn(name string) {
	GinkgoHelper()
	script := ""
	for _, root := range t.roots {
		script += "echo $$ > " + filepath.Join(root, t.below, name, "cgroup.procs") + " && "
	}
	cmd := exec.Command("/bin/sh", "-c", script+"while sleep 0.05; do :; done")
	Expect(cmd.Start()).To(Succeed())
	DeferCleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}

func openFiles() int {
	GinkgoHelper()
	entries, err := os.ReadDir("/proc/self/fd")
	Expect(err).NotTo(HaveOccurred())
	return len(entries)
}
