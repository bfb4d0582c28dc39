package iptables_test

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/iptables"
)

func ExampleRender() {
	table := proxyrules.NewTable(proxyrules.Node{}, []*proxyrules.Front{{
		FrontKey:  proxyrules.FrontKey{Addr: netip.MustParseAddr("10.96.0.10"), Protocol: "TCP", Port: 80},
		Kind:      proxyrules.ClusterIP,
		Service:   "default/web",
		Action:    proxyrules.Balance,
		Endpoints: []proxyrules.Endpoint{{Addr: netip.MustParseAddrPort("10.244.0.5:8080")}},
	}})
	text, err := iptables.Render(iptables.Config{Prefix: "NODEKIT"}, table, false)
	if err != nil {
		fmt.Println(err)
	}
	for line := range strings.Lines(text) {
		if strings.Contains(line, "-d 10.96.0.10 -p") || strings.Contains(line, "DNAT") {
			fmt.Print(line)
		}
	}
	// Output:
	// -A NODEKIT-SERVICES -d 10.96.0.10 -p tcp -m tcp --dport 80 -m comment --comment default/web -j NODEKIT-F-BABC40A277C34CD9
	// -A NODEKIT-E-15E919597066E6F2 -p tcp -m tcp -j DNAT --to-destination 10.244.0.5:8080
}
