package runtimetest_test

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestRuntimetest(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "runtimetest")
}
