package nftables_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/nftables"
	discoveryv1 "k8s.io/api/discovery/v1"
)

func openBench(b *testing.B, ns *kerneltest.NetNS) *nftables.Dialect {
	d, err := nftables.Open(nftables.Config{Table: "bench", NetNS: ns.FD()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = d.Close() })
	return d
}

func syncBench(b *testing.B, d *nftables.Dialect, table *proxyrules.Table) proxyrules.SyncStats {
	stats, err := d.Sync(context.Background(), table)
	if err != nil {
		b.Fatal(err)
	}
	return stats
}

var benchSizes = []int{1000, 10000, 30000}

// BenchmarkFirstLoad is a Sync of Services of 10 endpoints into an empty
// network namespace.
func BenchmarkFirstLoad(b *testing.B) {
	kerneltest.Require(b, kerneltest.Root)
	for _, n := range benchSizes {
		services, endpoints := many(n, 10)
		table := build(services, endpoints, testNode, nil)
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			d := openBench(b, kerneltest.NewNetNS(b))
			for range b.N {
				b.StartTimer()
				syncBench(b, d, table)
				b.StopTimer()
				if err := d.Cleanup(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkAdopt is the first Sync of a new process over what an earlier one
// left, which is what it should be.
func BenchmarkAdopt(b *testing.B) {
	kerneltest.Require(b, kerneltest.Root)
	for _, n := range benchSizes {
		services, endpoints := many(n, 10)
		table := build(services, endpoints, testNode, nil)
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			ns := kerneltest.NewNetNS(b)
			syncBench(b, openBench(b, ns), table)
			for b.Loop() {
				if stats := syncBench(b, openBench(b, ns), table); !stats.Full {
					b.Fatal(stats)
				}
			}
		})
	}
}

// BenchmarkOneEndpoint replaces one endpoint of one Service, adds one and takes
// it away again, changes 100 Services, and nothing.
func BenchmarkOneEndpoint(b *testing.B) {
	kerneltest.Require(b, kerneltest.Root)
	for _, n := range benchSizes {
		services, endpoints := many(n, 10)
		first := build(services, endpoints, testNode, nil)
		changed := func(how func(s *discoveryv1.EndpointSlice), many int) *proxyrules.Table {
			other := slices.Clone(endpoints)
			for i := range many {
				at := (n/2 + i*7) % n
				other[at] = endpoints[at].DeepCopy()
				how(other[at])
			}
			return build(services, other, testNode, first)
		}
		replace := func(s *discoveryv1.EndpointSlice) { s.Endpoints[3].Addresses[0] = "10.99.99.99" }
		for _, c := range []struct {
			name  string
			other *proxyrules.Table
		}{
			{"replaced", changed(replace, 1)},
			{"added", changed(func(s *discoveryv1.EndpointSlice) {
				s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{"10.99.99.99"}})
			}, 1)},
			{"100-services", changed(replace, 100)},
			{"nothing", first},
		} {
			b.Run(fmt.Sprintf("services=%d/%s", n, c.name), func(b *testing.B) {
				d := openBench(b, kerneltest.NewNetNS(b))
				tables := [2]*proxyrules.Table{first, c.other}
				syncBench(b, d, tables[0])
				for i := 1; b.Loop(); i++ {
					syncBench(b, d, tables[i%2])
				}
			})
		}
	}
}

// BenchmarkSetToApplied is the whole way: from Proxy.Set with one EndpointSlice
// changed, or with nothing changed, to the kernel's answer, median and worst
// printed.
func BenchmarkSetToApplied(b *testing.B) {
	kerneltest.Require(b, kerneltest.Root)
	for _, n := range append([]int{10}, benchSizes...) {
		for _, change := range []bool{true, false} {
			name := fmt.Sprintf("services=%d/%s", n, map[bool]string{true: "one-endpoint", false: "nothing"}[change])
			b.Run(name, func(b *testing.B) { setToApplied(b, n, change) })
		}
	}
}

func setToApplied(b *testing.B, n int, change bool) {
	services, endpoints := many(n, 10)
	proxy, err := proxyrules.New(proxyrules.Config{Dialect: openBench(b, kerneltest.NewNetNS(b)), Node: testNode})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- proxy.Run(ctx) }()
	b.Cleanup(func() { cancel(); <-done })
	var took []time.Duration
	apply := func() {
		want := proxy.Status().Syncs + 1
		proxy.Set(services, endpoints)
		for status := proxy.Status(); status.Pending || status.Syncs < want; status = proxy.Status() {
			if status.LastError != nil {
				b.Fatal(status.LastError)
			}
			time.Sleep(20 * time.Microsecond)
		}
		took = append(took, proxy.Status().Latency)
	}
	apply()
	took = nil
	for i := 0; b.Loop(); i++ {
		if change {
			endpoints[n/2] = endpoints[n/2].DeepCopy()
			endpoints[n/2].Endpoints[3].Addresses[0] = fmt.Sprintf("10.99.%d.%d", i>>8&255, i&255)
		}
		apply()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(took[len(took)-1].Microseconds()), "max-us")
}

// BenchmarkMemory is what a Dialect and the table that it holds keep, beside the
// objects that they were made from.
func BenchmarkMemory(b *testing.B) {
	kerneltest.Require(b, kerneltest.Root)
	for _, n := range benchSizes {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			services, endpoints := many(n, 10)
			heap := func() float64 {
				runtime.GC()
				runtime.GC()
				var stats runtime.MemStats
				runtime.ReadMemStats(&stats)
				return float64(stats.HeapAlloc) / (1 << 20)
			}
			for range b.N {
				before := heap()
				d := openBench(b, kerneltest.NewNetNS(b))
				table := build(services, endpoints, testNode, nil)
				syncBench(b, d, table)
				b.ReportMetric(heap()-before, "MB")
				runtime.KeepAlive(table)
				runtime.KeepAlive(services)
				runtime.KeepAlive(endpoints)
				if err := d.Cleanup(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
