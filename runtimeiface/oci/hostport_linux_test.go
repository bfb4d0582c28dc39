package oci_test

import (
	"net/netip"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci"
)

var dualStack = []netip.Prefix{netip.MustParsePrefix("10.88.0.0/24"), netip.MustParsePrefix("fd00:88::/64")}

// hostPort maps a port of TCP and UDP to port 80.
func hostPort(port uint16, hostIP ...string) func(*runtimeiface.SandboxSpec) {
	return func(s *runtimeiface.SandboxSpec) {
		for _, protocol := range []string{"TCP", "UDP"} {
			m := runtimeiface.PortMapping{Protocol: protocol, ContainerPort: 80, HostPort: port}
			if len(hostIP) > 0 {
				m.HostIP = netip.MustParseAddr(hostIP[0])
			}
			s.PortMappings = append(s.PortMappings, m)
		}
	}
}

// newDualEnv opens a Runtime with both families and without images.
func newDualEnv(tb testTB, subnets ...netip.Prefix) *env {
	e := prepareEnv(GinkgoTB())
	e.cfg.Network = oci.Network{Subnets: subnets}
	if len(subnets) == 0 {
		e.cfg.Network.Subnets = dualStack
	}
	e.open()
	return e
}

var _ = Describe("a port of the node", func() {
	for _, bridged := range []string{"0", "1"} {
		It("answers for a pod, to everybody; bridge-nf-call-iptables="+bridged, func() {
			for _, family := range []string{"ip", "ip6"} {
				setSysctl("net/bridge/bridge-nf-call-"+family+"tables", bridged)
			}
			e := newDualEnv(GinkgoTB())
			outside := newOutside(GinkgoTB(), "/proc/self/ns/net")
			web, other := e.sandbox(hostPort(8080)), e.sandbox()
			e.serve(web, "web", 80)
			e.serve(other, "other", 80)
			webIPs, otherIPs := e.ips(web), e.ips(other)
			Expect(webIPs).To(HaveLen(2))

			By("from outside, which is seen as it is")
			outside.hears(node4, 8080, "web", outside4)
			outside.hears(node6, 8080, "web", outside6)
			By("from the node, by its addresses and its loopback")
			place(here).hears(node4, 8080, "web", node4)
			place(here).hears(node6, 8080, "web", node6)
			place(here).hears("127.0.0.1", 8080, "web", "10.88.0.1")
			place(here).hears("127.1.2.3", 8080, "web", "")
			place(here).hearsNothing("::1", 8080)
			By("from another pod, which is seen as it is")
			e.from(other).hears(node4, 8080, "web", otherIPs[0].String())
			e.from(other).hears(node6, 8080, "web", otherIPs[1].String())
			e.from(other).hears("10.88.0.1", 8080, "web", otherIPs[0].String())
			By("from the pod itself")
			e.from(web).hears(node4, 8080, "web", "10.88.0.1")
			e.from(web).hears(node6, 8080, "web", "fd00:88::1")

			By("and no other port or address does")
			outside.hearsNothing(node4, 8081)
			e.from(other).hearsNothing(outside4, 8080)
		})
	}
})
