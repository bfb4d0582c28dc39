package nftables_test

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/nftables"
)

func ExampleRender() {
	table := proxyrules.NewTable(proxyrules.Node{}, []*proxyrules.Front{{
		FrontKey:  proxyrules.FrontKey{Addr: netip.MustParseAddr("10.96.0.10"), Protocol: "TCP", Port: 80},
		Kind:      proxyrules.ClusterIP,
		Action:    proxyrules.Balance,
		Endpoints: []proxyrules.Endpoint{{Addr: netip.MustParseAddrPort("10.244.0.5:8080")}},
	}})
	text, err := nftables.Render(nftables.Config{Table: "nodekit"}, table)
	if err != nil {
		fmt.Println(err)
	}
	for _, line := range strings.Split(text, "\n") {
		if strings.Contains(line, "10.96.0.10 ") || strings.Contains(line, "dnat ip to") {
			fmt.Println(strings.TrimSpace(line))
		}
	}
	// Output:
	// 10.96.0.10 . tcp . 80 : goto lb-tcp-1,
	// 10.96.0.10 . 80 . 0 : 10.244.0.5 . 8080,
	// dnat ip to ip daddr . tcp dport . numgen random mod 1 map @ep-tcp
}
