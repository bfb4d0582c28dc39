package cri_test

import (
	"os"
	"testing"

	"github.com/nodekit/nodekit/internal/containerdtest"
)

// TestMain runs all tests in a new network and mount namespace: it is the
// node's for containerd, for the registry and for the tests that look at it, and
// nothing that containerd mounts outlives it.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	os.Exit(containerdtest.Unshare(m.Run))
}
