package podlifecycle_test

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestPodlifecycle(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "podlifecycle")
}
