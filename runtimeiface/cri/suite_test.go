package cri_test

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestCRI(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "cri")
}
