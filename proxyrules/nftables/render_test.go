package nftables_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/nftables"
)

// nodes differ in whose address is hidden.
func nodes() []proxyrules.Node {
	masquerading := testNode
	masquerading.MasqueradeEgress = true
	masquerading.NoMasquerade = []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("172.33.0.1/32")}
	all := testNode
	all.MasqueradeAll = true
	byLink := testNode
	byLink.LocalInterface = "cali*"
	byLink.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/112")}
	own := testNode
	own.LocalCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd00:244::/64")}
	return []proxyrules.Node{testNode, masquerading, all, {}, byLink, own}
}

func TestRenderGolden(t *testing.T) {
	services, endpoints := example()
	for i, name := range []string{"example", "egress", "masquerade-all", "bare", "by-link", "local-cidrs"} {
		table := build(services, endpoints, nodes()[i], nil)
		got, err := nftables.Render(nftables.Config{Table: "nodekit"}, table)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("..", "testdata", name+".nft")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s differs; run go test -update and look at the difference\n%s", file, got)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, config := range []nftables.Config{
		{}, {Table: "1x"}, {Table: "a b"}, {Table: "x", MasqueradeMark: 3}, {Table: "x", NetNS: -1},
	} {
		if _, err := nftables.Render(config, proxyrules.NewTable(proxyrules.Node{}, nil)); err == nil {
			t.Errorf("%+v: no error", config)
		}
	}
}
