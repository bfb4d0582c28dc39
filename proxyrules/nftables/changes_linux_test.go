package nftables_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/nftables"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// live is a Service that pods stand behind, and which of them may answer: the
// sets that were in force at any time since the oldest that matters.
type live struct {
	service *corev1.Service
	slice   *discoveryv1.EndpointSlice
	to      string

	mu    sync.Mutex
	sets  []map[string]bool // those that the rules had, oldest first
	since int               // the first that the kernel may still hold
}

// begin is the moment before something is sent.
func (l *live) begin() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.since
}

// wrong says whether an answer of a host, or none with an error, cannot come
// from any set in force since then.
func (l *live) wrong(since int, host string, err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, set := range l.sets[since:] {
		if err != nil && len(set) == 0 || err == nil && set[host] {
			return nil
		}
	}
	// A datagram, or its answer, is lost with the endpoint that it was sent to.
	var timeout net.Error
	if l.service.Spec.Ports[0].Protocol == corev1.ProtocolUDP && errors.As(err, &timeout) && timeout.Timeout() {
		for i, set := range l.sets[since:] {
			for host := range set {
				if slices.ContainsFunc(l.sets[since+i:], func(later map[string]bool) bool { return !later[host] }) {
					return nil
				}
			}
		}
	}
	return fmt.Errorf("%s: answer of %q, error %v; endpoints were %v", l.to, host, err, l.sets[since:])
}

// churn is a cluster under change.
type churn struct {
	*world
	r         *rand.Rand
	live      []*live
	services  []*corev1.Service
	slices    []*discoveryv1.EndpointSlice
	connected atomic.Int64
	asked     atomic.Int64
}

func newChurn(seed uint64, services int) *churn {
	GinkgoHelper()
	c := &churn{world: &world{network: newNetwork(6, "0")}, r: rand.New(rand.NewPCG(seed, 21))}
	for _, pod := range c.pods {
		pod.serve(8080)
	}
	c.dialect = openIn(c.node.NetNS, "nodekit")
	for i := range 16 {
		vip, protocol := fmt.Sprintf("10.96.1.%d", i), corev1.ProtocolTCP
		if i%4 == 1 {
			vip = fmt.Sprintf("fd00:96::1:%x", i)
		}
		if i%4 == 2 {
			protocol = corev1.ProtocolUDP
		}
		s := service(fmt.Sprintf("live%02d", i), vip, port(protocol, 80, int32(31000+i)))
		l := &live{service: s, to: netip.AddrPortFrom(netip.MustParseAddr(vip), 80).String()}
		if i%8 == 4 {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		}
		if i%8 == 7 {
			l.to = fmt.Sprintf("192.0.2.1:%d", 31000+i)
		}
		l.sets = []map[string]bool{{}}
		c.live = append(c.live, l)
		c.choose(l)
		c.services, c.slices = append(c.services, s), append(c.slices, l.slice)
	}
	more, backs := many(services, 6)
	c.services, c.slices = append(c.services, more...), append(c.slices, backs...)
	return c
}

// choose gives a live Service other endpoints, sometimes none.
func (c *churn) choose(l *live) {
	var ips []string
	set := make(map[string]bool)
	like := netip.MustParseAddr(l.service.Spec.ClusterIP)
	for _, pod := range c.pods[1:] {
		if c.r.IntN(5) < 2 {
			ips = append(ips, pod.addr(like).String())
			set[pod.name] = true
		}
	}
	l.slice = slice(l.service, l.service.Spec.Ports[0], 8080, ips...)
	if len(ips) == 0 && like.Is6() {
		l.slice.AddressType = discoveryv1.AddressTypeIPv6
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sets = append(l.sets, set)
}

// step changes something, at times nothing that has traffic.
func (c *churn) step() {
	i := c.r.IntN(len(c.slices))
	if c.r.IntN(3) == 0 {
		i = c.r.IntN(len(c.live))
	}
	switch kind := c.r.IntN(10); {
	case i < len(c.live):
		c.choose(c.live[i])
		c.slices[i] = c.live[i].slice
	case kind == 0:
		c.services[i] = c.services[i].DeepCopy()
		s := c.services[i]
		if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
			s.Spec.SessionAffinity = ""
		} else {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		}
	case kind == 1: // away, and back at the end
		s := c.services[i].DeepCopy()
		s.Name += "x"
		e := c.slices[i].DeepCopy()
		e.Labels = map[string]string{discoveryv1.LabelServiceName: s.Name}
		c.services, c.slices = append(slices.Delete(c.services, i, i+1), s), append(slices.Delete(c.slices, i, i+1), e)
	case kind == 2:
		s := c.services[i].DeepCopy()
		s.Spec.Ports[0].Port = int32(80 + c.r.IntN(3))
		c.services[i] = s
	default:
		e := c.slices[i].DeepCopy()
		switch n := len(e.Endpoints); {
		case kind < 5 && n > 0:
			e.Endpoints = e.Endpoints[:n-1]
		case kind < 8 && n > 0:
			e.Endpoints[c.r.IntN(n)].Addresses[0] = fmt.Sprintf("10.251.%d.%d", c.r.IntN(256), 1+c.r.IntN(254))
		default:
			e.Endpoints = append(e.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.252.%d.%d", c.r.IntN(256), 1+c.r.IntN(254))}})
		}
		c.slices[i] = e
	}
}

// apply brings the kernel up to date; after that the old sets are over.
func (c *churn) apply() (proxyrules.SyncStats, error) {
	newest := make([]int, len(c.live))
	for i, l := range c.live {
		l.mu.Lock()
		newest[i] = len(l.sets) - 1
		l.mu.Unlock()
	}
	c.table, _ = proxyrules.Build(c.services, c.slices, c.facts, c.table)
	stats, err := c.dialect.Sync(context.Background(), c.table)
	if err == nil {
		for i, l := range c.live {
			l.mu.Lock()
			l.since = newest[i]
			l.mu.Unlock()
		}
	}
	return stats, err
}

// connect makes new connections until stop, and checks who answers.
func (c *churn) connect(stop <-chan struct{}, r *rand.Rand) error {
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		l := c.live[r.IntN(len(c.live))]
		since := l.begin()
		answer, err := c.pods[0].ask(strings.ToLower(string(l.service.Spec.Ports[0].Protocol)), l.to)
		name, _, _ := strings.Cut(answer, " ")
		if wrong := l.wrong(since, name, err); wrong != nil {
			return wrong
		}
		c.connected.Add(1)
	}
}

// converse keeps a TCP connection to each Service open, and asks on it again and
// again: whatever changes, who answered first goes on.
func (c *churn) converse(stop <-chan struct{}) error {
	type talk struct {
		*conn
		with string
	}
	talks := make([]*talk, len(c.live))
	defer func() {
		for _, t := range talks {
			if t != nil {
				_ = t.Close()
			}
		}
	}()
	for {
		for i, l := range c.live {
			select {
			case <-stop:
				return nil
			default:
			}
			if l.service.Spec.Ports[0].Protocol != corev1.ProtocolTCP {
				continue
			}
			if talks[i] == nil {
				conn, err := c.pods[0].dial("tcp", l.to, nil)
				if err != nil {
					continue // has no endpoint
				}
				talks[i] = &talk{conn: conn}
			}
			answer, err := talks[i].ask()
			if err != nil || talks[i].with != "" && talks[i].with != answer {
				return fmt.Errorf("open connection to %s with %q: %q %w", l.to, talks[i].with, answer, err)
			}
			talks[i].with = answer
			c.asked.Add(1)
		}
	}
}

// stream sends UDP from one port for each Service: no datagram that is sent
// after a change goes to an endpoint that left with it.
func (c *churn) stream(stop <-chan struct{}) error {
	var conns []*conn
	for i, l := range c.live {
		if l.service.Spec.Ports[0].Protocol != corev1.ProtocolUDP {
			conns = append(conns, nil)
			continue
		}
		local := &net.UDPAddr{IP: c.pods[0].v4.AsSlice(), Port: 15000 + i}
		conn, err := c.pods[0].dial("udp", l.to, local)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		conns = append(conns, conn)
	}
	losses := make([]int, len(c.live))
	for {
		for i, l := range c.live {
			select {
			case <-stop:
				return nil
			default:
			}
			if conns[i] == nil {
				continue
			}
			since := l.begin()
			answer, err := conns[i].ask()
			name, _, _ := strings.Cut(answer, " ")
			if wrong := l.wrong(since, name, err); wrong != nil {
				return fmt.Errorf("one port: %w", wrong)
			}
			losses[i]++
			if err == nil || !os.IsTimeout(err) {
				losses[i] = 0
			}
			if losses[i] == 4 {
				return fmt.Errorf("one port: %s answers no more: %w", l.to, err)
			}
			c.asked.Add(1)
		}
	}
}

// changeCount is how many changes to make: NODEKIT_PROXY_CHANGES says more. Half
// as many Services are there.
func changeCount() int {
	if n, err := strconv.Atoi(os.Getenv("NODEKIT_PROXY_CHANGES")); err == nil {
		return n
	}
	return 400
}

func stringsOf(text string) []string { return strings.Split(text, "\n") }

var _ = Describe("random changes under traffic", func() {
	It("break no connection, and send nothing to an endpoint that left", func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root, kerneltest.Nft)
		seed := uint64(GinkgoRandomSeed())
		changes := changeCount()
		c := newChurn(seed, changes/2)
		_, err := c.apply()
		Expect(err).NotTo(HaveOccurred())

		stop, failed := make(chan struct{}), make(chan error, 10)
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() { failed <- c.connect(stop, rand.New(rand.NewPCG(seed, uint64(100+i)))) })
		}
		wg.Go(func() { failed <- c.converse(stop) })
		wg.Go(func() { failed <- c.stream(stop) })
		stopAll := sync.OnceFunc(func() { close(stop); wg.Wait() })
		DeferCleanup(stopAll)

		begin, elements := time.Now(), 0
		for i := range changes {
			for range 1 + c.r.IntN(3) {
				c.step()
			}
			if i%150 == 149 { // another process takes over
				Expect(c.dialect.Close()).To(Succeed())
				c.dialect, err = nftables.Open(nftables.Config{Table: "nodekit", NetNS: c.node.FD()})
				Expect(err).NotTo(HaveOccurred())
				DeferCleanup(c.dialect.Close)
				c.table, err = c.dialect.Load(context.Background())
				Expect(err).NotTo(HaveOccurred())
			}
			stats, err := c.apply()
			Expect(err).NotTo(HaveOccurred(), "seed %d change %d", seed, i)
			elements += stats.Elements
			select {
			case err := <-failed:
				Fail(fmt.Sprintf("seed %d change %d: %v", seed, i, err))
			default:
			}
		}
		took := time.Since(begin)
		stopAll()
		close(failed)
		for err := range failed {
			Expect(err).NotTo(HaveOccurred(), "seed %d", seed)
		}
		GinkgoWriter.Printf("seed %d: %d changes of %d elements in %s; %d new connections, %d answers on old ones\n",
			seed, changes, elements, took, c.connected.Load(), c.asked.Load())
		Expect(c.connected.Load()).To(BeNumerically(">", 0))
		Expect(c.asked.Load()).To(BeNumerically(">", 0))
		if changes <= 1000 { // the tool that lists takes long for more
			is, want := stringsOf(whole(c.node.NetNS, "nodekit")), stringsOf(loaded(c.table, "nodekit"))
			Expect(is).To(Equal(want), "the rules are those of a first load")
		}
	})
})
