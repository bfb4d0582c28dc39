package proxyrules_test

import (
	"context"
	"errors"
	"net/netip"
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

// fakeDialect keeps what it was given.
type fakeDialect struct {
	mu     sync.Mutex
	left   *proxyrules.Table // of an earlier run
	tables []*proxyrules.Table
	loads  int
	fail   error
	hold   chan struct{} // Sync waits for it, if not nil
	gone   bool
}

var _ proxyrules.Dialect = (*fakeDialect)(nil)

func (d *fakeDialect) Load(context.Context) (*proxyrules.Table, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.loads++
	return d.left, d.fail
}

func (d *fakeDialect) Sync(_ context.Context, table *proxyrules.Table) (proxyrules.SyncStats, error) {
	d.mu.Lock()
	hold := d.hold
	d.mu.Unlock()
	if hold != nil {
		<-hold
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return proxyrules.SyncStats{}, d.fail
	}
	var old *proxyrules.Table
	if len(d.tables) > 0 {
		old = d.tables[len(d.tables)-1]
	}
	d.tables = append(d.tables, table)
	changes := proxyrules.Diff(old, table)
	return proxyrules.SyncStats{Elements: changes.Len()}, nil
}

func (d *fakeDialect) Cleanup(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gone = true
	return d.fail
}

func (d *fakeDialect) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

func (d *fakeDialect) last() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.tables) == 0 {
		return ""
	}
	return render(d.tables[len(d.tables)-1])
}

func (d *fakeDialect) syncs() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.tables)
}

var _ = Describe("Proxy", func() {
	var dialect *fakeDialect
	var clock *clocktesting.FakeClock
	var proxy *proxyrules.Proxy
	var stop func()
	web := service("web", "10.96.0.10", "http:80/TCP")
	set := func(addresses ...string) {
		proxy.Set([]*corev1.Service{web}, []*discoveryv1.EndpointSlice{endpoints("web", "http", "TCP", 8080, addresses...)})
	}
	const prefix = "10.96.0.10:80/TCP ClusterIP default/web balance off-cluster"

	BeforeEach(func() {
		ignore := goleak.IgnoreCurrent()
		dialect = &fakeDialect{}
		clock = clocktesting.NewFakeClock(time.Unix(1000, 0))
		var err error
		proxy, err = proxyrules.New(proxyrules.Config{Dialect: dialect, Node: testNode, Clock: clock})
		Expect(err).NotTo(HaveOccurred())
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- proxy.Run(ctx) }()
		stop = sync.OnceFunc(func() {
			cancel()
			Expect(<-done).To(Succeed())
		})
		DeferCleanup(func() {
			stop()
			Eventually(func() error { return goleak.Find(ignore) }).Should(Succeed())
		})
	})

	It("applies each set at once, and the last of a burst", func() {
		hold := make(chan struct{})
		dialect.set(func() { dialect.hold = hold })
		set("10.244.0.1")
		Eventually(proxy.Status).Should(HaveField("Pending", true))
		for range 100 {
			set("10.244.0.2")
			set("10.244.0.3")
		}
		close(hold)
		Eventually(dialect.last).Should(Equal(prefix + " 10.244.0.3:8080\n"))
		Eventually(proxy.Status).Should(HaveField("Pending", false))
		Expect(dialect.syncs()).To(BeNumerically("<=", 3))
		Expect(proxy.Table().Len()).To(Equal(1))
		explained := proxy.Trace(proxyrules.Packet{From: netip.MustParseAddr("10.244.0.9"), To: netip.MustParseAddrPort("10.96.0.10:80"), Protocol: "TCP"})
		Expect(explained.Backends).To(HaveLen(1))
	})

	It("lets a burst gather after a sync, if told how long", func() {
		stop()
		var err error
		proxy, err = proxyrules.New(proxyrules.Config{Dialect: dialect, Node: testNode, Clock: clock, MinGap: time.Second})
		Expect(err).NotTo(HaveOccurred())
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- proxy.Run(ctx) }()
		DeferCleanup(func() { cancel(); Expect(<-done).To(Succeed()) })
		set("10.244.0.1")
		Eventually(proxy.Status).Should(HaveField("Syncs", uint64(1)), "the first is made at once")
		set("10.244.0.2")
		Consistently(dialect.syncs, "50ms").Should(Equal(1))
		set("10.244.0.3")
		clock.Step(time.Second)
		Eventually(dialect.last).Should(Equal(prefix + " 10.244.0.3:8080\n"))
		Expect(dialect.syncs()).To(Equal(2))
		Eventually(proxy.Status).Should(HaveField("Pending", false))
		clock.Step(time.Second)
		set("10.244.0.4")
		Eventually(dialect.last).Should(Equal(prefix+" 10.244.0.4:8080\n"), "long after the last one")
	})

	It("touches nothing before the first set", func() {
		Eventually(clock.HasWaiters).Should(BeTrue())
		clock.Step(time.Hour)
		Consistently(dialect.syncs, "50ms").Should(BeZero())
		Expect(proxy.Healthy()).To(MatchError("no rules applied yet"))
		set()
		Eventually(dialect.syncs).Should(Equal(1))
		Eventually(proxy.Healthy).Should(Succeed())
	})

	It("gives endpoints the index that an earlier run gave them", func() {
		dialect.set(func() {
			dialect.left = proxyrules.NewTable(proxyrules.Node{}, []*proxyrules.Front{{
				FrontKey:  proxyrules.FrontKey{Addr: netip.MustParseAddr("10.96.0.10"), Protocol: "TCP", Port: 80},
				Endpoints: []proxyrules.Endpoint{{Addr: netip.MustParseAddrPort("10.244.0.2:8080")}, {}},
			}})
		})
		set("10.244.0.1", "10.244.0.2")
		Eventually(dialect.last).Should(Equal(prefix + " 10.244.0.2:8080 10.244.0.1:8080\n"))
		set("10.244.0.1", "10.244.0.2", "10.244.0.3")
		Eventually(dialect.last).Should(Equal(prefix + " 10.244.0.2:8080 10.244.0.1:8080 10.244.0.3:8080\n"))
		Expect(dialect.loads).To(Equal(1))
	})

	It("tries again with growing waits, and tells why meanwhile", func() {
		dialect.set(func() { dialect.fail = errors.New("no memory") })
		set("10.244.0.1")
		for i, wait := range []time.Duration{100, 200, 400, 800} {
			Eventually(func() uint64 { return proxy.Status().Failures }).Should(Equal(uint64(i + 1)))
			Expect(proxy.Healthy()).To(MatchError("last sync: no memory"))
			Eventually(clock.HasWaiters).Should(BeTrue())
			clock.Step(wait*time.Millisecond - 1)
			Consistently(func() uint64 { return proxy.Status().Failures }, "20ms").Should(Equal(uint64(i + 1)))
			clock.Step(1)
		}
		Eventually(func() uint64 { return proxy.Status().Failures }).Should(Equal(uint64(5)))
		dialect.set(func() { dialect.fail = nil })
		set("10.244.0.2")
		Eventually(dialect.last).Should(Equal(prefix + " 10.244.0.2:8080\n"))
		Eventually(proxy.Healthy).Should(Succeed())
		Expect(proxy.Status().LastError).NotTo(HaveOccurred())
	})

	It("asks the dialect again every ten seconds", func() {
		set("10.244.0.1")
		Eventually(dialect.syncs).Should(Equal(1))
		for i := range 3 {
			Eventually(clock.HasWaiters).Should(BeTrue())
			clock.Step(10 * time.Second)
			Eventually(dialect.syncs).Should(Equal(i + 2))
		}
		Expect(proxy.Status().Stats.Elements).To(Equal(2), "of the sync that changed something")
	})

	It("is unhealthy when an update waits too long", func() {
		set("10.244.0.1")
		Eventually(proxy.Healthy).Should(Succeed())
		hold := make(chan struct{})
		dialect.set(func() { dialect.hold = hold })
		set("10.244.0.2")
		Expect(proxy.Healthy()).To(Succeed())
		clock.Step(2 * time.Minute)
		Expect(proxy.Healthy()).To(MatchError("an update waits since 2m0s"))
		close(hold)
		Eventually(proxy.Healthy).Should(Succeed())
	})

	It("names problems in its status", func() {
		proxy.Set([]*corev1.Service{service("web", "bad", "http:80/TCP")}, nil)
		Eventually(func() []proxyrules.Problem { return proxy.Status().Problems }).Should(ConsistOf(
			proxyrules.Problem{Service: "default/web", Field: "spec.clusterIP", Reason: `"bad" is not an IP address`}))
	})

	It("leaves the rules when it ends, and removes them when told to", func() {
		set("10.244.0.1")
		Eventually(proxy.Healthy).Should(Succeed())
		stop()
		Expect(dialect.gone).To(BeFalse())
		Expect(proxy.Run(context.Background())).To(MatchError(proxyrules.ErrStarted))
		Expect(proxy.Cleanup(context.Background())).To(Succeed())
		Expect(dialect.gone).To(BeTrue())
		Expect(proxy.Table()).To(BeNil())
		dialect.fail = errors.New("no")
		Expect(proxy.Cleanup(context.Background())).To(MatchError("clean up rules: no"))
	})

	It("follows the node's facts", func() {
		Expect(proxy.SetNode(proxyrules.Node{Name: "node1"})).To(Succeed())
		Consistently(dialect.syncs, "20ms").Should(BeZero(), "nothing was set yet")
		set("10.244.0.1", "10.244.0.2 l")
		Eventually(dialect.last).Should(Equal(prefix + " 10.244.0.1:8080 10.244.0.2:8080\n"))
		zone1, zone2 := proxyrules.Node{Zone: "zone1"}, proxyrules.Node{Zone: "zone2"}
		set("10.244.0.1 z", "10.244.0.2 Z")
		Expect(proxy.SetNode(zone1)).To(Succeed())
		Eventually(dialect.last).Should(Equal(prefix + " 10.244.0.1:8080\n"))
		Expect(proxy.SetNode(zone2)).To(Succeed())
		Eventually(dialect.last).Should(Equal(prefix + " 10.244.0.2:8080\n"))
		Expect(proxy.SetNode(proxyrules.Node{LocalInterface: "a/b"})).To(MatchError(ContainSubstring("Node.LocalInterface")))
		Expect(proxy.Table().Node.Zone).To(Equal("zone2"))
	})

	It("reports all bad fields of its config together", func() {
		_, err := proxyrules.New(proxyrules.Config{MinGap: -1, Node: proxyrules.Node{
			Addresses: []netip.Addr{{}}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")},
			LocalCIDRs: []netip.Prefix{{}}, LocalInterface: "sixteencharacter"}})
		Expect(err).To(MatchError(And(ContainSubstring("Dialect"), ContainSubstring("Node.Addresses[0]"),
			ContainSubstring("Node.PodCIDRs[0]"), ContainSubstring("Node.LocalCIDRs[0]"), ContainSubstring("exclude"),
			ContainSubstring("Node.LocalInterface"), ContainSubstring("MinGap"))))
	})
})
