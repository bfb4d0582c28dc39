package proxyrules_test

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nodekit/nodekit/proxyrules"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	clocktesting "k8s.io/utils/clock/testing"
)

// repairing is a dialect whose rules another program may take away.
type repairing struct {
	fakeDialect
	taken int // elements that the next Sync has to write again
}

func (d *repairing) Sync(ctx context.Context, table *proxyrules.Table) (proxyrules.SyncStats, error) {
	stats, err := d.fakeDialect.Sync(ctx, table)
	d.set(func() {
		if err == nil && d.taken > 0 {
			stats.Full, stats.Elements = true, d.taken
			d.taken = 0
		}
	})
	return stats, err
}

var _ = Describe("records of syncs", func() {
	var dialect *repairing
	var clock *clocktesting.FakeClock
	var proxy *proxyrules.Proxy
	var notices chan func(proxyrules.Drift) // a send is a watch that begins
	var broken chan error
	web := service("web", "10.96.0.10", "http:80/TCP")
	set := func(addresses ...string) {
		proxy.Set([]*corev1.Service{web}, []*discoveryv1.EndpointSlice{endpoints("web", "http", "TCP", 8080, addresses...)})
	}
	// syncs waits for at least n records.
	syncs := func(n int) []proxyrules.SyncRecord {
		GinkgoHelper()
		var records []proxyrules.SyncRecord
		Eventually(func() []proxyrules.SyncRecord {
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			records, _ = proxy.Syncs(ctx, 0)
			return records
		}).WithTimeout(time.Minute).Should(HaveLen(n))
		return records
	}

	BeforeEach(func() {
		ignore := goleak.IgnoreCurrent()
		dialect = &repairing{}
		clock = clocktesting.NewFakeClock(time.Unix(1000, 0))
		notices, broken = make(chan func(proxyrules.Drift)), make(chan error)
		begun, watchBroken := notices, broken
		var err error
		proxy, err = proxyrules.New(proxyrules.Config{Dialect: dialect, Node: testNode, Clock: clock,
			Watch: func(ctx context.Context, notice func(proxyrules.Drift)) error {
				for {
					select {
					case <-ctx.Done():
						return nil
					case err := <-watchBroken:
						return err
					case begun <- notice:
					}
				}
			}})
		Expect(err).NotTo(HaveOccurred())
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- proxy.Run(ctx) }()
		DeferCleanup(func() {
			cancel()
			Expect(<-done).To(Succeed())
			Eventually(func() error { return goleak.Find(ignore) }).Should(Succeed())
		})
	})

	It("tell what changed, why, and when it began", func() {
		slice := endpoints("web", "http", "TCP", 8080, "10.244.0.5")
		slice.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: "2026-01-02T03:04:05.5Z"}
		api := service("api", "10.96.0.11", "http:80/TCP")
		proxy.Set([]*corev1.Service{web, api}, []*discoveryv1.EndpointSlice{slice})
		first := syncs(1)[0]
		Expect(first.Number).To(BeEquivalentTo(1))
		Expect(first.Cause).To(Equal(proxyrules.CauseSet))
		Expect([]int{first.Services, first.EndpointSlices, first.Fronts}).To(Equal([]int{2, 1, 2}))
		Expect(first.Triggers).To(Equal([]time.Time{time.Date(2026, 1, 2, 3, 4, 5, 5e8, time.UTC)}))
		Expect(proxy.Status().Queued).To(Equal(clock.Now()))

		dialect.set(func() { dialect.fail = errors.New("no room") })
		proxy.Set([]*corev1.Service{web.DeepCopy()}, nil) // web is another, api and the slice are gone
		second := syncs(2)[1]
		Expect(second.Err).To(MatchError("no room"))
		Expect([]int{second.Services, second.EndpointSlices}).To(Equal([]int{2, 1}))
		clock.Step(2 * time.Minute)
		Expect(proxy.Status().Waiting).To(BeNumerically(">=", time.Minute))
		Expect(syncs(3)[2].Cause).To(Equal(proxyrules.CauseRetry))
	})

	It("wait for the next, or for the end of their context", func() {
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() {
			defer GinkgoRecover()
			records, err := proxy.Syncs(context.Background(), 0)
			Expect(err).NotTo(HaveOccurred())
			Expect(records).To(HaveLen(1))
			_, err = proxy.Syncs(ctx, 1)
			Expect(err).To(MatchError(context.Canceled))
		})
		set("10.244.0.5")
		syncs(1)
		cancel()
		wg.Wait()
	})

	It("name who changed our rules, and count a drift once it is repaired", func() {
		notice := <-notices
		set("10.244.0.5")
		syncs(1)
		dialect.set(func() { dialect.taken = 3 })
		notice(proxyrules.Drift{Program: "nft", PID: 7})
		record := syncs(2)[1]
		Expect(record.Cause).To(Equal(proxyrules.CauseDrift))
		want := &proxyrules.Drift{Noticed: clock.Now(), Program: "nft", PID: 7, Repaired: clock.Now(), Elements: 3}
		Expect(record.Drift).To(Equal(want))
		Expect(proxy.Status()).To(And(HaveField("Drifts", BeEquivalentTo(1)), HaveField("Drift", want), HaveField("Pending", false)))
	})

	It("tell of a drift that nobody told of", func() {
		set("10.244.0.5")
		syncs(1)
		dialect.set(func() { dialect.taken = 1 })
		Eventually(clock.HasWaiters).WithTimeout(time.Minute).Should(BeTrue())
		clock.Step(time.Minute)
		Expect(syncs(2)[1]).To(And(HaveField("Cause", proxyrules.CauseCheck), HaveField("Drift.Elements", 1)))
	})

	It("have the rules looked at when the watch breaks, and watch again", func() {
		<-notices
		set("10.244.0.5")
		syncs(1)
		before := dialect.syncs()
		broken <- errors.New("no buffer space")
		Eventually(dialect.syncs).WithTimeout(time.Minute).Should(BeNumerically(">", before))
		Expect(proxy.Status().Drifts).To(BeZero(), "nothing was changed")
		Eventually(func() bool {
			clock.Step(time.Second)
			select {
			case <-notices:
				return true
			default:
				return false
			}
		}).WithTimeout(time.Minute).Should(BeTrue())
	})

	It("keep two programs that undo each other's work from a race", func() {
		notice := <-notices
		set("10.244.0.5")
		syncs(1)
		for i := range 3 {
			notice(proxyrules.Drift{Program: "other"})
			syncs(2 + i)
		}
		notice(proxyrules.Drift{Program: "other"})
		Consistently(dialect.syncs).WithTimeout(50 * time.Millisecond).Should(Equal(4))
		Eventually(func() int {
			clock.Step(200 * time.Millisecond)
			return dialect.syncs()
		}).WithTimeout(time.Minute).Should(Equal(5))
	})

	It("are bounded", func() {
		for i := range proxyrules.MaxSyncRecords + 10 {
			before := dialect.syncs()
			set([]string{"10.244.0.5", "10.244.0.6"}[i%2])
			Eventually(dialect.syncs).WithTimeout(time.Minute).WithPolling(100 * time.Microsecond).Should(Equal(before + 1))
		}
		Eventually(func() uint64 { return proxy.Status().Syncs }).WithTimeout(time.Minute).Should(BeEquivalentTo(proxyrules.MaxSyncRecords + 10))
		records, err := proxy.Syncs(context.Background(), 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(records).To(HaveLen(proxyrules.MaxSyncRecords))
		Expect(records[0].Number).To(BeEquivalentTo(11))
	})
})
