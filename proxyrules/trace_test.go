package proxyrules_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nodekit/nodekit/proxyrules"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

func traceTable(node proxyrules.Node) *proxyrules.Table {
	web := service("web", "10.96.0.10", "http:80/TCP:30080")
	local := service("local", "10.96.0.11", "x:9/UDP")
	local.Spec.InternalTrafficPolicy = pointer(corev1.ServiceInternalTrafficPolicyLocal)
	out, away := service("out", "10.96.0.13", "http:80/TCP:30081"), service("away", "10.96.0.14", "http:80/TCP:30082")
	for _, s := range []*corev1.Service{out, away} {
		external(s)
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	}
	out.Spec.Type = corev1.ServiceTypeLoadBalancer
	out.Spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24"}
	out.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.9"}}
	table, _ := proxyrules.Build([]*corev1.Service{web, local, out, away, service("empty", "10.96.0.12", "x:9/UDP")},
		[]*discoveryv1.EndpointSlice{
			endpoints("web", "http", "TCP", 8080, "10.244.0.5", "10.244.0.6"),
			endpoints("local", "x", "UDP", 9, "10.244.9.9"),
			endpoints("out", "http", "TCP", 8080, "10.244.0.5 l", "10.244.0.6"),
			endpoints("away", "http", "TCP", 8080, "10.244.0.6"),
		}, node, nil)
	return table
}

func TestTrace(t *testing.T) {
	egress := testNode
	egress.MasqueradeEgress = true
	all := testNode
	all.MasqueradeAll = true
	for _, c := range []struct {
		name, from, to, proto string
		node                  proxyrules.Node
		want                  string
	}{
		{"pod to service", "10.244.0.9", "10.96.0.10:80", "tcp", testNode,
			`10.244.0.9 -> 10.96.0.10:80/TCP: balance (service default/web, port http)
  1. cluster-ip: 10.96.0.10 is a cluster IP; 10.244.0.9 is a pod's and keeps its address
  2. service: 10.96.0.10:80/TCP is ClusterIP of service default/web
  3. balance: one of 2 endpoints at random
  -> 10.244.0.5:8080 50%
  -> 10.244.0.6:8080 50%
`},
		{"hairpin", "10.244.0.5", "10.96.0.10:80", "", testNode,
			`10.244.0.5 -> 10.96.0.10:80/TCP: balance (service default/web, port http)
  1. cluster-ip: 10.96.0.10 is a cluster IP; 10.244.0.5 is a pod's and keeps its address
  2. service: 10.96.0.10:80/TCP is ClusterIP of service default/web
  3. balance: one of 2 endpoints at random
  4. hairpin: 10.244.0.5 reaches itself: gets the node's address
  -> 10.244.0.5:8080 50%, sees the node's address
  -> 10.244.0.6:8080 50%
`},
		{"outside to service", "198.51.100.1", "10.96.0.10:80", "TCP", testNode,
			`198.51.100.1 -> 10.96.0.10:80/TCP: balance (service default/web, port http)
  1. masquerade-off-cluster: 198.51.100.1 is in no pod CIDR: gets the node's address on the way to a cluster IP
  2. service: 10.96.0.10:80/TCP is ClusterIP of service default/web
  3. balance: one of 2 endpoints at random
  -> 10.244.0.5:8080 50%, sees the node's address
  -> 10.244.0.6:8080 50%, sees the node's address
`},
		{"node port", "198.51.100.1", "192.0.2.1:30080", "tcp", testNode,
			`198.51.100.1 -> 192.0.2.1:30080/TCP: balance (service default/web, port http)
  1. node-port: 192.0.2.1 is a node address and port 30080 is NodePort of service default/web
  2. masquerade-always: traffic to a NodePort gets the node's address
  3. balance: one of 2 endpoints at random
  -> 10.244.0.5:8080 50%, sees the node's address
  -> 10.244.0.6:8080 50%, sees the node's address
`},
		{"everything hidden", "10.244.0.9", "10.96.0.10:81", "tcp", all,
			`10.244.0.9 -> 10.96.0.10:81/TCP: reject
  1. masquerade-off-cluster: all traffic to cluster IPs gets the node's address
  2. unknown-port: 10.96.0.10 is a cluster IP without port 81/TCP: refused
`},
		{"no endpoint", "10.244.0.9", "10.96.0.12:9", "udp", proxyrules.Node{},
			`10.244.0.9 -> 10.96.0.12:9/UDP: reject (service default/empty, port x)
  1. cluster-ip: 10.96.0.12 is a cluster IP; no pod CIDR is known, so 10.244.0.9 keeps its address
  2. service: 10.96.0.12:9/UDP is ClusterIP of service default/empty
  3. no-endpoints: service default/empty has no endpoint for it: refused
`},
		{"no local endpoint", "10.244.0.9", "10.96.0.11:9", "udp", testNode,
			`10.244.0.9 -> 10.96.0.11:9/UDP: drop (service default/local, port x)
  1. cluster-ip: 10.96.0.11 is a cluster IP; 10.244.0.9 is a pod's and keeps its address
  2. service: 10.96.0.11:9/UDP is ClusterIP of service default/local
  3. no-endpoints: service default/local has no endpoint for it: dropped, as the policy is Local and no endpoint is on this node
`},
		{"elsewhere", "10.244.0.9", "192.0.2.9:80", "tcp", testNode,
			`10.244.0.9 -> 192.0.2.9:80/TCP: pass
  1. none: no service stands at 192.0.2.9:80/TCP: routed as it is
`},
		{"source ranges, in", "198.51.100.1", "203.0.113.9:80", "tcp", testNode,
			`198.51.100.1 -> 203.0.113.9:80/TCP: balance (service default/out, port http)
  1. source-ranges: 203.0.113.9:80/TCP may come from 198.51.100.0/24, and 198.51.100.1 does
  2. service: 203.0.113.9:80/TCP is LoadBalancer of service default/out
  3. affinity: the endpoint that 198.51.100.1 had less than 10800 seconds ago, if it is still there
  4. balance: one of 1 endpoints at random
  -> 10.244.0.5:8080 100%
`},
		{"source ranges, not in", "192.0.2.9", "203.0.113.9:80", "tcp", testNode,
			`192.0.2.9 -> 203.0.113.9:80/TCP: drop (service default/out, port http)
  1. source-ranges: 203.0.113.9:80/TCP is LoadBalancer of service default/out, for certain sources, and 192.0.2.9 is none of them: dropped
`},
		{"policy Local, from a pod", "10.244.0.9", "192.0.2.1:30082", "tcp", testNode,
			`10.244.0.9 -> 192.0.2.1:30082/TCP: balance (service default/away, port http)
  1. node-port: 192.0.2.1 is a node address and port 30082 is NodePort of service default/away
  2. short-circuit-pod: 10.244.0.9 is a pod's: the policy Local is not for it
  3. affinity: the endpoint that 10.244.0.9 had less than 10800 seconds ago, if it is still there
  4. balance: one of 1 endpoints at random
  -> 10.244.0.6:8080 100%
`},
		{"policy Local, from the node", "192.0.2.1", "192.0.2.1:30082", "tcp", testNode,
			`192.0.2.1 -> 192.0.2.1:30082/TCP: balance (service default/away, port http)
  1. node-port: 192.0.2.1 is a node address and port 30082 is NodePort of service default/away
  2. short-circuit-node: 192.0.2.1 is the node's own: the policy Local is not for it, and it gets the node's address
  3. affinity: the endpoint that 192.0.2.1 had less than 10800 seconds ago, if it is still there
  4. balance: one of 1 endpoints at random
  -> 10.244.0.6:8080 100%, sees the node's address
`},
		{"policy Local, from outside", "198.51.100.1", "192.0.2.1:30082", "tcp", testNode,
			`198.51.100.1 -> 192.0.2.1:30082/TCP: drop (service default/away, port http)
  1. node-port: 192.0.2.1 is a node address and port 30082 is NodePort of service default/away
  2. no-endpoints: service default/away has no endpoint for it: dropped, as the policy is Local and no endpoint is on this node
`},
		{"no such service", "10.244.0.9", "10.96.0.99:80", "tcp", proxyrules.Node{ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}},
			`10.244.0.9 -> 10.96.0.99:80/TCP: drop
  1. unknown-address: 10.96.0.99 is of the cluster IPs, and no service has it: dropped
`},
		{"by the link, from elsewhere", "10.244.0.9", "10.96.0.10:81", "tcp", proxyrules.Node{LocalInterface: "cali*"},
			`10.244.0.9 -> 10.96.0.10:81/TCP: reject
  1. masquerade-off-cluster: 10.244.0.9 does not come in by cali*: gets the node's address on the way to a cluster IP
  2. unknown-port: 10.96.0.10 is a cluster IP without port 81/TCP: refused
`},
		{"elsewhere, hidden", "10.244.0.9", "192.0.2.9:80", "tcp", egress,
			`10.244.0.9 -> 192.0.2.9:80/TCP: pass
  1. pod-egress: 10.244.0.9 is a pod's and 192.0.2.9 is outside the pod CIDRs: gets the node's address
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			packet, err := proxyrules.ParsePacket(c.from, c.to, c.proto)
			if err != nil {
				t.Fatal(err)
			}
			explained := proxyrules.Trace(traceTable(c.node), packet)
			if diff := cmp.Diff(c.want, explained.String()); diff != "" {
				t.Error(diff)
			}
			text, err := json.Marshal(explained)
			if err != nil {
				t.Fatal(err)
			}
			var back proxyrules.Explanation
			if err := json.Unmarshal(text, &back); err != nil {
				t.Fatal(err)
			}
			if back.String() != explained.String() {
				t.Errorf("JSON loses something: %s", text)
			}
		})
	}
	if got := proxyrules.Trace(nil, proxyrules.Packet{}); got.Verdict != proxyrules.VerdictPass {
		t.Errorf("nil table: %v", got)
	}
}

func TestTraceOddsAreOne(t *testing.T) {
	table := traceTable(testNode)
	sum := 0.0
	for _, b := range proxyrules.Trace(table, proxyrules.Packet{From: netip.MustParseAddr("10.244.0.5"),
		To: netip.MustParseAddrPort("10.96.0.10:80"), Protocol: "TCP"}).Backends {
		sum += b.Odds
	}
	if sum != 1 {
		t.Errorf("odds sum up to %v", sum)
	}
}

func TestParsePacketErrors(t *testing.T) {
	for _, c := range []struct{ from, to, proto, field string }{
		{"", "10.0.0.1:80", "tcp", "from"},
		{"fe80::1%eth0", "10.0.0.1:80", "tcp", "from"},
		{"10.0.0.1", "10.0.0.1", "tcp", "to"},
		{"10.0.0.1", "10.0.0.1:0", "tcp", "to"},
		{"10.0.0.1", "10.0.0.1:65536", "tcp", "to"},
		{"10.0.0.1", "web:80", "tcp", "to"},
		{"10.0.0.1", "[fd00::1]:80", "tcp", "to"},
		{"fd00::1", "fd00::1:80", "tcp", "to"},
		{"10.0.0.1", "10.0.0.1:80", "icmp", "proto"},
		{strings.Repeat("x", 1000), "10.0.0.1:80", "", "from"},
	} {
		_, err := proxyrules.ParsePacket(c.from, c.to, c.proto)
		var packetError *proxyrules.PacketError
		if !errors.As(err, &packetError) || packetError.Field != c.field || len(packetError.Value) > 100 {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func FuzzParsePacket(f *testing.F) {
	f.Add("10.0.0.1", "10.0.0.2:80", "tcp")
	f.Add("fd00::1", "[fd00::2]:80", "UDP")
	f.Add("::ffff:10.0.0.1", "[::ffff:10.0.0.1]:1", "")
	f.Fuzz(func(t *testing.T, from, to, proto string) {
		p, err := proxyrules.ParsePacket(from, to, proto)
		if err != nil {
			return
		}
		again, err := proxyrules.ParsePacket(p.From.String(), p.To.String(), string(p.Protocol))
		if err != nil || again != p {
			t.Errorf("%v read again: %v %v", p, again, err)
		}
		_ = proxyrules.Trace(traceTable(testNode), p).String()
	})
}
