package nftables_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/nftables"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// world is a network with rules, and Services in it.
type world struct {
	*network
	dialect  *nftables.Dialect
	table    *proxyrules.Table
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice
}

func newWorld(bridgeNetfilter string) *world {
	GinkgoHelper()
	kerneltest.Require(GinkgoT(), kerneltest.Root)
	w := &world{network: newNetwork(3, bridgeNetfilter)}
	for _, pod := range w.pods {
		pod.serve(8080)
		pod.serveSCTP(8080)
	}
	w.dialect = openIn(w.node.NetNS, "nodekit")
	return w
}

func (w *world) sync() proxyrules.SyncStats {
	GinkgoHelper()
	var problems []proxyrules.Problem
	w.table, problems = proxyrules.Build(w.services, w.slices, w.facts, w.table)
	Expect(problems).To(BeEmpty())
	stats, err := w.dialect.Sync(context.Background(), w.table)
	Expect(err).NotTo(HaveOccurred())
	return stats
}

// dual is a load balancer of both families and all protocols with node ports,
// external and ingress addresses; change may make it another.
func dual(name string, number int, change func(s *corev1.Service)) *corev1.Service {
	s := service(name, fmt.Sprintf("10.96.0.%d", number), port("TCP", 80, int32(30000+number)),
		port("UDP", 80, int32(30000+number)), port("SCTP", 80, int32(30000+number)))
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	s.Spec.ClusterIPs = []string{s.Spec.ClusterIP, fmt.Sprintf("fd00:96::%d", number)}
	s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	s.Spec.ExternalIPs = []string{fmt.Sprintf("198.51.100.%d", number), fmt.Sprintf("fd00:198::%d", number)}
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: fmt.Sprintf("203.0.113.%d", number)}, {IP: fmt.Sprintf("fd00:203::%d", number)}}
	if change != nil {
		change(s)
	}
	return s
}

// backs makes the slices of s; a pod's name may be followed by flags: l local,
// r not ready, s not serving, t terminating, z and Z hinted for our zone and
// another, n and N for our node and another.
func (w *world) backs(s *corev1.Service, pods ...string) (out []*discoveryv1.EndpointSlice) {
	for _, v4 := range []bool{true, false} {
		for _, p := range s.Spec.Ports {
			var ips []string
			for _, text := range pods {
				name, _, _ := strings.Cut(text, " ")
				h := w.host(name)
				ips = append(ips, map[bool]string{true: h.v4.String(), false: h.v6.String()}[v4])
			}
			one := slice(s, p, 8080, ips...)
			for i, text := range pods {
				e := &one.Endpoints[i]
				_, flags, _ := strings.Cut(text, " ")
				for _, flag := range flags {
					switch flag {
					case 'l':
						e.NodeName = pointer("node1")
					case 'r':
						e.Conditions.Ready = pointer(false)
					case 's':
						e.Conditions.Serving = pointer(false)
					case 't':
						e.Conditions.Terminating = pointer(true)
					case 'z', 'Z':
						hints(e).ForZones = []discoveryv1.ForZone{{Name: map[rune]string{'z': "zone1", 'Z': "zone2"}[flag]}}
					case 'n', 'N':
						hints(e).ForNodes = []discoveryv1.ForNode{{Name: map[rune]string{'n': "node1", 'N': "node2"}[flag]}}
					}
				}
			}
			out = append(out, one)
		}
	}
	return out
}

func hints(e *discoveryv1.Endpoint) *discoveryv1.EndpointHints {
	if e.Hints == nil {
		e.Hints = &discoveryv1.EndpointHints{}
	}
	return e.Hints
}

func (w *world) host(name string) *host {
	for _, h := range append([]*host{w.node, w.outside}, w.pods...) {
		if h.name == name {
			return h
		}
	}
	return nil
}

// at lists where the front of one kind of a Service stands, in both families.
func (w *world) at(s *corev1.Service, kind proxyrules.Kind) (out []netip.AddrPort) {
	for f := range w.table.Fronts() {
		if f.Service == s.Namespace+"/"+s.Name && f.Kind == kind && f.Protocol == "TCP" {
			to := netip.AddrPortFrom(f.Addr, f.Port)
			if f.Addr.IsUnspecified() {
				to = netip.AddrPortFrom(w.node.addr(f.Addr), f.Port)
			}
			out = append(out, to)
		}
	}
	return out
}

var protos = []string{"tcp", "udp", "sctp"}

// answers asks until n different hosts answered, or 40 times, and lists them
// with whom they saw: client, node or another address.
func (w *world) answers(from *host, proto string, to netip.AddrPort, n int) []string {
	GinkgoHelper()
	seen := make(map[string]bool)
	for i := 0; i < 40 && (i < 4 || len(seen) < n); i++ {
		answer, err := from.askProto(proto, to)
		Expect(err).NotTo(HaveOccurred(), "%s %s from %s", proto, to, from.name)
		name, saw, _ := strings.Cut(answer, " ")
		switch addr := netip.MustParseAddr(saw); addr {
		case gateway4, gateway6, w.node.addr(addr):
			saw = "node"
		case from.addr(addr):
			saw = "client"
		}
		seen[name+" sees "+saw] = true
	}
	return keys(seen)
}

// lost sends UDP and SCTP, which nobody shall answer or refuse. TCP goes the
// same way, and would wait long.
func (w *world) lost(from *host, to netip.AddrPort) {
	GinkgoHelper()
	c, err := from.dial("udp", to.String(), nil)
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = c.Close() }()
	_, err = c.Write([]byte("hello"))
	if from == w.node {
		Expect(err).To(MatchError(unix.EPERM), "so says the kernel to a sender of its own")
		return
	}
	Expect(err).NotTo(HaveOccurred())
	Expect(c.SetDeadline(time.Now().Add(100 * time.Millisecond))).To(Succeed())
	_, err = c.Read(make([]byte, 10))
	Expect(err).To(MatchError(ContainSubstring("timeout")), "%s from %s", to, from.name)
}
