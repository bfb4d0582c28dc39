package metrics_test

import (
	"context"
	"errors"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"go.uber.org/goleak"

	"github.com/nodekit/nodekit/metrics"
)

var _ = Describe("Config", func() {
	It("reports all bad fields together", func() {
		_, err := metrics.New(metrics.Config{Interval: -1, Window: -1, History: 1, Labels: 9})
		Expect(err).To(MatchError(And(ContainSubstring("Interval"), ContainSubstring("Window"),
			ContainSubstring("History"), ContainSubstring("Labels"))))
	})
})

var _ = Describe("Meter", func() {
	ctx := context.Background()

	It("reads every figure of v2", func() {
		m := newTree().meter()
		s, err := m.Sample(ctx, "/kubepods/pod1/c1", 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Gaps).To(BeEmpty())
		for f, want := range map[metrics.Field]uint64{
			metrics.CPUUsage: 1500001000, metrics.CPUUser: 1200000000, metrics.CPUSystem: 300001000,
			metrics.CFSPeriods: 40, metrics.CFSThrottledPeriods: 7, metrics.CFSThrottledTime: 123456000,
			metrics.CFSBurstPeriods: 2, metrics.CFSBurstTime: 1500000,
			metrics.MemoryUsage: 67108864, metrics.MemoryWorkingSet: 67108864 - 16777216,
			metrics.MemoryMaxUsage: 68157440, metrics.MemoryKernel: 1703936, metrics.MemoryCache: 20971520,
			metrics.MemoryRSS: 41943040, metrics.MemoryMappedFile: 8388608, metrics.MemorySwap: 2097152,
			metrics.MemoryActiveFile: 4194304, metrics.MemoryInactiveFile: 16777216,
			metrics.MemoryDirty: 4096, metrics.MemoryWriteback: 12288,
			metrics.PageFaults: 20480, metrics.MajorPageFaults: 17, metrics.PagesScanned: 500, metrics.PagesStolen: 400,
			metrics.RefaultFile: 11, metrics.RefaultAnon: 3,
			metrics.MemoryEventsHigh: 5, metrics.MemoryEventsMax: 9, metrics.OOMKills: 1,
			metrics.Threads: 12, metrics.Processes: 2, metrics.FileDescriptors: 12, metrics.LimitOpenFiles: 1024,
			metrics.IOReadBytes: 90430464 + 1459200, metrics.IOWriteBytes: 299008000,
			metrics.IOReads: 8950 + 192, metrics.IOWrites: 1252,
			metrics.CPUSomeTotal: 123456, metrics.CPUSomeAvg10: 125, metrics.MemorySomeAvg60: 50,
			metrics.IOFullTotal: 23456, metrics.IOFullAvg10: 40,
			metrics.LimitCPUShares: 1522, metrics.LimitCPUPeriod: 100000, metrics.LimitCPUQuota: 50000,
			metrics.LimitMemory: 134217728, metrics.LimitSwap: metrics.Unlimited,
			metrics.LimitMemoryReservation: 0, metrics.LimitThreads: metrics.Unlimited,
		} {
			got, ok := s.Get(f)
			Expect(ok).To(BeTrue(), "field %d", f)
			Expect(got).To(Equal(want), "field %d", f)
			Expect(s.Time(f)).To(Equal(epoch), "field %d", f)
		}
		for _, f := range []metrics.Field{metrics.MemoryFailures, metrics.PageFaultsLocal, metrics.CPURate, metrics.NetRxBytes} {
			_, ok := s.Get(f)
			Expect(ok).To(BeFalse(), "field %d", f)
		}
		Expect(s.Devices).To(HaveLen(2)) // 7:0 has no figures
		Expect(s.Devices[0].Name).To(Equal("/dev/sda"))
		Expect(s.Devices[1].Name).To(Equal("/dev/sdb"))
		Expect(s.HugePages).To(HaveLen(1))
		failures, told := s.HugePages[0].Failures()
		_, most := s.HugePages[0].Most() // v2 has no such file
		Expect([]any{s.HugePages[0].Size, s.HugePages[0].Used, failures, told, most}).To(Equal([]any{uint64(2 << 20), uint64(4 << 20), uint64(3), true, false}))
	})

	It("reads the node from /proc and the root cgroup", func() {
		m := newTree().meter()
		s, err := m.Sample(ctx, "/", 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Gaps).To(BeEmpty())
		const kB = 1024
		for f, want := range map[metrics.Field]uint64{
			metrics.CPUUsage: 987654321000, metrics.MemoryUsage: (24684084 - 20000000) * kB,
			metrics.MemoryWorkingSet: (24684084 - 20000000 - 81200) * kB, metrics.MemorySwap: 576 * kB,
			metrics.LimitMemory: 24684084 * kB, metrics.LimitSwap: 1048576 * kB, metrics.Threads: 123, metrics.LimitThreads: 192000,
			metrics.IOReadBytes: 1234000 * 512, metrics.IOWrites: 340, // the disk, not its partition
			metrics.NetRxBytes: 130698331, metrics.NetTxDropped: 4, // eth0, not cni0
			metrics.CPUSomeTotal: 11367146, metrics.IOSomeAvg300: 132,
		} {
			got, ok := s.Get(f)
			Expect(ok).To(BeTrue(), "field %d", f)
			Expect(got).To(Equal(want), "field %d", f)
		}
		Expect(s.HugePages).To(Equal([]metrics.HugePages{{Size: 2 << 20, Used: 20 << 20, Total: 32 << 20}}))
		Expect(s.Filesystems).To(BeEmpty()) // none of this machine is on a device
		Expect(s.DefaultInterface).To(Equal("eth0"))
		Expect(s.Interfaces).To(HaveLen(2))
		Expect(s.Target.StartedAt.Unix()).To(Equal(int64(1700000000)))
	})

	It("tells what an older kernel lacks, and nothing in its place", func() {
		m := newTree().meter()
		s, err := m.Sample(ctx, "/kubepods/pod1/c2", 0)
		Expect(err).NotTo(HaveOccurred())
		var files []string
		for _, g := range s.Gaps {
			Expect(g.Err).To(Equal(metrics.ErrAbsent), g.File)
			files = append(files, g.File)
		}
		Expect(files).To(ConsistOf("memory.peak", "cpu.pressure", "memory.pressure", "io.pressure"))
		for _, f := range []metrics.Field{metrics.MemoryMaxUsage, metrics.CFSBurstTime, metrics.MemoryKernel, metrics.CPUSomeTotal} {
			_, ok := s.Get(f)
			Expect(ok).To(BeFalse(), "field %d", f)
		}
		Expect(m.Stats().ReadErrors).To(BeZero())
	})

	DescribeTable("tells a gap for a file that is not as it should be",
		func(file, text string, gap error, lost []metrics.Field, kept metrics.Field) {
			t := newTree()
			m := t.meter()
			Expect(figure(m, "/kubepods/pod1/c1", kept, 0)).NotTo(BeZero())
			for _, f := range lost {
				figure(m, "/kubepods/pod1/c1", f, time.Hour)
			}
			t.write("cgroup/kubepods/pod1/c1/"+file, text)
			t.clock.Step(time.Minute) // limits too

			s, err := m.Sample(ctx, "/kubepods/pod1/c1", 0)
			Expect(err).NotTo(HaveOccurred())
			Expect(s.Gone).To(BeFalse())
			Expect(s.Gaps).To(HaveLen(1))
			Expect(s.Gaps[0].File).To(Equal(file))
			Expect(s.Gaps[0].Err).To(Equal(gap))
			for _, f := range lost {
				_, ok := s.Get(f)
				Expect(ok).To(BeFalse(), "field %d", f)
			}
			_, ok := s.Get(kept)
			Expect(ok).To(BeTrue())
			Expect(m.Stats().ReadErrors).To(Equal(uint64(1)))
		},
		Entry("empty", "cpu.stat", "", metrics.ErrGarbled, []metrics.Field{metrics.CPUUsage, metrics.CPUUser}, metrics.MemoryUsage),
		Entry("cut in a number", "cpu.stat", "usage_usec 15\nuser_usec 12\nsystem_usec 3", metrics.ErrGarbled, []metrics.Field{metrics.CPUUsage, metrics.CPUSystem}, metrics.MemoryUsage),
		Entry("cut at a line", "memory.stat", "anon 41943040\nfile 20971520\n", metrics.ErrGarbled, []metrics.Field{metrics.MemoryUsage, metrics.MemoryWorkingSet, metrics.MemoryRSS}, metrics.CPUUsage),
		Entry("garbage", "memory.current", "\x00\xff\n", metrics.ErrGarbled, []metrics.Field{metrics.MemoryUsage, metrics.MemoryWorkingSet}, metrics.CPUUsage),
		Entry("garbage in I/O", "io.stat", "8:0 rbytes=1 wbytes=x\n", metrics.ErrGarbled, []metrics.Field{metrics.IOReadBytes}, metrics.CPUUsage),
		Entry("an optional file", "memory.peak", "12", metrics.ErrGarbled, []metrics.Field{metrics.MemoryMaxUsage}, metrics.MemoryUsage),
		Entry("the list of processes", "cgroup.procs", "101\n10x\n", metrics.ErrGarbled, []metrics.Field{metrics.Processes, metrics.FileDescriptors}, metrics.Threads),
		Entry("processes that another PID namespace hides", "cgroup.procs", "101\n0\n", metrics.ErrForeignProcess, []metrics.Field{metrics.FileDescriptors}, metrics.Processes),
		Entry("huge pages", "hugetlb.2MB.current", "4194304", metrics.ErrGarbled, []metrics.Field{}, metrics.CPUUsage),
		Entry("a limit", "cpu.max", "max\n", metrics.ErrGarbled, []metrics.Field{metrics.LimitCPUQuota}, metrics.CPUUsage),
	)

	It("tells that a required file is missing while the cgroup is there", func() {
		t := newTree()
		t.remove("cgroup/kubepods/pod1/c1/memory.current")
		s, err := t.meter().Sample(ctx, "/kubepods/pod1/c1", 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Gone).To(BeFalse())
		Expect(s.Gaps).To(HaveLen(1))
		Expect(s.Gaps[0].File).To(Equal("memory.current"))
		Expect(s.Gaps[0].Err).To(Equal(metrics.ErrAbsent))
		_, ok := s.Get(metrics.MemoryRSS)
		Expect(ok).To(BeFalse())
	})

	It("tells of a machine without a controller", func() {
		t := newTree()
		t.write("cgroup/cgroup.controllers", "cpu memory\n")
		s, err := t.meter().Sample(ctx, "/kubepods/pod1/c1", 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Gaps).To(ContainElements(
			HaveField("File", "io"), HaveField("File", "pids")))
		for _, g := range s.Gaps {
			Expect(g.Err).To(Equal(metrics.ErrNoController))
		}
	})

	It("says so where there is no hierarchy", func() {
		m, err := metrics.New(metrics.Config{CgroupRoot: GinkgoT().TempDir()})
		Expect(err).NotTo(HaveOccurred())
		_, err = m.Samples(ctx, 0)
		Expect(err).To(MatchError(metrics.ErrNoController))
		Expect(m.Run(ctx)).To(MatchError(metrics.ErrNoController))
	})

	It("keeps the last sample of a cgroup until the caller forgets it", func() {
		t := newTree()
		m := t.meter()
		Expect(figure(m, "/kubepods/pod1/c1", metrics.CPUUsage, 0)).To(Equal(uint64(1500001000)))
		t.remove("cgroup/kubepods/pod1/c1")
		for range 3 {
			t.clock.Step(time.Second)
			s, err := m.Sample(ctx, "/kubepods/pod1/c1", 0)
			Expect(err).NotTo(HaveOccurred())
			Expect(s.Gone).To(BeTrue())
			Expect(s.Gaps).To(HaveLen(1))
			Expect(s.Gaps[0].Err).To(Equal(metrics.ErrGone))
			v, ok := s.Get(metrics.CPUUsage)
			Expect(ok).To(BeTrue())
			Expect(v).To(Equal(uint64(1500001000)))
			Expect(s.Time(metrics.CPUUsage)).To(Equal(epoch))
		}
		Expect(m.Stats().Gone).To(Equal(1))
		Expect(cadvisorText(m)).NotTo(ContainSubstring(`name="c1"`))
		t.to.set(podTarget, sidecarTarget)
		t.clock.Step(time.Second)
		_, err := m.Sample(ctx, "/kubepods/pod1/c1", 0)
		Expect(err).To(MatchError(metrics.ErrUnknownTarget))
		Expect(m.Stats().Targets).To(Equal(2))
	})

	It("meters a cgroup that comes after its target", func() {
		t := newTree()
		later := appTarget
		later.Cgroup, later.ID = "/kubepods/pod1/c3", "c3"
		t.to.set(later)
		m := t.meter()
		s, err := m.Sample(ctx, later.Cgroup, 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Gone).To(BeTrue())
		_, ok := s.Get(metrics.CPUUsage)
		Expect(ok).To(BeFalse())
		t.write("cgroup/kubepods/pod1/c3", "")
		t.remove("cgroup/kubepods/pod1/c3")
		Expect(copyDir(t.dir+"/cgroup/kubepods/pod1/c1", t.dir+"/cgroup/kubepods/pod1/c3")).To(Succeed())
		t.clock.Step(time.Second)
		Expect(figure(m, later.Cgroup, metrics.LimitMemory, 0)).To(Equal(uint64(134217728)))
	})

	It("follows labels and keeps the history of the cgroup", func() {
		t := newTree()
		bare := metrics.Target{Cgroup: appTarget.Cgroup}
		t.to.set(bare)
		m := t.meter()
		figure(m, bare.Cgroup, metrics.CPUUsage, 0)
		Expect(cadvisorText(m)).To(ContainSubstring(`{container="",id="/kubepods/pod1/c1",image="",name="",namespace="",pod="",cpu="total"} 1.500001`))
		t.to.set(appTarget)
		t.clock.Step(time.Second)
		figure(m, bare.Cgroup, metrics.CPUUsage, 0)
		Expect(cadvisorText(m)).To(ContainSubstring(`{container="app",id="/kubepods/pod1/c1",image="registry.local/web:1",name="c1",namespace="default",pod="web",cpu="total"} 1.500001`))
		points, err := m.History(bare.Cgroup)
		Expect(err).NotTo(HaveOccurred())
		Expect(points).To(HaveLen(2))
	})

	It("starts anew when a cgroup is another one under the same path", func() {
		t := newTree()
		m := t.meter()
		figure(m, appTarget.Cgroup, metrics.CPUUsage, 0)
		t.clock.Step(10 * time.Second)
		t.burn(appTarget.Cgroup, "500")
		s, err := m.Sample(ctx, appTarget.Cgroup, 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Gaps).To(ContainElement(HaveField("Err", metrics.ErrBackwards)))
		_, ok := s.Get(metrics.CPURate)
		Expect(ok).To(BeFalse())
		Expect(m.History(appTarget.Cgroup)).To(HaveLen(1))
		t.clock.Step(10 * time.Second)
		t.burn(appTarget.Cgroup, "10000500")
		Expect(figure(m, appTarget.Cgroup, metrics.CPURate, 0)).To(Equal(uint64(1e9)))
	})

	It("counts kills over restarts", func() {
		t := newTree()
		m := t.meter()
		count := func(cgroup string) uint64 {
			t.clock.Step(time.Second)
			return figure(m, cgroup, metrics.OOMKills, 0)
		}
		Expect(count(appTarget.Cgroup)).To(Equal(uint64(1)))
		// The container restarts: a new ID and cgroup, whose count begins at 0.
		again := appTarget
		again.Cgroup, again.ID, again.StartedAt = "/kubepods/pod1/c9", "c9", epoch
		Expect(copyDir(t.dir+"/cgroup/kubepods/pod1/c1", t.dir+"/cgroup/kubepods/pod1/c9")).To(Succeed())
		events := "low 0\nhigh 0\nmax 0\noom 0\noom_kill "
		t.write("cgroup/kubepods/pod1/c9/memory.events", events+"0\n")
		t.to.set(podTarget, appTarget, again)
		Expect(count(again.Cgroup)).To(Equal(uint64(1)))
		t.to.set(podTarget, again)
		t.remove("cgroup/kubepods/pod1/c1")
		t.write("cgroup/kubepods/pod1/c9/memory.events", events+"2\n")
		Expect(count(again.Cgroup)).To(Equal(uint64(3)))
		Expect(count(podTarget.Cgroup)).To(Equal(uint64(1))) // v2 counts for the pod itself
	})

	It("takes rates of its rounds, whoever asks in between", func() {
		t := newTree()
		cfg := t.config()
		cfg.Interval = 10 * time.Second
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		asked, err := metrics.New(cfg)
		Expect(err).NotTo(HaveOccurred())
		done := run(ctx, asked)
		Eventually(asked.Stats).Should(HaveField("Rounds", BeNumerically(">=", 1)))
		for i := range 3 {
			t.burn(appTarget.Cgroup, []string{"2000000", "4000000", "9000000"}[i])
			t.clock.Step(9 * time.Second)
			figure(asked, appTarget.Cgroup, metrics.CPUUsage, 0) // a round that is not Run's
			rounds := asked.Stats().Rounds
			t.clock.Step(time.Second)
			Eventually(asked.Stats).Should(HaveField("Rounds", BeNumerically(">", rounds)))
		}
		points, err := asked.History(appTarget.Cgroup)
		Expect(err).NotTo(HaveOccurred())
		Expect(points).To(HaveLen(4))
		for i := range points {
			Expect(points[i].Time).To(Equal(epoch.Add(time.Duration(i) * 10 * time.Second)))
		}
		Expect(figure(asked, appTarget.Cgroup, metrics.CPURate, time.Hour)).To(Equal(uint64(5e8)))
		cancel()
		Eventually(done).Should(Receive(BeNil()))
	})

	It("makes one round for all who ask at once", func() {
		t := newTree()
		gate := make(chan struct{})
		slow := &gated{targets: t.to, gate: gate}
		cfg := t.config()
		cfg.Targets = slow
		m, err := metrics.New(cfg)
		Expect(err).NotTo(HaveOccurred())
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = m.Samples(ctx, time.Minute) })
		Eventually(slow.waiting).Should(BeTrue())
		for range 20 {
			wg.Go(func() { _, _ = m.Samples(ctx, time.Minute) })
		}
		Consistently(m.Stats, "50ms").Should(HaveField("Rounds", BeZero()))
		close(gate)
		wg.Wait()
		Expect(m.Stats().Rounds).To(Equal(uint64(1)))
		t.clock.Step(59 * time.Second)
		_, err = m.Samples(ctx, time.Minute)
		Expect(err).NotTo(HaveOccurred())
		Expect(m.Stats().Rounds).To(Equal(uint64(1)))
		t.clock.Step(2 * time.Second)
		_, err = m.Samples(ctx, time.Minute)
		Expect(err).NotTo(HaveOccurred())
		Expect(m.Stats().Rounds).To(Equal(uint64(2)))
	})

	It("waits no longer than the caller's context", func() {
		t := newTree()
		gate := make(chan struct{})
		cfg := t.config()
		slow := &gated{targets: t.to, gate: gate}
		cfg.Targets = slow
		m, err := metrics.New(cfg)
		Expect(err).NotTo(HaveOccurred())
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = m.Samples(ctx, 0) })
		Eventually(slow.waiting).Should(BeTrue())
		short, cancel := context.WithCancel(ctx)
		cancel()
		_, err = m.Samples(short, 0)
		Expect(err).To(MatchError(context.Canceled))
		close(gate)
		wg.Wait()
	})

	It("keeps the old targets when there is no new list", func() {
		t := newTree()
		m := t.meter()
		figure(m, appTarget.Cgroup, metrics.CPUUsage, 0)
		t.to.fail(errors.New("runtime is away"))
		t.clock.Step(time.Second)
		figure(m, appTarget.Cgroup, metrics.CPUUsage, 0)
		Expect(m.Stats().TargetErrors).To(Equal(uint64(1)))
		Expect(m.Stats().Targets).To(Equal(3))
	})

	It("leaves cold groups for later and marks them with their own time", func() {
		t := newTree()
		cfg := t.config()
		cfg.ColdInterval = time.Minute
		m, err := metrics.New(cfg)
		Expect(err).NotTo(HaveOccurred())
		figure(m, appTarget.Cgroup, metrics.Threads, 0)
		t.write("cgroup"+appTarget.Cgroup+"/pids.current", "99\n")
		t.clock.Step(10 * time.Second)
		s, err := m.Sample(ctx, appTarget.Cgroup, 0)
		Expect(err).NotTo(HaveOccurred())
		threads, _ := s.Get(metrics.Threads)
		Expect(threads).To(Equal(uint64(12)))
		Expect(s.Time(metrics.Threads)).To(Equal(epoch))
		Expect(s.Time(metrics.CPUUsage)).To(Equal(epoch.Add(10 * time.Second)))
		t.clock.Step(50 * time.Second)
		Expect(figure(m, appTarget.Cgroup, metrics.Threads, 0)).To(Equal(uint64(99)))
	})

	It("finds limits that changed", func() {
		t := newTree()
		m := t.meter()
		figure(m, appTarget.Cgroup, metrics.LimitMemory, 0)
		t.write("cgroup"+appTarget.Cgroup+"/memory.max", "4096\n")
		t.clock.Step(30 * time.Second)
		Expect(figure(m, appTarget.Cgroup, metrics.LimitMemory, 0)).To(Equal(uint64(4096)))
	})

	Describe("the network of a pod", func() {
		It("is read through its process", func() {
			m := newTree().meter()
			s, err := m.Sample(ctx, podTarget.Cgroup, 0)
			Expect(err).NotTo(HaveOccurred())
			Expect(s.Gaps).To(BeEmpty())
			Expect(s.Interfaces).To(Equal([]metrics.Interface{{
				Name: "eth0", RxBytes: 1000, RxPackets: 10, RxErrors: 1, RxDropped: 2,
				TxBytes: 2000, TxPackets: 20, TxErrors: 3, TxDropped: 4,
			}}))
		})
		DescribeTable("is a gap and no figure when", func(spoil func(*machineTree), want error) {
			t := newTree()
			spoil(t)
			s, err := t.meter().Sample(ctx, podTarget.Cgroup, 0)
			Expect(err).NotTo(HaveOccurred())
			Expect(s.Interfaces).To(BeEmpty())
			_, ok := s.Get(metrics.NetRxBytes)
			Expect(ok).To(BeFalse())
			Expect(s.Gaps).To(HaveLen(1))
			Expect(s.Gaps[0].File).To(Equal("net/dev"))
			Expect(s.Gaps[0].Err).To(Equal(want))
		},
			Entry("the process is gone", func(t *machineTree) { t.remove("proc/101") }, metrics.ErrAbsent),
			Entry("the number passed to a process elsewhere", func(t *machineTree) { t.write("proc/101/cgroup", "0::/system.slice/cron\n") }, metrics.ErrForeignProcess),
			Entry("the process is in the host's namespace", func(t *machineTree) {
				t.remove("proc/101/ns/net")
				Expect(link(t.dir+"/proc/thread-self/ns/net", t.dir+"/proc/101/ns/net")).To(Succeed())
			}, metrics.ErrForeignProcess),
			Entry("the text is cut", func(t *machineTree) { t.write("proc/101/net/dev", "Inter-|x\n face|y\neth0: 1 2") }, metrics.ErrGarbled),
		)
		It("is not read for a pod on the host's network", func() {
			t := newTree()
			host := podTarget
			host.HostNetwork = true
			t.to.set(host)
			s, err := t.meter().Sample(ctx, podTarget.Cgroup, 0)
			Expect(err).NotTo(HaveOccurred())
			Expect(s.Gaps).To(BeEmpty())
			Expect(s.Interfaces).To(BeEmpty())
		})
	})
})

var _ = Describe("Run", func() {
	It("keeps descriptors within the budget and closes them", func() {
		before := goleak.IgnoreCurrent()
		t := newTree()
		cfg := t.config()
		cfg.Descriptors = 7 // of 12: three for the node and its three targets
		m, err := metrics.New(cfg)
		Expect(err).NotTo(HaveOccurred())
		ctx, cancel := context.WithCancel(context.Background())
		open := openFiles()
		done := run(ctx, m)
		Eventually(m.Stats).Should(HaveField("Descriptors", 7))
		for _, target := range []metrics.Target{podTarget, appTarget, sidecarTarget} {
			figure(m, target.Cgroup, metrics.MemoryWorkingSet, time.Hour)
		}
		t.to.set(appTarget)
		m.Refresh()
		Eventually(m.Stats).Should(HaveField("Targets", 1))
		Expect(m.Run(ctx)).To(MatchError(metrics.ErrRunning))
		cancel()
		Eventually(done).Should(Receive(BeNil()))
		Expect(m.Stats().Descriptors).To(BeZero())
		Expect(openFiles()).To(BeNumerically("<=", open))
		Expect(goleak.Find(before)).To(Succeed())
		// And it still answers, without keeping anything.
		t.clock.Step(time.Second)
		figure(m, appTarget.Cgroup, metrics.CPUUsage, 0)
		Expect(m.Stats().Descriptors).To(BeZero())
	})
})

// gated lets no list pass before its gate opens.
type gated struct {
	*targets
	gate chan struct{}
	mu   sync.Mutex
	wait bool
}

func (g *gated) Targets(ctx context.Context) ([]metrics.Target, error) {
	g.mu.Lock()
	g.wait = true
	g.mu.Unlock()
	<-g.gate
	return g.targets.Targets(ctx)
}

func (g *gated) waiting() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.wait
}

func run(ctx context.Context, m *metrics.Meter) <-chan error {
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	return done
}
