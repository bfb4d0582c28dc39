// Nodekit-shim keeps one pod of runtimeiface/oci: its namespaces, logs and
// exits. The agent starts it; it is not for people to call.
package main

import (
	"os"

	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

func main() { os.Exit(shim.Main()) }
