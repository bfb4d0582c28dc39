package cri_test

import (
	"context"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// beyond are promises that a CRI, or containerd v2.4.2, has no means to keep.
var beyond = map[string]string{
	"mount/tmpfs":     "the CRI's Mount is a path of the host; it is ErrNotSupported here",
	"image/two names": "the CRI removes all names of an image together; one of several is ErrNotSupported here",
}

var _ = Describe("the promises of runtimeiface, with containerd", Ordered, ContinueOnFailure, func() {
	var n *node
	BeforeAll(func() { n = newNode(GinkgoTB()) })

	run := func(ctx context.Context, c runtimetest.Case, restart func()) error {
		subject := runtimetest.Subject{
			Runtime: n.rt, Images: n.images, LogRoot: n.logs, Kernel: true, UserNS: true, Seccomp: true, AppArmor: true,
			RestartDaemon: func(context.Context) error { n.daemon.Kill(); n.daemonStart(); return nil },
			KillKeeper:    func(_ context.Context, id string) error { return n.killShim(id) },
			Restart:       func(context.Context) (runtimeiface.Runtime, error) { restart(); return n.rt, nil },
		}
		if missing := subject.Missing(c); len(missing) > 0 {
			Fail("the subject lacks needs of the case")
		}
		return c.Run(ctx, subject)
	}

	for _, c := range runtimetest.Cases() {
		It(c.Name, func(ctx SpecContext) {
			if slices.Contains(c.Needs, runtimetest.AppArmor) {
				kerneltest.Require(GinkgoTB(), kerneltest.AppArmor)
			}
			err := run(ctx, c, n.redial)
			if why, ok := beyond[c.Name]; ok {
				Expect(err).To(HaveOccurred(), "the promise is kept; it was declared as beyond: "+why)
				Expect(err.Error()).To(ContainSubstring("not supported"))
				Skip(why)
			}
			Expect(err).NotTo(HaveOccurred(), c.Promise+"\n"+strings.TrimSpace(n.daemon.Tail()))
		}, NodeTimeout(10*time.Minute))
		// The rest of those that restart look at output, which containerd loses while
		// it is not there.
		if slices.Contains([]string{"restart/goes on", "restart/calls", "restart/attach", "restart/images"}, c.Name) {
			It(c.Name+", and containerd too", func(ctx SpecContext) {
				Expect(run(ctx, c, n.restart)).To(Succeed())
			}, NodeTimeout(10*time.Minute))
		}
	}

	It("has no promise declared as beyond that is not one", func() {
		names := map[string]bool{}
		for _, c := range runtimetest.Cases() {
			names[c.Name] = true
		}
		for name := range beyond {
			Expect(names).To(HaveKey(name))
		}
	})
})
