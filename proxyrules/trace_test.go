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
	table, _ := proxyrules.Build([]*corev1.Service{web, local, service("empty", "10.96.0.12", "x:9/UDP")},
		[]*discoveryv1.EndpointSlice{
			endpoints("web", "http", "TCP", 8080, "10.244.0.5", "10.244.0.6"),
			endpoints("local", "x", "UDP", 9, "10.244.9.9"),
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
