package metrics_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	testclock "k8s.io/utils/clock/testing"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/metrics"
)

// The recorded v1 machine, where a file is changed without what the kernel would
// change with it: only so can be seen that it was not read.
var _ = Describe("a file that cannot have changed", func() {
	ctx := context.Background()
	cgroup := appTarget.Cgroup

	// begin meters a copy of the machine, with kept descriptors or with openat.
	begin := func(descriptors int) (m *metrics.Meter, write func(file, text string), clock *testclock.FakeClock) {
		GinkgoHelper()
		dir := GinkgoT().TempDir()
		Expect(os.CopyFS(dir, os.DirFS("testdata"))).To(Succeed())
		to := &targets{}
		to.set(appTarget)
		clock = testclock.NewFakeClock(epoch)
		m = started(metrics.Config{
			Targets: to, Clock: clock, Interval: time.Hour, LimitsInterval: 24 * time.Hour, Descriptors: descriptors,
			CgroupRoot: dir + "/v1", ProcRoot: dir + "/v2/proc", SysRoot: dir + "/v2/sys",
		})
		return m, func(file, text string) {
			GinkgoHelper()
			controller, name := filepath.Split(file)
			Expect(os.WriteFile(filepath.Join(dir, "v1", controller, cgroup, name), []byte(text), 0o644)).To(Succeed())
			clock.Step(time.Second) // what was read is old now
		}, clock
	}
	const (
		moved = "8:0 Read 777\n8:0 Write 8192\n8:0 Sync 0\n8:0 Async 3\n8:0 Discard 0\n8:0 Total 3\nTotal 3\n"
	)

	It("is user and system time, until the usage grows", func() {
		m, write, _ := begin(0)
		Expect(figure(m, cgroup, metrics.CPUUser, 0)).To(Equal(uint64(1200000000)))
		spared := m.Stats().Spared
		write("cpuacct/cpuacct.stat", "user 121\nsystem 31\n")
		Expect(figure(m, cgroup, metrics.CPUUser, 0)).To(Equal(uint64(1200000000)))
		Expect(figure(m, cgroup, metrics.CPUSystem, time.Hour)).To(Equal(uint64(300000000)))
		Expect(m.Stats().Spared).To(BeNumerically(">", spared))
		write("cpuacct/cpuacct.usage", "1500001235\n")
		Expect(figure(m, cgroup, metrics.CPUUser, 0)).To(Equal(uint64(1210000000)))
		Expect(figure(m, cgroup, metrics.CPUSystem, time.Hour)).To(Equal(uint64(310000000)))
	})

	It("is read again when the reading before it failed", func() {
		m, write, _ := begin(0)
		write("cpuacct/cpuacct.stat", "user 12")
		write("cpuacct/cpuacct.usage", "1500001235\n")
		s, err := m.Sample(ctx, cgroup, 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Gaps).To(ConsistOf(HaveField("File", "cpuacct.stat")))
		write("cpuacct/cpuacct.stat", "user 121\nsystem 31\n")
		Expect(figure(m, cgroup, metrics.CPUUser, 0)).To(Equal(uint64(1210000000)))
	})

	It("is what a quota throttles, where there is none", func() {
		m, write, clock := begin(0)
		Expect(figure(m, cgroup, metrics.CFSPeriods, 0)).To(Equal(uint64(40)))
		write("cpu/cpu.stat", "nr_periods 41\nnr_throttled 8\nthrottled_time 5\n")
		Expect(figure(m, cgroup, metrics.CFSPeriods, 0)).To(Equal(uint64(40)))
		write("cpu/cpu.cfs_quota_us", "50000\n")
		clock.Step(24 * time.Hour)
		Expect(figure(m, cgroup, metrics.CFSPeriods, 0)).To(Equal(uint64(41))) // with the limits
		write("cpu/cpu.stat", "nr_periods 42\nnr_throttled 8\nthrottled_time 5\n")
		Expect(figure(m, cgroup, metrics.CFSPeriods, 0)).To(Equal(uint64(42))) // and each time, with a quota
	})

	It("is the bytes of disks, until an operation is counted or CPU time is used", func() {
		m, write, _ := begin(0)
		Expect(figure(m, cgroup, metrics.IOReadBytes, 0)).To(Equal(uint64(4096)))
		write("blkio/blkio.throttle.io_service_bytes_recursive", moved)
		s, err := m.Sample(ctx, cgroup, 0)
		Expect(err).NotTo(HaveOccurred())
		bytes, ok := s.Devices[0].Bytes(metrics.OpRead)
		Expect([]any{bytes, ok}).To(Equal([]any{uint64(4096), true}))
		Expect(figure(m, cgroup, metrics.IOReadBytes, time.Hour)).To(Equal(uint64(4096)))
		write("cpuacct/cpuacct.usage", "1500001235\n")
		Expect(figure(m, cgroup, metrics.IOReadBytes, 0)).To(Equal(uint64(777)))

		before := "8:0 Read 1\n8:0 Write 2\n8:0 Sync 0\n8:0 Async 3\n8:0 Discard 0\n8:0 Total 3\nTotal 3\n"
		write("blkio/blkio.throttle.io_service_bytes_recursive", before)
		Expect(figure(m, cgroup, metrics.IOReadBytes, 0)).To(Equal(uint64(777)))
		write("blkio/blkio.throttle.io_serviced_recursive", "8:0 Read 9\nTotal 9\n")
		s, err = m.Sample(ctx, cgroup, 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(figure(m, cgroup, metrics.IOReadBytes, time.Hour)).To(Equal(uint64(1)))
		Expect(figure(m, cgroup, metrics.IOReads, time.Hour)).To(Equal(uint64(9)))
		_, ok = s.Devices[0].Count(metrics.OpWrite)
		Expect(ok).To(BeFalse()) // what the text no longer has is no figure
	})

	It("is read all the same without a kept descriptor, which alone proves the cgroup", func() {
		m, write, _ := begin(-1)
		Expect(figure(m, cgroup, metrics.IOReadBytes, 0)).To(Equal(uint64(4096)))
		write("blkio/blkio.throttle.io_service_bytes_recursive", moved)
		Expect(figure(m, cgroup, metrics.IOReadBytes, 0)).To(Equal(uint64(777)))
		s, err := m.Sample(ctx, cgroup, 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Devices).To(HaveLen(1))
	})
})

// And on this machine: what a Meter says after any amount of work and rest is
// what the file says, whether it was read or not.
var _ = Describe("a file of the kernel that was not read", Label("kernel"), func() {
	It("says what it would have said", func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root, kerneltest.Cgroup)
		ctx := context.Background()
		cg := newCgroup(uniquePath())
		w := startWorker(cg, false)
		to := &targets{}
		to.set(metrics.Target{Cgroup: cg.path})
		m := started(metrics.Config{Targets: to, Interval: time.Hour, LimitsInterval: time.Hour})

		// times reads usage, user and system time in ns, past the meter.
		times := func() [3]uint64 {
			GinkgoHelper()
			if dir := cg.dirOf("cpuacct.usage"); dir != "" {
				ticks := numbers(dir + "/cpuacct.stat")
				return [3]uint64{numbers(dir + "/cpuacct.usage")[""], ticks["user"] * 1e7, ticks["system"] * 1e7}
			}
			us := numbers(cg.dirOf("cpu.stat") + "/cpu.stat")
			return [3]uint64{us["usage_usec"] * 1000, us["user_usec"] * 1000, us["system_usec"] * 1000}
		}
		compared := 0
		for i := range 40 {
			w.do(fmt.Sprint("burn ", i*i*10_000)) // 0 to 15 ms
			for range 3 {                         // at rest
				before := times()
				s, err := m.Sample(ctx, cg.path, 0)
				Expect(err).NotTo(HaveOccurred())
				if after := times(); after != before {
					continue // it was not at rest yet
				}
				for at, f := range []metrics.Field{metrics.CPUUsage, metrics.CPUUser, metrics.CPUSystem} {
					got, ok := s.Get(f)
					Expect(ok).To(BeTrue())
					Expect(got).To(Equal(before[at]), "field %d", f)
				}
				compared++
			}
		}
		AddReportEntry("compared", fmt.Sprintf("%d of 120 samples; %d files read, %d spared", compared, m.Stats().Reads, m.Stats().Spared))
		Expect(compared).To(BeNumerically(">", 0))
		if cg.dirOf("cpuacct.usage") != "" {
			Expect(m.Stats().Spared).To(BeNumerically(">", 0))
		}
	})
})

// dirOf is the directory that has the file, or empty.
func (c *cgroup) dirOf(file string) string {
	for _, dir := range c.dirs() {
		if _, err := os.Stat(filepath.Join(dir, file)); err == nil {
			return dir
		}
	}
	return ""
}

// numbers reads lines of a key and a number; a number alone has an empty key.
func numbers(path string) map[string]uint64 {
	GinkgoHelper()
	text, err := os.ReadFile(path)
	Expect(err).NotTo(HaveOccurred())
	all := map[string]uint64{}
	for line := range strings.Lines(string(text)) {
		key, number, found := strings.Cut(strings.TrimSpace(line), " ")
		if !found {
			key, number = "", key
		}
		n, err := strconv.ParseUint(number, 10, 64)
		Expect(err).NotTo(HaveOccurred())
		all[key] = n
	}
	return all
}
