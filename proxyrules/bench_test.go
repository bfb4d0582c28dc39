package proxyrules_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/nodekit/nodekit/proxyrules"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

func many(n int) ([]*corev1.Service, []*discoveryv1.EndpointSlice) {
	var services []*corev1.Service
	var slices []*discoveryv1.EndpointSlice
	for i := range n {
		name := fmt.Sprintf("s%05d", i)
		services = append(services, service(name, netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String(), "http:80/TCP"))
		var ips []string
		for k := i * 10; k < i*10+10; k++ {
			ips = append(ips, netip.AddrFrom4([4]byte{10, byte(200 + k>>16), byte(k >> 8), byte(k)}).String())
		}
		slices = append(slices, endpoints(name, "http", "TCP", 8080, ips...))
	}
	return services, slices
}

func BenchmarkBuild(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		services, slices := many(n)
		b.Run(fmt.Sprintf("services=%d/first", n), func(b *testing.B) {
			for b.Loop() {
				proxyrules.Build(services, slices, testNode, nil)
			}
		})
		b.Run(fmt.Sprintf("services=%d/one-changed", n), func(b *testing.B) {
			table, _ := proxyrules.Build(services, slices, testNode, nil)
			for b.Loop() {
				slices[n/2] = slices[n/2].DeepCopy()
				table, _ = proxyrules.Build(services, slices, testNode, table)
			}
		})
	}
}

func BenchmarkDiff(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		services, slices := many(n)
		old, _ := proxyrules.Build(services, slices, testNode, nil)
		slices[n/2] = slices[n/2].DeepCopy()
		slices[n/2].Endpoints[3].Addresses[0] = "10.99.99.99"
		changed, _ := proxyrules.Build(services, slices, testNode, old)
		b.Run(fmt.Sprintf("services=%d/one-endpoint", n), func(b *testing.B) {
			for b.Loop() {
				if changes := proxyrules.Diff(old, changed); changes.Len() != 2 {
					b.Fatal(changes)
				}
			}
		})
		b.Run(fmt.Sprintf("services=%d/all", n), func(b *testing.B) {
			for b.Loop() {
				proxyrules.Diff(nil, old)
			}
		})
	}
}

func BenchmarkTrace(b *testing.B) {
	services, slices := many(10000)
	table, _ := proxyrules.Build(services, slices, testNode, nil)
	packet, err := proxyrules.ParsePacket("10.244.0.1", "10.96.3.7:80", "tcp")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		proxyrules.Trace(table, packet)
	}
}
