package metrics_test

import (
	"context"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
	"k8s.io/utils/clock"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/metrics"
)

// trap is a clock that does something when it is looked at for the nth time, for
// a Meter looks at it between two files.
type trap struct {
	clock.RealClock
	looks atomic.Int64 // until it does; none if negative
	do    func()
}

func (t *trap) Now() time.Time {
	if t.looks.Add(-1) == 0 {
		t.do()
	}
	return t.RealClock.Now()
}

var _ = Describe("a cgroup that is removed between two reads", Label("kernel"), func() {
	DescribeTable("is a told gap and no wrong figure", func(descriptors int) {
		kerneltest.Require(GinkgoT(), kerneltest.Root, kerneltest.Cgroup)
		ctx := context.Background()
		partly := 0
		for look := int64(1); look <= 12; look++ {
			cg := newCgroup(uniquePath())
			to := &targets{}
			to.set(metrics.Target{Cgroup: cg.path})
			at := &trap{do: func() {
				for _, dir := range cg.dirs() {
					_ = unix.Rmdir(dir) // nothing is in it
				}
			}}
			m, err := metrics.New(metrics.Config{Targets: to, Clock: at, Descriptors: descriptors, Interval: time.Hour, LimitsInterval: time.Nanosecond})
			Expect(err).NotTo(HaveOccurred())
			running, cancel := context.WithCancel(ctx)
			done := run(running, m)
			Eventually(m.Stats).Should(HaveField("Rounds", BeNumerically(">=", 1)))
			before, err := m.Sample(ctx, cg.path, 0)
			Expect(err).NotTo(HaveOccurred())
			Expect(before.Gone).To(BeFalse())

			at.looks.Store(look)
			s, err := m.Sample(ctx, cg.path, 0)
			Expect(err).NotTo(HaveOccurred())
			lost := 0
			for f := metrics.Field(0); f <= metrics.LimitOpenFiles; f++ {
				was, had := before.Get(f)
				is, has := s.Get(f)
				if has {
					Expect(is).To(Equal(was), "field %d, removed at look %d", f, look)
				} else if had && f != metrics.CPURate {
					lost++
				}
			}
			if s.Gone || lost > 0 {
				Expect(s.Gaps).NotTo(BeEmpty(), "removed at look %d", look)
			}
			if lost > 0 && !s.Gone {
				partly++
			}
			at.looks.Store(-1)
			for _, dir := range cg.dirs() {
				_ = unix.Rmdir(dir)
			}
			s, err = m.Sample(ctx, cg.path, 0)
			Expect(err).NotTo(HaveOccurred())
			Expect(s.Gone).To(BeTrue())
			cancel()
			Eventually(done).Should(Receive(BeNil()))
		}
		Expect(partly).To(BeNumerically(">", 0), "none was removed between two reads")
	},
		Entry("with kept descriptors", 0),
		Entry("with openat", -1),
	)
})
