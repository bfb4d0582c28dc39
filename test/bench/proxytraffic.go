package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
)

// trafficFigures are of new TCP connections.
type trafficFigures struct {
	latency []time.Duration // of one after another, the median of each pass
	p99     []time.Duration
	rate    []float64 // connections a second with two at a time, of each pass
}

// acceptor takes connections on all addresses of a namespace and drops them.
type acceptor struct {
	fd   int
	over sync.WaitGroup
}

func accept(ns *kerneltest.NetNS) (*acceptor, error) {
	a := &acceptor{}
	err := ns.Do(func() (err error) {
		if a.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(a.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
		if err := unix.Bind(a.fd, &unix.SockaddrInet4{Port: targetPort}); err != nil {
			return err
		}
		return unix.Listen(a.fd, 4096)
	})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	a.over.Go(func() {
		for {
			fd, _, err := unix.Accept4(a.fd, unix.SOCK_CLOEXEC)
			switch {
			case err == nil:
				_ = unix.Close(fd)
			case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EBADF):
				return // shut down
			}
		}
	})
	return a, nil
}

func (a *acceptor) close() error {
	_ = unix.Shutdown(a.fd, unix.SHUT_RDWR)
	a.over.Wait()
	return unix.Close(a.fd)
}

// road is a way through a node, and how new connections fare on it.
type road struct {
	name   string
	world  *proxyWorld
	bare   bool // no rules
	broken bool // its rules were never whole
	trafficFigures
}

// openLimits adds the same path with conntrack and no rules as the first one, and
// one on which a single rule sends all connections to endpoints: what translation
// takes, without a look for the Service.
func openLimits(roads []*road, n int) ([]*road, error) {
	for _, limit := range []struct {
		name string
		bare bool
		rule func(w *proxyWorld) error
	}{
		{"a single rule for all Services", false, func(w *proxyWorld) error { return w.translate(n) }},
		{"no rules", true, (*proxyWorld).track},
	} {
		w, err := newProxyWorld()
		if err != nil {
			return roads, err
		}
		roads = slices.Insert(roads, 0, &road{name: limit.name, world: w, bare: limit.bare})
		if err := limit.rule(w); err != nil {
			return roads, err
		}
	}
	return roads, nil
}

// measureTraffic connects through n Services, on one road after another in each
// round, so that what disturbs the machine disturbs them alike.
func measureTraffic(ctx context.Context, o proxyOptions, n int, roads []*road) error {
	services := make([]netip.AddrPort, n)
	endpoints := make([]netip.AddrPort, n)
	for i := range services {
		services[i] = netip.AddrPortFrom(netip.MustParseAddr(vip(i)), servicePort)
		endpoints[i] = netip.AddrPortFrom(netip.MustParseAddr(endpointIP(i, 9, 0)), targetPort)
	}
	for _, r := range roads {
		if err := r.world.node.Do(forgetSoon); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	for round := range o.trafficPasses {
		for i := range roads {
			if err := ctx.Err(); err != nil {
				return err
			}
			r := roads[(i+round)%len(roads)] // each has each turn
			to := services
			if r.bare {
				to = endpoints
			}
			if r.broken {
				continue
			}
			if err := errors.Join(r.world.connect(o.traffic, to, &r.trafficFigures), r.world.tracked()); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
		}
	}
	return nil
}

// forgetSoon keeps what was reset from filling the one table that all connections
// of the machine are in: it holds 262,144 by default, for ten seconds.
func forgetSoon() error {
	return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close", []byte("1"), 0)
}

// track has the node look after connections: one rule asks for their state, as
// the kernel does not for none, and nothing is done with it.
func (w *proxyWorld) track() error {
	conn, err := nftables.New(nftables.WithNetNSFd(w.node.FD()))
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "track"})
	chain := conn.AddChain(&nftables.Chain{Table: table, Name: "forward", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1}}})
	return conn.Flush()
}

// translate sends what goes to any Service to any endpoint of n Services.
func (w *proxyWorld) translate(n int) error {
	conn, err := nftables.New(nftables.WithNetNSFd(w.node.FD()))
	if err != nil {
		return err
	}
	first, last := netip.MustParseAddr(endpointIP(0, 0, 0)).As4(), netip.MustParseAddr(endpointIP(n-1, proxyEndpoints-1, 0)).As4()
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "translate"})
	chain := conn.AddChain(&nftables.Chain{Table: table, Name: "prerouting", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(servicePort)},
		&expr.Immediate{Register: 1, Data: first[:]},
		&expr.Immediate{Register: 2, Data: last[:]},
		&expr.Immediate{Register: 3, Data: binaryutil.BigEndian.PutUint16(targetPort)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegAddrMax: 2, RegProtoMin: 3},
	}})
	return conn.Flush()
}

// tracked makes sure that connections are looked after.
func (w *proxyWorld) tracked() error {
	return w.node.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		if err == nil && strings.TrimSpace(string(text)) == "0" {
			err = errors.New("the kernel looks after no connection")
		}
		return err
	})
}

// connect makes connections for a while, one after another, and then two at a time.
func (w *proxyWorld) connect(d time.Duration, to []netip.AddrPort, f *trafficFigures) error {
	return w.client.Do(func() error {
		seed := uint64(len(f.rate) + 1)
		took, err := connectLoop(d, to, seed)
		if err != nil {
			return err
		}
		slices.Sort(took)
		f.latency = append(f.latency, took[len(took)/2])
		f.p99 = append(f.p99, took[len(took)*99/100])

		var made atomic.Int64
		var failed error
		var once sync.Once
		var both sync.WaitGroup
		began := time.Now()
		for i := range 2 {
			both.Go(func() {
				err := w.client.Do(func() error {
					took, err := connectLoop(d, to, seed+uint64(i)<<32)
					made.Add(int64(len(took)))
					return err
				})
				if err != nil {
					once.Do(func() { failed = err })
				}
			})
		}
		both.Wait()
		f.rate = append(f.rate, float64(made.Load())/time.Since(began).Seconds())
		return failed
	})
}

// connectLoop connects to one address after another, at random, and resets each
// connection, so that no port stays taken.
func connectLoop(d time.Duration, to []netip.AddrPort, seed uint64) ([]time.Duration, error) {
	runtime.LockOSThread()
	random := rand.New(rand.NewPCG(seed, 0))
	var took []time.Duration
	for end := time.Now().Add(d); time.Now().Before(end); {
		target := to[random.IntN(len(to))]
		began := time.Now()
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrInet4{Addr: target.Addr().As4(), Port: int(target.Port())})
		}
		took = append(took, time.Since(began))
		if err = errors.Join(err, unix.Close(fd)); err != nil {
			return nil, fmt.Errorf("connection %d, to %s: %w", len(took), target, err)
		}
	}
	return took, nil
}

func printTraffic(o proxyOptions, n int, roads []*road) {
	fmt.Printf("\nNew TCP connections from a pod through the node to an endpoint, %d Services, in turns: medians of %d rounds of %s; ratios are medians of those within a round.\n\n", n, o.trafficPasses, o.traffic)
	fmt.Println("| rules | us a connection | 99th percentile | a second, two at a time | us, times that of no rules |")
	fmt.Println("|---|---|---|---|---|")
	us := func(d time.Duration) float64 { return float64(d) / 1e3 }
	middle := func(list []float64) float64 { return slices.Sorted(slices.Values(list))[len(list)/2] }
	for _, r := range roads {
		if r.broken {
			continue
		}
		var ratios []float64
		for i, d := range r.latency {
			ratios = append(ratios, float64(d)/float64(roads[0].latency[i]))
		}
		fmt.Printf("| %s | %.1f | %.0f | %.0f | %.2f |\n", r.name, us(median(r.latency)), us(median(r.p99)), middle(r.rate), middle(ratios))
	}
}
