package metrics_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/metrics"
)

var _ = Describe("the network of pods, by one dump of the node's interfaces", Label("kernel"), func() {
	BeforeEach(func() { kerneltest.Require(GinkgoT(), kerneltest.Root, kerneltest.Cgroup) })

	// pod is one whose veth leads to ns, where the meter runs.
	pod := func(ns *kerneltest.NetNS) (target metrics.Target, w *worker) {
		GinkgoHelper()
		cg := newCgroup(uniquePath())
		w = startWorker(newCgroup(cg.path+"/c1"), true)
		Expect(ns.Do(func() error { return connect(w.cmd.Process.Pid) })).To(Succeed())
		return metrics.Target{Cgroup: cg.path, Namespace: "n", Pod: "p", PodUID: "u", PID: w.cmd.Process.Pid}, w
	}
	// runIn runs a meter in ns, as an agent runs in the node's namespace.
	runIn := func(ns *kerneltest.NetNS, to *targets) *metrics.Meter {
		GinkgoHelper()
		m, err := metrics.New(metrics.Config{Targets: to, Interval: time.Hour, LimitsInterval: time.Hour})
		Expect(err).NotTo(HaveOccurred())
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- ns.Do(func() error { return m.Run(ctx) }) }()
		DeferCleanup(func() { cancel(); Eventually(done, patience).Should(Receive(BeNil())) })
		Eventually(m.Stats, patience).Should(HaveField("Rounds", uint64(1)))
		return m
	}

	It("is the pod's to the byte, in both directions", func() {
		ns := kerneltest.NewNetNS(GinkgoT())
		target, w := pod(ns)
		to := &targets{}
		to.set(target)
		m := runIn(ns, to)
		Expect(m.Stats().Linked).To(BeZero()) // the first time it is read through a process
		rx, packets := figure(m, target.Cgroup, metrics.NetRxBytes, 0), figure(m, target.Cgroup, metrics.NetRxPackets, 0)
		Expect(m.Stats().Linked).To(Equal(1))
		const frames, size = 41, 900
		Expect(ns.Do(func() error { return sendFrames(frames, size) })).To(Succeed())
		Expect(figure(m, target.Cgroup, metrics.NetRxBytes, 0) - rx).To(Equal(uint64(frames * size)))
		Expect(figure(m, target.Cgroup, metrics.NetRxPackets, 0) - packets).To(Equal(uint64(frames)))
		Expect(m.Stats().Linked).To(Equal(1))
		linked := sampleNow(m, target.Cgroup)

		By("the same as what its process is told")
		own, err := metrics.New(metrics.Config{Targets: to})
		Expect(err).NotTo(HaveOccurred())
		s, err := own.Sample(context.Background(), target.Cgroup, 0)
		Expect(err).NotTo(HaveOccurred())
		// Drops grow with frames that nobody there understands; they come with the limits.
		seen := append([]metrics.Interface(nil), s.Interfaces...)
		Expect(seen).To(HaveLen(1))
		seen[0].RxDropped = linked.Interfaces[0].RxDropped
		Expect(linked.Interfaces).To(Equal(seen))

		By("a gap once the pod is gone, and no figure of another")
		w.stop()
		Eventually(func() error {
			return ns.Do(func() error { _, err := netlink.LinkByName("host0"); return err })
		}, patience).ShouldNot(Succeed())
		s, err = m.Sample(context.Background(), target.Cgroup, 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Interfaces).To(BeEmpty())
		Expect(s.Gaps).To(ContainElement(And(HaveField("File", "net/dev"), HaveField("Err", metrics.ErrAbsent))))
		Expect(m.Stats().Linked).To(BeZero())
	})

	It("is read through the process where more than one interface is there", func() {
		ns := kerneltest.NewNetNS(GinkgoT())
		target, _ := pod(ns)
		Expect(ns.Do(func() error {
			inside, err := netlinkIn(target.PID)
			if err != nil {
				return err
			}
			defer inside.Close()
			return inside.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "net1"}, PeerName: "net2"})
		})).To(Succeed())
		to := &targets{}
		to.set(target)
		m := runIn(ns, to)
		for range 2 {
			figure(m, target.Cgroup, metrics.NetRxBytes, 0)
			Expect(sampleNow(m, target.Cgroup).Interfaces).To(HaveLen(3))
		}
		Expect(m.Stats().Linked).To(BeZero())
	})
})
