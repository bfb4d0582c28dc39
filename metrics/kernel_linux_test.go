package metrics_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/metrics"
)

// Ground truth: work of a known size, done by a process that counts it itself,
// against what the meter makes of it on this machine's hierarchies.
var _ = Describe("the kernel's figures", Label("kernel"), func() {
	ctx := context.Background()

	// meterOf meters the given cgroups.
	meterOf := func(list ...metrics.Target) *metrics.Meter {
		GinkgoHelper()
		to := &targets{}
		to.set(list...)
		m, err := metrics.New(metrics.Config{Targets: to})
		Expect(err).NotTo(HaveOccurred())
		return m
	}

	BeforeEach(func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root, kerneltest.Cgroup)
	})

	It("meter 0.5 s of CPU within 1 %", func() {
		cg := newCgroup(uniquePath())
		w := startWorker(cg, false)
		m := meterOf(metrics.Target{Cgroup: cg.path})
		const work = 500 * time.Millisecond
		// The meter's interval lies within the outer one of the process's own
		// clock, and holds the inner one.
		outer := w.do("cpu 0")
		usage, user := figure(m, cg.path, metrics.CPUUsage, 0), figure(m, cg.path, metrics.CPUUser, 0)
		inner := w.do("cpu 0")
		inner = w.do(fmt.Sprint("burn ", work.Nanoseconds())) - inner
		used := figure(m, cg.path, metrics.CPUUsage, 0) - usage
		inUser := figure(m, cg.path, metrics.CPUUser, 0) - user
		outer = w.do("cpu 0") - outer
		AddReportEntry("burnt", fmt.Sprintf("process %v to %v, metered %v, user %v",
			time.Duration(inner), time.Duration(outer), time.Duration(used), time.Duration(inUser)))
		const tolerance = work / 100
		Expect(time.Duration(used)).To(BeNumerically(">=", time.Duration(inner)-tolerance))
		Expect(time.Duration(used)).To(BeNumerically("<=", time.Duration(outer)+tolerance))
		Expect(inUser).To(BeNumerically("<=", used+20e6)) // v1 tells user time in steps of 10 ms
	})

	It("meter 64 MiB of anonymous memory within 64 KiB", func() {
		cg := newCgroup(uniquePath())
		w := startWorker(cg, false)
		m := meterOf(metrics.Target{Cgroup: cg.path})
		const work, tolerance = 64 << 20, 64 << 10
		before := figure(m, cg.path, metrics.MemoryRSS, 0)
		faults := figure(m, cg.path, metrics.PageFaults, 0)
		w.do(fmt.Sprint("touch ", work))
		var grown int64
		// The kernel adds up its counters of each CPU at most 2 s late.
		Eventually(func() int64 {
			grown = int64(figure(m, cg.path, metrics.MemoryRSS, 0)) - int64(before)
			return grown
		}).Should(BeNumerically("~", work, tolerance))
		AddReportEntry("touched", fmt.Sprintf("%d bytes more than asked", grown-work))
		Expect(figure(m, cg.path, metrics.PageFaults, 0) - faults).To(BeNumerically("~", work/os.Getpagesize(), tolerance/os.Getpagesize()))
		usage, set := figure(m, cg.path, metrics.MemoryUsage, time.Hour), figure(m, cg.path, metrics.MemoryWorkingSet, time.Hour)
		Expect(usage).To(BeNumerically(">=", work))
		Expect(set).To(BeNumerically("<=", usage))
	})

	It("meter what is written with O_DIRECT, to the byte", func() {
		kerneltest.Require(GinkgoTB(), kerneltest.Unified) // v1 counts none on Linux 6.18
		const work = 8 << 20
		// The blocks are there before, so that nothing but they is written. Not in
		// a temporary directory, which may be memory.
		file, err := os.CreateTemp("/var", "nodekit-metrics-test-")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(os.Remove(file.Name())).To(Succeed()) })
		_, err = file.Write(bytes.Repeat([]byte("nodekit."), work/8))
		Expect(err).NotTo(HaveOccurred())
		Expect(file.Sync()).To(Succeed())
		Expect(file.Close()).To(Succeed())

		cg := newCgroup(uniquePath())
		delegate(filepath.Dir(cg.dirs()[0]))
		w := startWorker(cg, false)
		m := meterOf(metrics.Target{Cgroup: cg.path})
		bytesBefore, before := figure(m, cg.path, metrics.IOWriteBytes, 0), figure(m, cg.path, metrics.IOWrites, 0)
		Expect(w.do(fmt.Sprintf("direct %d %s", work, file.Name()))).To(Equal(int64(work)))
		Expect(figure(m, cg.path, metrics.IOWriteBytes, 0) - bytesBefore).To(Equal(uint64(work)))
		Expect(figure(m, cg.path, metrics.IOWrites, 0) - before).To(BeNumerically(">=", work>>20))
	})

	It("count the open files of processes, and know their limit", func() {
		kerneltest.Require(GinkgoTB(), kerneltest.OpenFiles)
		cg := newCgroup(uniquePath())
		w := startWorker(cg, false)
		m := meterOf(metrics.Target{Cgroup: cg.path, Namespace: "n", Pod: "p", PodUID: "u", Container: "c"})
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.cmd.Process.Pid))
		Expect(err).NotTo(HaveOccurred())
		Expect(figure(m, cg.path, metrics.FileDescriptors, 0)).To(Equal(uint64(len(open))))
		var limit unix.Rlimit
		Expect(unix.Prlimit(w.cmd.Process.Pid, unix.RLIMIT_NOFILE, nil, &limit)).To(Succeed())
		Expect(figure(m, cg.path, metrics.LimitOpenFiles, time.Hour)).To(Equal(limit.Cur))
	})

	It("count sockets among them where that is asked for, exactly", func() {
		cg := newCgroup(uniquePath())
		w := startWorker(cg, false)
		one := metrics.Target{Cgroup: cg.path, Namespace: "n", Pod: "p", PodUID: "u", Container: "c"}
		to := &targets{}
		to.set(one)
		m, err := metrics.New(metrics.Config{Targets: to, Sockets: true, LimitsInterval: time.Nanosecond})
		Expect(err).NotTo(HaveOccurred())
		before := figure(m, cg.path, metrics.Sockets, 0)
		w.do("sockets 23")
		Expect(figure(m, cg.path, metrics.Sockets, 0) - before).To(Equal(uint64(23)))
		Expect(cadvisorText(m)).To(ContainSubstring(fmt.Sprintf("container_sockets{container=\"c\",id=%q,image=\"\",name=\"\",namespace=\"n\",pod=\"p\"} %d\n", cg.path, before+23)))
		s, err := meterOf(one).Sample(ctx, cg.path, 0)
		Expect(err).NotTo(HaveOccurred())
		_, counted := s.Get(metrics.Sockets)
		Expect(counted).To(BeFalse()) // nobody asked
	})

	It("tell how full the node's file systems are", func() {
		m := meterOf()
		s, err := m.Sample(ctx, "/", 0)
		Expect(err).NotTo(HaveOccurred())
		for _, f := range s.Filesystems {
			var st unix.Statfs_t
			Expect(unix.Statfs(f.Path, &st)).To(Succeed())
			Expect(f.Capacity).To(Equal(st.Blocks * uint64(st.Frsize)))
			Expect(f.Used).To(And(BeNumerically(">", 0), BeNumerically("<=", f.Capacity)))
			Expect(f.Device).To(HavePrefix("/dev/"))
		}
		mounts, err := os.ReadFile("/proc/self/mounts")
		Expect(err).NotTo(HaveOccurred())
		if strings.HasPrefix(string(mounts), "/dev/") {
			Expect(s.Filesystems).NotTo(BeEmpty())
		}
	})

	It("meter pids, limits and pressure", func() {
		cg := newCgroup(uniquePath())
		w := startWorker(cg, false)
		m := meterOf(metrics.Target{Cgroup: cg.path, Namespace: "n", Pod: "p", PodUID: "u", Container: "c"})
		Expect(figure(m, cg.path, metrics.Processes, 0)).To(Equal(uint64(1)))
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", w.cmd.Process.Pid))
		Expect(err).NotTo(HaveOccurred())
		Expect(figure(m, cg.path, metrics.Threads, 0)).To(BeNumerically("~", len(tasks), 2))
		s, err := m.Sample(ctx, cg.path, time.Hour)
		Expect(err).NotTo(HaveOccurred())
		_, hasMemory := s.Get(metrics.LimitMemory)
		_, hasShares := s.Get(metrics.LimitCPUShares)
		Expect([]bool{hasMemory, hasShares}).To(Equal([]bool{true, true}))
		if _, err := os.Stat("/proc/pressure/cpu"); err == nil {
			figure(m, cg.path, metrics.CPUSomeTotal, time.Hour)
		}
		for _, g := range s.Gaps {
			Expect(g.Err).To(Equal(metrics.ErrAbsent), g.File)
		}
	})

	It("count the bytes of a pod's network to the byte", func() {
		cg := newCgroup(uniquePath())
		inner := newCgroup(cg.path + "/c1")
		w := startWorker(inner, true)
		pid := w.cmd.Process.Pid
		// A veth between this test's own namespace and the worker's.
		ns := kerneltest.NewNetNS(GinkgoT())
		Expect(ns.Do(func() error { return connect(pid) })).To(Succeed())
		m := meterOf(metrics.Target{Cgroup: cg.path, Namespace: "n", Pod: "p", PodUID: "u", PID: pid})
		rx, packets := figure(m, cg.path, metrics.NetRxBytes, 0), figure(m, cg.path, metrics.NetRxPackets, 0)
		const frames, size = 37, 1000
		Expect(ns.Do(func() error { return sendFrames(frames, size) })).To(Succeed())
		Expect(figure(m, cg.path, metrics.NetRxBytes, 0) - rx).To(Equal(uint64(frames * size)))
		Expect(figure(m, cg.path, metrics.NetRxPackets, 0) - packets).To(Equal(uint64(frames)))
		s, err := m.Sample(ctx, cg.path, time.Hour)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Interfaces).To(HaveLen(1))
		Expect(s.Interfaces[0].Name).To(Equal("eth0"))

		By("not keeping the namespace when the pod has gone")
		w.stop()
		s, err = m.Sample(ctx, cg.path, 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Gaps).To(ContainElement(And(HaveField("File", "net/dev"), HaveField("Err", metrics.ErrAbsent))))
		_, ok := s.Get(metrics.NetRxBytes)
		Expect(ok).To(BeFalse())
		Eventually(func() error {
			return ns.Do(func() error {
				if _, err := netlink.LinkByName("host0"); err == nil {
					return fmt.Errorf("the veth is still there: something holds the namespace")
				}
				return nil
			})
		}).Should(Succeed())
	})

	It("do not take the host's network for a pod's", func() {
		cg := newCgroup(uniquePath())
		w := startWorker(cg, false)
		m := meterOf(metrics.Target{Cgroup: cg.path, Namespace: "n", Pod: "p", PodUID: "u", PID: w.cmd.Process.Pid})
		s, err := m.Sample(ctx, cg.path, 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Gaps).To(ContainElement(HaveField("Err", metrics.ErrForeignProcess)))
	})

	DescribeTable("become a told gap when the cgroup is removed between rounds", func(descriptors int) {
		cg := newCgroup(uniquePath())
		w := startWorker(cg, false)
		to := &targets{}
		to.set(metrics.Target{Cgroup: cg.path})
		m, err := metrics.New(metrics.Config{Targets: to, Descriptors: descriptors, Interval: time.Hour})
		Expect(err).NotTo(HaveOccurred())
		runCtx, cancel := context.WithCancel(ctx)
		done := run(runCtx, m)
		DeferCleanup(func() { cancel(); Eventually(done).Should(Receive(BeNil())) })
		Eventually(m.Stats).Should(HaveField("Rounds", BeNumerically(">=", 1)))
		w.do("burn 20000000")
		w.stop()
		last := figure(m, cg.path, metrics.CPUUsage, 0)
		Expect(last).To(BeNumerically(">=", 20000000)) // all of it: the process has ended, its cgroup not
		cg.remove()
		s, err := m.Sample(ctx, cg.path, 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Gone).To(BeTrue())
		Expect(s.Gaps).To(ConsistOf(HaveField("Err", metrics.ErrGone)))
		kept, ok := s.Get(metrics.CPUUsage)
		Expect(ok).To(BeTrue())
		Expect(kept).To(Equal(last))
		Expect(m.Stats().Descriptors).To(BeNumerically("<=", 4)) // the node's

		By("not taking a new cgroup under the old path for the old one")
		for _, dir := range cg.dirs() {
			Expect(os.Mkdir(dir, 0o755)).To(Succeed())
		}
		s, err = m.Sample(ctx, cg.path, 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Gone).To(BeFalse())
		fresh, ok := s.Get(metrics.CPUUsage)
		Expect(ok).To(BeTrue())
		Expect(fresh).To(BeZero())
		_, ok = s.Get(metrics.CPURate)
		Expect(ok).To(BeFalse())
		Expect(m.History(cg.path)).To(HaveLen(1))
	},
		Entry("with kept descriptors", 0),
		Entry("with openat", -1),
	)

	It("come from a v2 hierarchy without controllers as far as it has any", func() {
		kerneltest.Require(GinkgoTB(), kerneltest.Cgroup2)
		root := ""
		for _, dir := range hierarchies() {
			if _, err := os.Stat(filepath.Join(dir, "cgroup.controllers")); err == nil {
				root = dir
			}
		}
		cg := newCgroup(uniquePath())
		w := startWorker(cg, false)
		to := &targets{}
		to.set(metrics.Target{Cgroup: cg.path})
		m, err := metrics.New(metrics.Config{Targets: to, CgroupRoot: root})
		Expect(err).NotTo(HaveOccurred())
		outer := w.do("cpu 0")
		used := figure(m, cg.path, metrics.CPUUsage, 0)
		inner := w.do("cpu 0")
		inner = w.do("burn 100000000") - inner
		used = figure(m, cg.path, metrics.CPUUsage, 0) - used
		outer = w.do("cpu 0") - outer
		Expect(used).To(BeNumerically(">=", inner-2e6))
		Expect(used).To(BeNumerically("<=", outer+2e6))
	})

	It("count one kill for want of memory as exactly one, over a restart", func() {
		path := uniquePath()
		pod := newCgroup(path)
		kill := func(cg *cgroup) {
			GinkgoHelper()
			limit := ""
			for _, dir := range cg.dirs() {
				for _, file := range []string{"memory.limit_in_bytes", "memory.max"} {
					if _, err := os.Stat(filepath.Join(dir, file)); err == nil {
						limit = filepath.Join(dir, file)
					}
				}
			}
			Expect(limit).NotTo(BeEmpty())
			w := startWorker(cg, false)
			Expect(os.WriteFile(limit, []byte("33554432"), 0)).To(Succeed())
			_, err := fmt.Fprintln(w.in, "touch 67108864")
			Expect(err).NotTo(HaveOccurred())
			_ = w.in.Close()
			Expect(w.cmd.Wait()).To(MatchError(ContainSubstring("killed")))
		}
		target := func(cg *cgroup, id string) metrics.Target {
			return metrics.Target{Cgroup: cg.path, Namespace: "n", Pod: "p", PodUID: "u", Container: "c", ID: id}
		}
		podTarget := metrics.Target{Cgroup: path, Namespace: "n", Pod: "p", PodUID: "u"}
		first := newCgroup(path + "/one")
		to := &targets{}
		to.set(podTarget, target(first, "one"))
		m, err := metrics.New(metrics.Config{Targets: to})
		Expect(err).NotTo(HaveOccurred())
		Expect(figure(m, first.path, metrics.OOMKills, 0)).To(BeZero())
		kill(first)
		Expect(figure(m, first.path, metrics.OOMKills, 0)).To(Equal(uint64(1)))
		Expect(figure(m, path, metrics.OOMKills, time.Hour)).To(Equal(uint64(1)))
		first.remove()
		second := newCgroup(path + "/two")
		to.set(podTarget, target(second, "two"))
		Expect(figure(m, second.path, metrics.OOMKills, 0)).To(Equal(uint64(1)))
		kill(second)
		Expect(figure(m, second.path, metrics.OOMKills, 0)).To(Equal(uint64(2)))
		Expect(figure(m, path, metrics.OOMKills, time.Hour)).To(Equal(uint64(2)))
		_ = pod
	})
})

// connect makes a veth from the namespace of this thread to eth0 in that of
// pid, both up and without addresses, so that nothing but the test speaks.
func connect(pid int) error {
	for _, quiet := range []string{"/proc/sys/net/ipv6/conf/default/disable_ipv6"} {
		_ = os.WriteFile(quiet, []byte("1"), 0)
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "host0"}, PeerName: "peer0"}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth: %w", err)
	}
	host, err := netlink.LinkByName("host0")
	if err != nil {
		return err
	}
	peer, err := netlink.LinkByName("peer0")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetName(peer, "eth0"); err != nil {
		return err
	}
	// The peer goes up before the host's end, so it sees all that is sent.
	if err := netlink.LinkSetNsPid(peer, pid); err != nil {
		return err
	}
	inside, err := netlinkIn(pid)
	if err != nil {
		return err
	}
	defer inside.Close()
	eth0, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := inside.LinkSetUp(eth0); err != nil {
		return err
	}
	return netlink.LinkSetUp(host)
}

// sendFrames sends frames of an unknown protocol over host0; size is with the
// header of Ethernet, which the kernel counts too.
func sendFrames(frames, size int) error {
	link, err := netlink.LinkByName("host0")
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	frame := make([]byte, size)
	copy(frame, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	frame[12], frame[13] = 0x88, 0xb5 // for experiments, IEEE 802
	for range frames {
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index, Halen: 6}); err != nil {
			return err
		}
	}
	return nil
}

// netlinkIn speaks netlink in the network namespace of pid.
func netlinkIn(pid int) (*netlink.Handle, error) {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return netlink.NewHandleAt(ns)
}
