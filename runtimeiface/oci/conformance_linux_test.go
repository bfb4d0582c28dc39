package oci_test

import (
	"context"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

var _ = Describe("the promises of runtimeiface", func() {
	for _, program := range []kerneltest.Need{kerneltest.Runc, kerneltest.Crun} {
		Describe("with "+string(program), Ordered, ContinueOnFailure, func() { conformance(program) })
	}
})

func conformance(program kerneltest.Need) {
	var e *env
	BeforeAll(func() {
		kerneltest.Require(GinkgoTB(), program)
		e = prepareEnv(GinkgoTB())
		e.cfg.RuntimeHandlers = map[string]string{"": string(program)}
		e.open()
	})

	for _, c := range runtimetest.Cases() {
		It(c.Name, func(ctx SpecContext) {
			subject := runtimetest.Subject{
				Runtime: e.rt, Images: e.images, LogRoot: e.logs, Kernel: true,
				Restart: func(context.Context) (runtimeiface.Runtime, error) { e.reopen(); return e.rt, nil },
			}
			if missing := subject.Missing(c); len(missing) > 0 {
				Fail("the subject lacks " + strings.Join(needNames(missing), ", "))
			}
			Expect(c.Run(ctx, subject)).To(Succeed(), c.Promise)
		}, NodeTimeout(time.Minute))
	}
}

func needNames(needs []runtimetest.Need) []string {
	var names []string
	for _, n := range needs {
		names = append(names, string(n))
	}
	return names
}
