//go:build faultpoints

package oci

import (
	"os"

	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

func faultPoint(name string) { shim.FaultPoint("agent", name) }

// faultEnv takes the shims into the test.
func faultEnv() []string { return []string{shim.FaultDirEnv + "=" + os.Getenv(shim.FaultDirEnv)} }
