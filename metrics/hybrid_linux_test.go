package metrics_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/metrics"
)

// The recorded machine is hybrid: v1 hierarchies, and v2 for pressure alone.
var _ = Describe("Meter on v1 and v2 at once", func() {
	ctx := context.Background()

	meter := func() *metrics.Meter {
		GinkgoHelper()
		to := &targets{}
		to.set(podTarget, appTarget)
		m, err := metrics.New(metrics.Config{
			Targets: to, CgroupRoot: "testdata/v1", ProcRoot: "testdata/v2/proc", SysRoot: "testdata/v2/sys",
		})
		Expect(err).NotTo(HaveOccurred())
		return m
	}

	It("reads every figure", func() {
		s, err := meter().Sample(ctx, appTarget.Cgroup, 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Gaps).To(BeEmpty())
		for f, want := range map[metrics.Field]uint64{
			metrics.CPUUsage: 1500001234, metrics.CPUUser: 1200000000, metrics.CPUSystem: 300000000,
			metrics.CFSPeriods: 40, metrics.CFSThrottledPeriods: 7, metrics.CFSThrottledTime: 123456789,
			metrics.MemoryUsage: 67108864, metrics.MemoryWorkingSet: 67108864 - 16777216,
			metrics.MemoryMaxUsage: 68157440, metrics.MemoryFailures: 33, metrics.MemoryKernel: 1703936,
			metrics.MemoryCache: 20971520, metrics.MemoryRSS: 41943040, metrics.MemoryMappedFile: 8388608,
			metrics.MemorySwap: 2097152, metrics.MemoryActiveFile: 4194304, metrics.MemoryInactiveFile: 16777216,
			metrics.MemoryDirty: 4096, metrics.MemoryWriteback: 12288,
			metrics.PageFaults: 20480, metrics.MajorPageFaults: 17, metrics.PageFaultsLocal: 11, metrics.MajorPageFaultsLocal: 12,
			metrics.RefaultFile: 21, metrics.RefaultAnon: 3, metrics.OOMKills: 2,
			metrics.Threads: 5, metrics.Processes: 1,
			metrics.IOReadBytes: 4096, metrics.IOWriteBytes: 8192, metrics.IOReads: 1, metrics.IOWrites: 2,
			metrics.CPUSomeTotal: 123456, metrics.MemoryFullAvg10: 40, metrics.IOSomeAvg300: 7,
			metrics.LimitCPUShares: 512, metrics.LimitCPUPeriod: 100000, metrics.LimitCPUQuota: metrics.Unlimited,
			metrics.LimitMemory: 134217728, metrics.LimitSwap: 268435456, metrics.LimitThreads: 100,
		} {
			got, ok := s.Get(f)
			Expect(ok).To(BeTrue(), "field %d", f)
			Expect(got).To(Equal(want), "field %d", f)
		}
		for _, f := range []metrics.Field{metrics.MemoryEventsHigh, metrics.PagesScanned} {
			_, ok := s.Get(f)
			Expect(ok).To(BeFalse(), "field %d", f)
		}
		Expect(s.HugePages).To(HaveLen(1))
		most, ok := s.HugePages[0].Most()
		Expect([]any{s.HugePages[0].Used, most, ok}).To(Equal([]any{uint64(2097152), uint64(6291456), true}))
		failures, ok := s.HugePages[0].Failures()
		Expect([]any{failures, ok}).To(Equal([]any{uint64(4), true}))
		// Memory and swap together less memory; but the node has less.
		swap, ok := s.SwapLimit(1 << 40)
		Expect(ok).To(BeTrue())
		Expect(swap).To(Equal(uint64(134217728)))
		swap, _ = s.SwapLimit(1000)
		Expect(swap).To(Equal(uint64(1000)))
	})

	It("adds up the kills of a pod, which v1 counts for each cgroup alone", func() {
		m := meter()
		Expect(figure(m, podTarget.Cgroup, metrics.OOMKills, 0)).To(Equal(uint64(2)))
		Expect(figure(m, podTarget.Cgroup, metrics.OOMKills, 0)).To(Equal(uint64(2)))
	})

	It("takes the node's CPU from the root cgroup", func() {
		m := meter()
		Expect(figure(m, "/", metrics.CPUUsage, 0)).To(Equal(uint64(1000000001)))
		s, err := m.Sample(ctx, "/", time.Hour)
		Expect(err).NotTo(HaveOccurred())
		// Nobody throttles the root.
		Expect(s.Gaps).To(ConsistOf(HaveField("File", "cpu.stat")))
	})

	It("is exposed with v1's operations and without quota", func() {
		expectGolden("cadvisor-v1.golden", withoutLastSeen(cadvisorText(meter())))
	})
})
