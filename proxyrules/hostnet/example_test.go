package hostnet_test

import (
	"fmt"

	"github.com/nodekit/nodekit/proxyrules/hostnet"
)

func ExampleOpen() {
	_, err := hostnet.Open(hostnet.Config{Table: "host ports", RouteProtocol: 2})
	fmt.Println(err)
	// Output:
	// hostnet config: field Table: "host ports" is not a name of 1 to 64 letters, digits, '-' and '_' that starts with a letter
	// field RouteProtocol: 2 is not in 5 to 255
}
