package metrics_test

import (
	"context"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/metrics"
)

var _ = Describe("Refresh", func() {
	It("reads what is new and no other", func() {
		t := newTree()
		t.to.set(appTarget)
		m := t.meter()
		running(m)
		Eventually(m.Stats, patience).Should(HaveField("Rounds", uint64(1)))
		t.burn(appTarget.Cgroup, "999000000")
		t.to.set(appTarget, sidecarTarget)
		m.Refresh()
		Eventually(m.Stats, patience).Should(And(HaveField("Glances", BeNumerically(">=", 1)), HaveField("Targets", 2)))
		Expect(m.Stats().Rounds).To(Equal(uint64(1)))
		_, ok := sampleNow(m, sidecarTarget.Cgroup).Get(metrics.CPUUsage)
		Expect(ok).To(BeTrue())
		old, _ := sampleNow(m, appTarget.Cgroup).Get(metrics.CPUUsage)
		Expect(old).To(Equal(uint64(1500001000)))

		By("but for those that are named")
		m.Refresh(appTarget.Cgroup, "/unknown")
		Eventually(func() uint64 {
			now, _ := sampleNow(m, appTarget.Cgroup).Get(metrics.CPUUsage)
			return now
		}, patience).Should(Equal(uint64(999000000000)))
		Expect(m.Stats().Rounds).To(Equal(uint64(1)))
		// The history is of rounds alone: who asks, and how often, changes no rate.
		Expect(m.History(appTarget.Cgroup)).To(HaveLen(1))
	})

	It("leaves nothing behind of targets that were named and are gone", func() {
		t := newTree()
		m := t.meter()
		running(m)
		Eventually(m.Stats, patience).Should(HaveField("Rounds", uint64(1)))
		t.remove("cgroup" + appTarget.Cgroup)
		t.to.set(podTarget, sidecarTarget)
		m.Refresh(appTarget.Cgroup)
		Eventually(m.Exited, patience).Should(HaveLen(1))
		last := m.Exited()[0]
		Expect(last.Gone).To(BeTrue())
		Expect(last.Target).To(Equal(appTarget))
		used, ok := last.Get(metrics.CPUUsage)
		Expect([]any{used, ok}).To(Equal([]any{uint64(1500001000), true}))
	})
})

var _ = Describe("Exited", func() {
	It("keeps the last ones, at most Config.Exited", func() {
		t := newTree()
		cfg := t.config()
		cfg.Exited = 3
		m, err := metrics.New(cfg)
		Expect(err).NotTo(HaveOccurred())
		for i := range 5 {
			one := appTarget
			one.ID = fmt.Sprint("c", i)
			t.to.set(one)
			t.clock.Step(time.Second)
			_, err := m.Samples(context.Background(), 0)
			Expect(err).NotTo(HaveOccurred())
		}
		t.to.set(metrics.Target{Cgroup: "/never/there", ID: "x"})
		for range 2 {
			t.clock.Step(time.Second)
			_, err = m.Samples(context.Background(), 0)
			Expect(err).NotTo(HaveOccurred())
			t.to.set()
		}
		var ids []string
		for _, s := range m.Exited() {
			ids = append(ids, s.Target.ID)
		}
		Expect(ids).To(Equal([]string{"c2", "c3", "c4"}))
	})

	It("is empty if none are wanted", func() {
		t := newTree()
		cfg := t.config()
		cfg.Exited = -1
		m, err := metrics.New(cfg)
		Expect(err).NotTo(HaveOccurred())
		_, err = m.Samples(context.Background(), 0)
		Expect(err).NotTo(HaveOccurred())
		t.to.set()
		t.clock.Step(time.Second)
		_, err = m.Samples(context.Background(), 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(m.Exited()).To(BeEmpty())
	})
})

// patience is for a machine that is busy with others.
const patience = "60s"

// running runs m until the test ends.
func running(m *metrics.Meter) {
	GinkgoHelper()
	ctx, cancel := context.WithCancel(context.Background())
	done := run(ctx, m)
	DeferCleanup(func() { cancel(); Eventually(done, patience).Should(Receive(BeNil())) })
}

// sampleNow gives the sample that is there, without a new round.
func sampleNow(m *metrics.Meter, cgroup string) *metrics.Sample {
	GinkgoHelper()
	s, err := m.Sample(context.Background(), cgroup, time.Hour)
	Expect(err).NotTo(HaveOccurred())
	return &s
}
