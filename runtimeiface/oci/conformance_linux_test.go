package oci_test

import (
	"context"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

var _ = Describe("the promises of runtimeiface", Ordered, ContinueOnFailure, func() {
	var e *env
	BeforeAll(func() { e = newEnv(GinkgoTB()) })

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
})

func needNames(needs []runtimetest.Need) []string {
	var names []string
	for _, n := range needs {
		names = append(names, string(n))
	}
	return names
}
