package nftables_test

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/nftables"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var _ = Describe("a proxy on pods", func() {
	It("follows readiness, is repaired after a flush and removes all when told to", func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root, kerneltest.Nft)
		n := newNetwork(3, "0")
		web := service("web", "10.96.0.10", port("TCP", 80, 30080))
		web.Spec.Selector = map[string]string{"app": "web"}
		web.Spec.Ports[0].TargetPort = intstr.FromString("http")
		ready := map[string]bool{"pod1": true, "pod2": true}
		var pods []*corev1.Pod
		for _, h := range n.pods[:2] {
			h.serve(8080)
			p := &corev1.Pod{}
			p.Namespace, p.Name = "default", h.name
			p.Labels = map[string]string{"app": "web"}
			p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}}
			p.Status.PodIP = h.v4.String()
			p.Status.Conditions = make([]corev1.PodCondition, 1)
			pods = append(pods, p)
		}
		addresses, err := nftables.PrimaryAddresses(n.node.FD())
		Expect(err).NotTo(HaveOccurred())
		Expect(addresses).To(Equal([]netip.Addr{n.node.v4, n.node.v6}))
		facts := proxyrules.Node{Addresses: addresses, PodCIDRs: testNode.PodCIDRs}
		proxy, err := proxyrules.New(proxyrules.Config{Dialect: openIn(n.node.NetNS, "nodekit"), Node: facts, CheckEvery: 50 * time.Millisecond})
		Expect(err).NotTo(HaveOccurred())
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- proxy.Run(ctx) }()
		stop := sync.OnceFunc(func() { cancel(); Expect(<-done).To(Succeed()) })
		DeferCleanup(stop)
		set := func() {
			for _, p := range pods {
				p.Status.Conditions[0] = corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse}
				if ready[p.Name] {
					p.Status.Conditions[0].Status = corev1.ConditionTrue
				}
			}
			proxy.Set([]*corev1.Service{web}, proxyrules.Endpoints(web, pods))
			Eventually(func() bool { return proxy.Status().Pending }).WithPolling(time.Millisecond).Should(BeFalse())
			status := proxy.Status()
			GinkgoWriter.Printf("%v: applied %s after Set, %d elements\n", ready, status.Latency, status.Stats.Elements)
		}
		client := n.pods[2]
		set()
		Expect(keys(client.askAll("tcp", "10.96.0.10:80", 2))).To(HaveLen(2))
		Expect(proxy.Healthy()).To(Succeed())

		var open *conn
		for open == nil {
			c, err := client.dial("tcp", "10.96.0.10:80", nil)
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(c.Close)
			if answer, _ := c.ask(); answer == "pod1 "+client.v4.String() {
				open = c
			}
		}
		ready["pod1"] = false
		set()
		for range 10 {
			Expect(client.ask("tcp", "192.0.2.1:30080")).To(Equal("pod2 " + gateway4.String()))
		}
		Expect(open.ask()).To(Equal("pod1 " + client.v4.String()))
		packet, err := proxyrules.ParsePacket(client.v4.String(), "192.0.2.1:30080", "tcp")
		Expect(err).NotTo(HaveOccurred())
		Expect(proxy.Trace(packet).Backends).To(HaveExactElements(HaveField("Target", "default/pod2")))

		nft(n.node.NetNS, "flush ruleset", "-f", "-")
		Eventually(func() (string, error) { return client.ask("tcp", "10.96.0.10:80") }).
			WithTimeout(60 * time.Second).Should(Equal("pod2 " + client.v4.String()))
		Eventually(proxy.Status).Should(HaveField("Stats.Full", true))

		stop()
		Expect(client.ask("tcp", "10.96.0.10:80")).To(Equal("pod2 "+client.v4.String()), "the rules stay")
		Expect(proxy.Cleanup(context.Background())).To(Succeed())
		Expect(nft(n.node.NetNS, "", "list", "ruleset")).To(BeEmpty())
		Expect(proxy.Table()).To(BeNil())
	})
})
