package oci_test

import (
	"context"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// foreign are needs of cases that are not about this backend.
var foreign = map[runtimetest.Need]string{
	runtimetest.Daemon: "there is no daemon",
}

var _ = Describe("the promises of runtimeiface", func() {
	Describe("with runc", Ordered, ContinueOnFailure, func() { conformance(kerneltest.Runc, nil) })
	Describe("with crun", Ordered, ContinueOnFailure, func() { conformance(kerneltest.Crun, withWarmShims) })
	Describe("with runc and systemd", Ordered, ContinueOnFailure, func() { conformance(kerneltest.Runc, withSystemd) })
})

func withWarmShims(e *env) { e.cfg.WarmShims = 2 }

func conformance(program kerneltest.Need, change func(*env)) {
	var e *env
	BeforeAll(func() {
		kerneltest.Require(GinkgoTB(), program)
		e = prepareEnv(GinkgoTB())
		e.cfg.RuntimeHandlers = map[string]string{"": string(program)}
		if change != nil {
			change(e)
		}
		e.open()
	})

	for _, c := range runtimetest.Cases() {
		It(c.Name, func(ctx SpecContext) {
			for _, need := range c.Needs {
				if why, ok := foreign[need]; ok {
					Skip(why)
				}
			}
			if slices.Contains(c.Needs, runtimetest.AppArmor) {
				kerneltest.Require(GinkgoTB(), kerneltest.AppArmor)
			}
			subject := runtimetest.Subject{
				Runtime: e.rt, Images: e.images, LogRoot: e.logs, Kernel: true, UserNS: true, Seccomp: true, AppArmor: true,
				Restart: func(context.Context) (runtimeiface.Runtime, error) { e.reopen(); return e.rt, nil },
				KillKeeper: func(ctx context.Context, id string) error {
					s, err := e.rt.SandboxStatus(ctx, id)
					if err != nil {
						return err
					}
					return unix.Kill(s.PID, unix.SIGKILL)
				},
			}
			if missing := subject.Missing(c); len(missing) > 0 {
				Fail("the subject lacks " + strings.Join(needNames(missing), ", "))
			}
			Expect(c.Run(ctx, subject)).To(Succeed(), c.Promise)
		}, NodeTimeout(10*time.Minute))
	}
}

func needNames(needs []runtimetest.Need) []string {
	var names []string
	for _, n := range needs {
		names = append(names, string(n))
	}
	return names
}
