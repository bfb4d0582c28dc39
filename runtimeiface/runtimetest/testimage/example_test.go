package testimage_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/nodekit/nodekit/runtimeiface/runtimetest/testimage"
)

// A program that is no test starts the registries itself.
func ExampleStart() {
	server, err := testimage.Start(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	registry, name, _ := strings.Cut(server.Images().Prog, "/")
	address, err := netip.ParseAddrPort(registry)
	fmt.Println(name, "on loopback:", address.Addr().IsLoopback(), err)
	// Output: test/prog:1 on loopback: true <nil>
}
