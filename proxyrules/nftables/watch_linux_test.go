package nftables_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/nftables"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

const soon = 30 * time.Second

// heard gathers what a watch tells of.
type heard struct {
	mu     sync.Mutex
	drifts []proxyrules.Drift
	before func() // each notice, if not nil
}

func (h *heard) notice(d proxyrules.Drift) {
	if h.before != nil {
		h.before()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drifts = append(h.drifts, d)
}

func (h *heard) all() []proxyrules.Drift {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]proxyrules.Drift(nil), h.drifts...)
}

// watch runs a watch until the test ends, from the time that it hears.
func watch(d *nftables.Dialect, h *heard) {
	GinkgoHelper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	const twice = "watched already"
	go func() {
		err := d.Watch(ctx, h.notice)
		for err != nil && strings.Contains(err.Error(), twice) {
			err = d.Watch(ctx, h.notice) // the question below was quicker
		}
		done <- err
	}()
	DeferCleanup(func() {
		cancel()
		Eventually(done).WithTimeout(soon).Should(Receive(BeNil()))
	})
	over, end := context.WithCancel(ctx)
	end()
	Eventually(func() error { return d.Watch(over, h.notice) }).WithTimeout(soon).Should(MatchError(ContainSubstring(twice)))
}

var _ = Describe("a watch", func() {
	ctx := context.Background()
	const table = "nodekit-test"
	var ns *kerneltest.NetNS
	var d *nftables.Dialect

	BeforeEach(func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root, kerneltest.Nft)
		ns = kerneltest.NewNetNS(GinkgoT())
		d = openIn(ns, table)
	})
	apply := func(wanted *proxyrules.Table) proxyrules.SyncStats {
		GinkgoHelper()
		stats, err := d.Sync(ctx, wanted)
		Expect(err).NotTo(HaveOccurred())
		return stats
	}

	It("tells of each edit of our tables, and who made it", func() {
		h := &heard{}
		watch(d, h)
		services, endpoints := example()
		wanted := build(services, endpoints, testNode, nil)
		apply(wanted)
		for i, edit := range []string{
			"flush ruleset",
			"delete table ip6 " + table,
			"flush chain ip " + table + " dispatch",
			"insert rule ip " + table + " prerouting accept",
			"add element ip " + table + " cluster-ips { 10.96.0.99 }",
			"delete element ip " + table + " ep-tcp { 10.96.0.10 . 80 . 1 }",
			"add chain ip " + table + " lb-tcp-77",
			"add set ip " + table + " other { type mark; }",
			"add table ip " + table + " { flags dormant; }",
		} {
			nft(ns, edit, "-f", "-")
			Eventually(h.all).WithTimeout(soon).Should(HaveLen(i+1), edit)
			drift := h.all()[i]
			Expect(drift.Program).To(Equal("nft"), edit)
			Expect(drift.PID).NotTo(BeZero(), edit)
			Expect(apply(wanted).Full).To(BeTrue(), edit)
		}
	})

	It("tells nothing of our own transactions, small or large", func() {
		h := &heard{}
		watch(d, h)
		services, endpoints := many(1000, 10)
		var last *proxyrules.Table
		for i := range 50 {
			first := i % 2 * 500 * (i % 3)
			last = build(services[first:], endpoints[first:], testNode, last)
			apply(last)
		}
		Expect(d.Cleanup(ctx)).To(Succeed())
		apply(last)
		// One that must be told of ends the waiting for those that must not.
		nft(ns, "flush ruleset", "-f", "-")
		Eventually(h.all).WithTimeout(soon).ShouldNot(BeEmpty())
		Expect(h.all()).To(HaveExactElements(HaveField("Program", "nft")))
	})

	It("tells nothing of other tables, and spares reading ours for them", func() {
		h := &heard{}
		watch(d, h)
		services, endpoints := example()
		wanted := build(services, endpoints, testNode, nil)
		apply(wanted)
		for i := range 3 {
			nft(ns, fmt.Sprintf("add table ip other%d; add table inet %s; add chain inet %s c%d", i, table, table, i), "-f", "-")
			Eventually(func() bool { return apply(wanted).Full }).WithTimeout(soon).Should(BeFalse())
		}
		other := build(services[1:], endpoints, testNode, wanted)
		nft(ns, "add table ip another", "-f", "-")
		Eventually(func() bool { full := apply(other).Full; apply(wanted); return full }).WithTimeout(soon).Should(BeFalse())
		Expect(h.all()).To(BeEmpty())
		nft(ns, "flush table ip "+table, "-f", "-")
		Expect(apply(wanted).Full).To(BeTrue())
	})

	It("says when there was more to tell than it could hear", func() {
		hold, holding := make(chan struct{}), make(chan struct{}, 100)
		release := sync.OnceFunc(func() { close(hold) })
		DeferCleanup(release)
		h := &heard{before: func() { holding <- struct{}{}; <-hold }}
		watch(d, h)
		services, endpoints := example()
		apply(build(services, endpoints, testNode, nil))
		nft(ns, "flush ruleset", "-f", "-")
		Eventually(holding).WithTimeout(soon).Should(Receive())
		var flood strings.Builder
		flood.WriteString("table ip flood { set s { type ipv4_addr; elements = { 10.0.0.0")
		for i := range 20_000 {
			fmt.Fprintf(&flood, ", 10.%d.%d.%d", 1+i>>16, i>>8&255, i&255)
		}
		flood.WriteString(" }; }; }\n")
		nft(ns, flood.String(), "-f", "-")
		release()
		Eventually(h.all).WithTimeout(soon).Should(ContainElement(HaveField("Lost", true)))
	})

	It("tells two agents that keep one table of each other", func() {
		h := &heard{}
		watch(d, h)
		services, endpoints := example()
		wanted := build(services, endpoints, testNode, nil)
		apply(wanted)
		second := openIn(ns, table)
		_, err := second.Sync(ctx, build(services[1:], endpoints, testNode, nil))
		Expect(err).NotTo(HaveOccurred())
		Eventually(h.all).WithTimeout(soon).Should(HaveExactElements(HaveField("PID", Not(BeZero()))))
	})

	It("ends with its context or its dialect, and can begin again", func() {
		for range 3 {
			inner, cancel := context.WithCancel(ctx)
			done := make(chan error, 1)
			go func() { done <- d.Watch(inner, (&heard{}).notice) }()
			cancel()
			Eventually(done).WithTimeout(soon).Should(Receive(BeNil()))
		}
		other, err := nftables.Open(nftables.Config{Table: table, NetNS: ns.FD()})
		must(err)
		done := make(chan error, 1)
		go func() { done <- other.Watch(ctx, (&heard{}).notice) }()
		must(other.Close())
		Eventually(done).WithTimeout(soon).Should(Receive(HaveOccurred()))
	})

	It("lets a proxy repair at once what others took away, and tell of it", func() {
		proxy, err := proxyrules.New(proxyrules.Config{Dialect: d, Node: testNode, Watch: d.Watch, CheckEvery: -1})
		must(err)
		inner, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- proxy.Run(inner) }()
		DeferCleanup(func() { cancel(); Expect(<-done).To(Succeed()) })
		services, endpoints := many(300, 3)
		proxy.Set(services, endpoints)
		Eventually(func() bool { return proxy.Table() != nil }).WithTimeout(soon).Should(BeTrue())
		good := listing(ns, table)
		for i, edit := range []string{"flush ruleset", "flush chain ip " + table + " refusals", "delete element ip " + table + " ep-tcp { 10.96.0.10 . 80 . 1 }"} {
			if i == 2 {
				front := proxy.Table().At(0)
				edit = fmt.Sprintf("delete element ip %s ep-tcp { %s . %d . 0 }", table, front.Addr, front.Port)
			}
			began := time.Now()
			nft(ns, edit, "-f", "-")
			Eventually(func() uint64 { return proxy.Status().Drifts }).WithTimeout(soon).Should(BeEquivalentTo(i+1), edit)
			drift := proxy.Status().Drift
			GinkgoWriter.Printf("%s: noticed %s after nft began, repaired %s later, %d elements\n", edit, drift.Noticed.Sub(began), drift.Repaired.Sub(drift.Noticed), drift.Elements)
			Expect(drift.Program).To(Equal("nft"))
			Expect(listing(ns, table)).To(Equal(good), edit)
		}
	})
})
