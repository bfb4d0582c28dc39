package oci_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
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
				name := "net/bridge/bridge-nf-call-" + family + "tables"
				if _, err := os.Stat("/proc/sys/" + name); err == nil { // else it is as with 0
					before := sysctl(name)
					setSysctl(name, bridged)
					DeferCleanup(func() { setSysctl(name, before) })
				}
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

	It("is asked for by an address of the node, and answers there only", func() {
		e := newDualEnv(GinkgoTB())
		outside := newOutside(GinkgoTB(), "/proc/self/ns/net")
		pods := map[string]string{}
		for name, hostIP := range map[string]string{"one4": node4, "one6": node6, "loop": "127.0.0.1", "bridge": "10.88.0.1"} {
			pods[name] = e.sandbox(hostPort(8080, hostIP))
			e.serve(pods[name], name, 80)
		}
		for name, hostIP := range map[string]string{"any4": "0.0.0.0", "any6": "::"} {
			e.serve(e.sandbox(hostPort(8081, hostIP)), name, 80)
		}
		outside.hears(node4, 8080, "one4", outside4)
		outside.hears(node6, 8080, "one6", outside6)
		place(here).hears("127.0.0.1", 8080, "loop", "")
		e.from(pods["one4"]).hears("10.88.0.1", 8080, "bridge", e.ips(pods["one4"])[0].String())
		e.from(pods["one4"]).hearsNothing("127.0.0.1", 8080)
		place(here).hearsNothing("127.0.0.2", 8080)
		outside.hears(node4, 8081, "any4", outside4)
		outside.hears(node6, 8081, "any6", outside6)
	})

	It("has one owner, who is named", func() {
		e := newDualEnv(GinkgoTB())
		first := e.sandbox(hostPort(8080))
		clash := e.sandboxSpec()
		hostPort(8080, node4)(&clash)
		refused := func() {
			_, err := e.rt.RunSandbox(e.ctx(), clash)
			ExpectWithOffset(1, err).To(MatchError(runtimeiface.ErrInUse))
			s, err2 := e.rt.SandboxStatus(e.ctx(), first)
			ExpectWithOffset(1, err2).NotTo(HaveOccurred())
			ExpectWithOffset(1, err).To(MatchError(ContainSubstring("TCP port 8080 of the node belongs to pod test/" + s.Name + " (sandbox " + first)))
		}
		refused()
		e.reopen()
		refused()
		Expect(e.rt.ListSandboxes(e.ctx(), runtimeiface.SandboxFilter{})).To(HaveLen(1), "a refused sandbox leaves nothing")
		Expect(e.rt.StopSandbox(e.ctx(), first)).To(Succeed())
		second, err := e.rt.RunSandbox(e.ctx(), clash)
		Expect(err).NotTo(HaveOccurred())
		e.reopen() // the stopped one has none of them
		Expect(e.rt.RemoveSandbox(e.ctx(), first)).To(Succeed())
		e.serve(second, "second", 80)
		newOutside(GinkgoTB(), "/proc/self/ns/net").hears(node4, 8080, "second", outside4)
	})

	It("is the node's own again when the pod stops, and answers on while no agent is there", func() {
		e := newDualEnv(GinkgoTB())
		outside := newOutside(GinkgoTB(), "/proc/self/ns/net")
		web := e.sandbox(hostPort(8080))
		e.serve(web, "web", 80)
		e.close()
		outside.hears(node4, 8080, "web", outside4)
		e.open()
		outside.hears(node6, 8080, "web", outside6)
		Expect(e.rt.StopSandbox(e.ctx(), web)).To(Succeed())
		Expect(answer(e.tb.Cleanup, "node", ":8080")).To(Succeed())
		outside.hears(node4, 8080, "node", outside4)
		outside.hears(node6, 8080, "node", outside6)
		place(here).hears("127.0.0.1", 8080, "node", "127.0.0.1")
	})

	It("is taken from the dead pod by the next agent", func() {
		e := newDualEnv(GinkgoTB())
		dead, alive := e.sandbox(hostPort(8080)), e.sandbox(hostPort(8081))
		e.serve(alive, "alive", 80)
		s, err := e.rt.SandboxStatus(e.ctx(), dead)
		Expect(err).NotTo(HaveOccurred())
		e.close()
		Expect(unix.Kill(s.PID, unix.SIGKILL)).To(Succeed())
		Expect(e.elements()).To(HaveLen(2*2*2+2*2), "two pods, protocols, families; and each family's address of each")
		e.open()
		Expect(e.elements()).To(HaveLen(2*2 + 2))
		place(here).hears("127.0.0.1", 8081, "alive", "")
		_ = e.sandbox(hostPort(8080))
	})

	It("has no rule of a pod that a kill at any moment took", func() {
		e := newDualEnv(GinkgoTB())
		e.close()
		random := rand.New(rand.NewPCG(GinkgoRandomSeed64(), 3))
		for round := range 15 {
			a := e.agent(agentJob{Prefix: fmt.Sprintf("ports%d", round), Pods: 3, HostPort: 8080, Forever: true})
			_, ok := a.next("open")
			Expect(ok).To(BeTrue(), "the agent opens")
			_, ok = a.next("done")
			Expect(ok).To(BeTrue(), "a pod runs")
			time.Sleep(time.Duration(random.IntN(100_000)) * time.Microsecond)
			a.kill()
			e.open()
			list, err := e.rt.ListSandboxes(e.ctx(), runtimeiface.SandboxFilter{State: runtimeiface.SandboxReady})
			Expect(err).NotTo(HaveOccurred())
			Expect(e.elements()).To(HaveLen(len(list)*(2*2+2)), "round %d", round)
			for _, s := range list {
				for _, ip := range s.IPs {
					Expect(strings.Join(e.elements(), "\n")).To(ContainSubstring(hex.EncodeToString(ip.AsSlice())), "round %d", round)
				}
				Expect(e.rt.RemoveSandbox(e.ctx(), s.ID)).To(Succeed())
			}
			Expect(e.elements()).To(BeEmpty())
			e.close()
		}
		e.open()
	})

	It("is found by a client that sends on from the same port, when the pod comes and goes", func() {
		e := newDualEnv(GinkgoTB())
		outside := newOutside(GinkgoTB(), "/proc/self/ns/net")
		for _, node := range []string{node4, node6} {
			var client net.Conn
			Expect(outside(func() (err error) {
				client, err = net.Dial("udp", net.JoinHostPort(node, "8080"))
				return err
			})).To(Succeed())
			defer func() { _ = client.Close() }()
			hears := func() string {
				_ = client.SetDeadline(time.Now().Add(300 * time.Millisecond))
				_, _ = client.Write([]byte("?"))
				buffer := make([]byte, 100)
				n, _ := client.Read(buffer)
				name, _, _ := strings.Cut(string(buffer[:n]), " ")
				return name
			}
			// The node drops it without a word: a flow that is led nowhere.
			sink, err := net.ListenPacket("udp", ":8080")
			Expect(err).NotTo(HaveOccurred())
			Expect(hears()).To(BeEmpty())
			for _, name := range []string{"first", "second"} {
				pod := e.sandbox(hostPort(8080))
				e.serve(pod, name, 80)
				// A flow that stays is kept alive for 30 s by each that is sent.
				Eventually(hears, "1m").Should(Equal(name), node)
				Expect(e.rt.RemoveSandbox(e.ctx(), pod)).To(Succeed())
			}
			Expect(sink.Close()).To(Succeed())
		}
	})

	It("opens the node's loopback to nobody else (CVE-2020-8558)", func() {
		kerneltest.Require(GinkgoTB(), kerneltest.Nft)
		e := newDualEnv(GinkgoTB())
		web := e.sandbox(hostPort(8080))
		Expect(sysctl("net/ipv4/conf/nodekit0/route_localnet")).To(Equal("1"))
		private, err := net.ListenPacket("udp", "127.0.0.1:0")
		Expect(err).NotTo(HaveOccurred())
		defer func() { _ = private.Close() }()
		// What root in a pod can do: send what is for 127.0.0.1 to the node.
		Expect(e.inNet(web, func() error {
			for _, p := range []string{"all/route_localnet", "eth0/route_localnet"} {
				if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+p, []byte("1"), 0); err != nil {
					return err
				}
			}
			routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			for _, r := range routes {
				if r.Dst != nil && r.Dst.IP.IsLoopback() {
					if err := netlink.RouteDel(&r); err != nil {
						return err
					}
				}
			}
			dst := &net.IPNet{IP: net.IPv4(127, 0, 0, 1).To4(), Mask: net.CIDRMask(32, 32)}
			return netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.IPv4(10, 88, 0, 1)})
		})).To(Succeed())
		attack := func() bool {
			Expect(e.inNet(web, func() error {
				conn, err := net.Dial("udp", private.LocalAddr().String())
				if err != nil {
					return err
				}
				defer func() { _ = conn.Close() }()
				_, err = conn.Write([]byte("?"))
				return err
			})).To(Succeed())
			_ = private.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			_, _, err := private.ReadFrom(make([]byte, 10))
			return err == nil
		}
		Expect(attack()).To(BeFalse())
		Expect(exec.Command("nft", "flush", "chain", "inet", e.table(), "guard").Run()).To(Succeed())
		Expect(attack()).To(BeTrue(), "without the guard: else this test tests nothing")
		e.reopen()
		Expect(attack()).To(BeFalse())
	})

	It("comes back when somebody flushes all rules, with the next pod", func() {
		kerneltest.Require(GinkgoTB(), kerneltest.Nft)
		e := newDualEnv(GinkgoTB())
		first, second := e.sandbox(hostPort(8080)), e.sandbox(hostPort(8081))
		e.serve(first, "first", 80)
		Expect(exec.Command("nft", "flush", "ruleset").Run()).To(Succeed())
		Expect(e.rt.RemoveSandbox(e.ctx(), second)).To(Succeed())
		place(here).hears("127.0.0.1", 8080, "first", "")
		Expect(exec.Command("nft", "flush", "ruleset").Run()).To(Succeed())
		e.serve(e.sandbox(hostPort(8081)), "third", 80)
		place(here).hears("127.0.0.1", 8080, "first", "")
		place(here).hears("127.0.0.1", 8081, "third", "")
	})

	It("is in a table that other tables do not notice, that nft can read and Purge removes", func() {
		kerneltest.Require(GinkgoTB(), kerneltest.Nft)
		Expect(exec.Command("nft", "add", "table", "inet", "nodekit-hostport-of-another").Run()).To(Succeed())
		DeferCleanup(func() { _ = exec.Command("nft", "delete", "table", "inet", "nodekit-hostport-of-another").Run() })
		e := newDualEnv(GinkgoTB())
		Expect(e.table()).To(BeEmpty(), "before it is needed")
		web := e.sandbox(hostPort(8080, "192.0.2.1"))
		text, err := exec.Command("nft", "list", "table", "inet", e.table()).CombinedOutput()
		Expect(err).NotTo(HaveOccurred(), string(text))
		// Where no file names the protocols, nft gives their numbers.
		Expect(string(text)).To(MatchRegexp(`(tcp|6) \. 192\.0\.2\.1 \. 8080 : %s \. 80`, e.ips(web)[0]))
		Expect(e.rt.Purge(e.ctx())).To(Succeed())
		Expect(e.table()).To(BeEmpty())
		Expect(exec.Command("nft", "list", "table", "inet", "nodekit-hostport-of-another").Run()).To(Succeed())
	})

	It("is given to many pods at once", func() {
		e := newDualEnv(GinkgoTB())
		var all sync.WaitGroup
		for i := range 12 {
			all.Go(func() {
				defer GinkgoRecover()
				pod := e.sandbox(hostPort(uint16(9000 + i)))
				if i%2 == 0 {
					Expect(e.rt.RemoveSandbox(e.ctx(), pod)).To(Succeed())
				}
			})
		}
		all.Wait()
		Expect(e.elements()).To(HaveLen(6*2*2 + 6*2))
	})

	It("answers for a pod with IDs of its own", func() {
		e := newDualEnv(GinkgoTB())
		ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1 << 20, Size: 1 << 16}}
		web := e.sandbox(hostPort(8080), func(s *runtimeiface.SandboxSpec) {
			s.UserNamespace = &runtimeiface.UserNamespace{UIDs: ids, GIDs: ids}
		})
		e.serve(web, "web", 80)
		outside := newOutside(GinkgoTB(), "/proc/self/ns/net")
		outside.hears(node4, 8080, "web", outside4)
		outside.hears(node6, 8080, "web", outside6)
	})

	It("is nothing that a pod in the node's network has made", func() {
		e := newDualEnv(GinkgoTB())
		e.sandbox(hostPort(8080), func(s *runtimeiface.SandboxSpec) { s.Network = runtimeiface.NamespaceHost })
		e.sandbox(hostPort(8080))
		Expect(e.elements()).To(HaveLen(2*2 + 2))
	})

	It("is in the network namespace that counts as the node's", func() {
		node := kerneltest.NewNetNS(GinkgoTB())
		e := prepareEnv(GinkgoTB())
		e.cfg.Network = oci.Network{NetNSPath: node.Path(), Subnets: dualStack, Bridge: "elsewhere0"}
		e.open()
		outside := newOutside(GinkgoTB(), node.Path())
		e.serve(e.sandbox(hostPort(8080)), "web", 80)
		outside.hears(node4, 8080, "web", outside4)
		outside.hears(node6, 8080, "web", outside6)
		place(node.Do).hears("127.0.0.1", 8080, "web", "10.88.0.1")
		Expect(e.elements()).To(BeEmpty(), "in the test's namespace")
	})

	It("answers SCTP", func() {
		e := newDualEnv(GinkgoTB())
		outside := newOutside(GinkgoTB(), "/proc/self/ns/net")
		web := e.sandbox(func(s *runtimeiface.SandboxSpec) {
			s.PortMappings = []runtimeiface.PortMapping{{Protocol: "SCTP", ContainerPort: 80, HostPort: 8080}}
		})
		// No kernel with SCTP sockets is needed to translate it: the first packet
		// of an association goes by raw sockets.
		pod := make([]net.PacketConn, 2)
		for i, network := range []string{"ip4:132", "ip6:132"} {
			Expect(e.inNet(web, func() (err error) { pod[i], err = net.ListenPacket(network, ""); return err })).To(Succeed())
			defer func() { _ = pod[i].Close() }()
			Expect(outside(func() error {
				conn, err := net.Dial(network, []string{node4, node6}[i])
				if err != nil {
					return err
				}
				defer func() { _ = conn.Close() }()
				_, err = conn.Write(sctpInit(40000, 8080))
				return err
			})).To(Succeed())
			_ = pod[i].SetReadDeadline(time.Now().Add(5 * time.Second))
			buffer := make([]byte, 200)
			n, from, err := pod[i].ReadFrom(buffer)
			Expect(err).NotTo(HaveOccurred())
			Expect(from.String()).To(Equal([]string{outside4, outside6}[i]))
			Expect(buffer[:n]).To(Equal(sctpInit(40000, 80)), "with the pod's port, and a checksum that is right")
		}
	})
})

// sctpInit is a packet with an INIT chunk (RFC 9260 sections 3.1 and 3.3.2).
func sctpInit(from, to uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = append(b, make([]byte, 4+4)...)   // verification tag 0, checksum
	b = append(b, 1, 0, 0, 20)            // INIT, its length
	b = append(b, 0, 0, 0, 1, 0, 1, 0, 0) // initiate tag, window
	b = append(b, 0, 1, 0, 1, 0, 0, 0, 1) // streams out and in, first TSN
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// table is the name of the table of host ports, or empty.
func (e *env) table() string {
	name := ""
	e.tables(func(_ *nftables.Conn, t *nftables.Table) { name = t.Name })
	return name
}

// elements gives all of the table of host ports, as text.
func (e *env) elements() []string {
	var out []string
	e.tables(func(conn *nftables.Conn, t *nftables.Table) {
		sets, err := conn.GetSets(t)
		Expect(err).NotTo(HaveOccurred())
		for _, set := range sets {
			list, err := conn.GetSetElements(set)
			Expect(err).NotTo(HaveOccurred())
			for _, element := range list {
				out = append(out, fmt.Sprintf("%s %x %x", set.Name, element.Key, element.Val))
			}
		}
	})
	return out
}

// tables calls f with the table of this Runtime, if it is there.
func (e *env) tables(f func(*nftables.Conn, *nftables.Table)) {
	e.tb.Helper() // benchmarks come here, too
	conn, err := nftables.New()
	if err != nil {
		e.tb.Fatalf("nf_tables: %v", err)
	}
	list, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		e.tb.Fatalf("list tables: %v", err)
	}
	sum := sha256.Sum256([]byte(e.cfg.Root))
	for _, t := range list {
		if t.Name == "nodekit-hostport-"+hex.EncodeToString(sum[:6]) {
			f(conn, t)
		}
	}
}
