package iptables_test

import (
	"flag"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestIptables(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "proxyrules/iptables")
}
