package shim_test

import (
	"bytes"
	"fmt"

	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// What an agent and a shim say to each other.
func ExampleMessage() {
	request := shim.Message{Seq: 1, Op: shim.OpStop, Fields: []string{"4f2a", "30000000000"}}
	wire, err := request.Append(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(wire), "bytes")

	got, err := shim.ReadMessage(bytes.NewReader(wire))
	fmt.Println(got.Op, got.Field(0), got.Field(1), err)
	// Output:
	// 39 bytes
	// stop 4f2a 30000000000 <nil>
}
