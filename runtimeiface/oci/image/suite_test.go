package image_test

import (
	"os"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestImage(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(time.Minute) // for a machine that is busy
	RunSpecs(t, "runtimeiface/oci/image")
}

// TestMain lets this binary be the process that is killed in kill_test.go.
func TestMain(m *testing.M) {
	if ref := os.Getenv(victimRef); ref != "" {
		os.Exit(victim(ref))
	}
	os.Exit(m.Run())
}
