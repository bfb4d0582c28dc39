package hostnet_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/proxyrules/hostnet"
)

func TestAWantIsRefusedWholeWithAllThatIsWrong(t *testing.T) {
	kerneltest.Require(t, kerneltest.Root)
	host, err := hostnet.Open(hostnet.Config{Table: "nodekit-test", NetNS: kerneltest.NewNetNS(t).FD()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Close() })
	addr, network := netip.MustParseAddr, netip.MustParsePrefix
	_, err = host.Sync(context.Background(), hostnet.Want{
		Pods:   []netip.Prefix{network("10.244.0.0/24"), network("10.244.0.1/24")},
		Except: []netip.Prefix{{}},
		Routes: []hostnet.Route{
			{To: network("10.245.0.0/24"), Via: addr("192.0.2.2")}, {To: network("10.245.0.0/24"), Via: addr("192.0.2.3")},
			{To: network("10.246.0.0/24"), Via: addr("2001:db8::2")}, {To: network("0.0.0.0/0"), Via: addr("192.0.2.2")},
		},
		HostPorts: []hostnet.HostPort{
			{Port: 80, Protocol: "ICMP", To: netip.MustParseAddrPort("10.244.0.5:80")},
			{Port: 0, Protocol: "TCP", To: netip.MustParseAddrPort("10.244.0.5:80")},
			{Port: 80, Protocol: "TCP", To: netip.MustParseAddrPort("10.244.0.5:80")}, {Port: 80, Protocol: "TCP", To: netip.MustParseAddrPort("10.244.0.6:80")},
			{Port: 81, Protocol: "TCP", To: netip.MustParseAddrPort("127.0.0.1:80")},
			{Address: addr("127.0.0.1"), Port: 82, Protocol: "TCP", To: netip.MustParseAddrPort("10.244.0.5:80")},
			{Port: 80, Protocol: "TCP", To: netip.MustParseAddrPort("[fd00::5]:80")}, // another family: fine
		},
	})
	for _, want := range []string{
		"Pods[1]: 10.244.0.1/24 is not a network", "Except[0]", "Routes[1]: 10.245.0.0/24 is there twice", "Routes[2]: 2001:db8::2", "Routes[3]: 0.0.0.0/0",
		`HostPorts[0]: "ICMP"`, "HostPorts[1]: a port is 0", "HostPorts[3]: port 80/TCP is there twice", "HostPorts[4]: 127.0.0.1", "HostPorts[5]: 127.0.0.1",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != 10 {
		t.Errorf("%d problems in %v", n, err)
	}
}
