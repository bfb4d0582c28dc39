package oci_test

import (
	"context"
	"net/netip"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// What a network can change of the promises is tested with each kind of it.
var _ = Describe("the promises of runtimeiface for sandboxes and networks", func() {
	for name, open := range map[string]func() *env{
		"IPv6 alone": func() *env { return newDualEnv(GinkgoTB(), netip.MustParsePrefix("fd00:88::/64")) },
		"IPv6 first": func() *env { return newDualEnv(GinkgoTB(), dualStack[1], dualStack[0]) },
		"plug-ins":   func() *env { return newCNIEnv(map[string]string{"10-whole.conflist": wholeNetwork}).env },
	} {
		Describe("with "+name, Ordered, ContinueOnFailure, func() {
			var e *env
			BeforeAll(func() { e = open() })
			for _, c := range runtimetest.Cases() {
				if kind, _, _ := strings.Cut(c.Name, "/"); kind != "network" && kind != "sandbox" {
					continue
				}
				It(c.Name, func(ctx SpecContext) {
					subject := runtimetest.Subject{
						Runtime: e.rt, Images: e.images, LogRoot: e.logs, Kernel: true,
						Restart: func(context.Context) (runtimeiface.Runtime, error) { e.reopen(); return e.rt, nil },
					}
					Expect(subject.Missing(c)).To(BeEmpty())
					Expect(c.Run(ctx, subject)).To(Succeed(), c.Promise)
				}, NodeTimeout(5*time.Minute))
			}
		})
	}
})

var _ = Describe("a Runtime with another network than before", func() {
	It("keeps the pods it has, and gives new ones the new network", func() {
		e := newDualEnv(GinkgoTB(), dualStack[0])
		old := e.sandbox(hostPort(8080))
		ips := e.ips(old)
		e.close()
		e.cfg.Network = oci.Network{Subnets: []netip.Prefix{netip.MustParsePrefix("10.88.0.0/30"), dualStack[1]}}
		e.open()
		Expect(e.ips(old)).To(Equal(ips))
		full := e.sandboxSpec() // 10.88.0.2, the only one there is, is the old pod's
		_, err := e.rt.RunSandbox(e.ctx(), full)
		Expect(err).To(MatchError(ContainSubstring("10.88.0.0/30: no address is free: 1 pods have one each")))
		e.close()
		e.cfg.Network.Subnets[0] = netip.MustParsePrefix("10.99.0.0/24")
		e.open()
		fresh := e.sandbox()
		Expect(e.ips(fresh)).To(Equal([]netip.Addr{netip.MustParseAddr("10.99.0.2"), netip.MustParseAddr("fd00:88::2")}))
		e.serve(old, "old", 80)
		e.serve(fresh, "fresh", 80)
		e.from(fresh).hears(ips[0].String(), 80, "old", "10.99.0.2")
		e.from(old).hears("10.99.0.2", 80, "fresh", ips[0].String())
		place(here).hears("127.0.0.1", 8080, "old", "")
	})
})
