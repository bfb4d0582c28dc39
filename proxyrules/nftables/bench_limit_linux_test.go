package nftables

// In the package itself, since it sends what Sync would have sent, made before.

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/proxyrules"
)

// tenEach makes n cluster IPs of ten endpoints, one of them on this node.
func tenEach(n int) *proxyrules.Table {
	out := make([]*proxyrules.Front, 0, n)
	for i := range n {
		f := &proxyrules.Front{
			FrontKey: proxyrules.FrontKey{Addr: netip.AddrFrom4([4]byte{10, 100, byte(i >> 8), byte(i)}), Protocol: "TCP", Port: 80},
			Kind:     proxyrules.ClusterIP, Service: fmt.Sprintf("default/s%d", i), Action: proxyrules.Balance,
			Masquerade: proxyrules.MasqueradeOffCluster,
		}
		for e := range 10 {
			k := i*10 + e
			addr := netip.AddrFrom4([4]byte{10, byte(200 + k>>16), byte(k >> 8), byte(k)})
			f.Endpoints = append(f.Endpoints, proxyrules.Endpoint{Addr: netip.AddrPortFrom(addr, 8080), Remote: e > 0})
		}
		out = append(out, f)
	}
	return proxyrules.NewTable(proxyrules.Node{}, out)
}

// BenchmarkKernelLimit is what the kernel alone takes for the elements of
// BenchmarkFirstLoad and BenchmarkOneEndpoint: transactions that are ready to be
// sent, into tables whose chains are there.
func BenchmarkKernelLimit(b *testing.B) {
	kerneltest.Require(b, kerneltest.Root)
	ctx := context.Background()
	for _, n := range []int{1000, 10000, 30000} {
		table := tenEach(n)
		changes := proxyrules.Diff(nil, table)
		open := func(b *testing.B) *Dialect {
			d, err := Open(Config{Table: "bench", NetNS: kerneltest.NewNetNS(b).FD(), KeepUDPFlows: true})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = d.Close() })
			return d
		}
		elements := func(b *testing.B, d *Dialect) *batch {
			if _, err := d.Sync(ctx, proxyrules.NewTable(proxyrules.Node{}, nil)); err != nil {
				b.Fatal(err)
			}
			p := newPlan(families[0], DefaultMark, newFamilyState())
			for i := range changes.Fronts {
				p.change(&changes.Fronts[i])
			}
			p.finish()
			plans := [len(families)]*plan{p, newPlan(families[1], DefaultMark, newFamilyState())}
			if err := d.prepare(&plans); err != nil {
				b.Fatal(err)
			}
			load := newBatch("bench", d.generation)
			load.apply(p, d.sets[0])
			load.close()
			return load
		}
		b.Run(fmt.Sprintf("services=%d/load", n), func(b *testing.B) {
			d := open(b)
			for range b.N {
				b.StopTimer()
				if err := d.Cleanup(ctx); err != nil {
					b.Fatal(err)
				}
				load := elements(b, d)
				b.StartTimer()
				if err := d.socket.commit(load); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("services=%d/one-endpoint", n), func(b *testing.B) {
			d := open(b)
			load := elements(b, d)
			if err := d.commit(load); err != nil {
				b.Fatal(err)
			}
			d.advance(d.generation)
			front := table.At(n / 2)
			id, key := slotKey(nil, front, false, 3)
			for i := 0; b.Loop(); i++ {
				value := endpointValue(nil, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 99, byte(i >> 8), byte(i)}), 8080))
				var del, add chunks
				del.element(key, nil)
				add.element(key, &value)
				one := newBatch("bench", d.generation)
				one.elements(families[0], d.sets[0][id], msgDelElements, &del)
				one.elements(families[0], d.sets[0][id], msgNewElements, &add)
				one.close()
				if err := d.socket.commit(one); err != nil {
					b.Fatal(err)
				}
				d.advance(d.generation)
			}
		})
	}
}
