package oci_test

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/nodekit/nodekit/runtimeiface/oci"
)

// Open tells all that is wrong with a Config at once.
func ExampleOpen() {
	_, err := oci.Open(oci.Config{
		Root:       "var/lib/node",
		CgroupRoot: "kubepods",
		Network:    oci.Network{Bridge: "a-name-that-is-too-long", Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/31")}},
	})
	for line := range strings.Lines(err.Error()) {
		fmt.Println(strings.TrimSpace(line))
	}
	// Output:
	// oci: config: Root "var/lib/node" is not an absolute path
	// config: Network.Bridge "a-name-that-is-too-long" is no name of an interface
	// config: Network.Subnets[0] 10.1.0.0/31 is not an IPv4 subnet of /30 or wider
	// config: CgroupRoot "kubepods" is not a clean absolute path below /
}
