package cri_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nodekit/nodekit/runtimeiface/cri"
)

// Dial tells what is wrong with a Config before it connects.
func ExampleDial() {
	_, err := cri.Dial(context.Background(), cri.Config{Endpoint: "tcp://127.0.0.1:1", Timeout: -time.Second})
	for line := range strings.Lines(err.Error()) {
		fmt.Println(strings.TrimSpace(line))
	}
	// Output:
	// cri: config: Endpoint "tcp://127.0.0.1:1" is neither unix:// nor npipe://
	// config: Timeout -1s is negative
}
