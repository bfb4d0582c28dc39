package hostnet_test

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestHostnet(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "proxyrules/hostnet")
}
