package oci_test

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/runtimeiface"
)

var _ = Describe("a pod", func() {
	var e *env
	BeforeEach(func() { e = newEnv(GinkgoTB()) })

	It("runs a container, logs and keeps its exit", func() {
		sb := e.sandbox()
		id := e.start(sb, "app", "print hello ; exit 7")
		c := e.exited(id)
		Expect(c.ExitCode).To(BeEquivalentTo(7))
		Expect(c.Reason).To(Equal(runtimeiface.ReasonError))
		Expect(e.log(c)).To(Equal("hello\n"))
		Expect(c.FinishedAt).To(BeTemporally(">", c.StartedAt))
	})
})
