package oci_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci"
)

// cniEnv is a Runtime whose pods' network plug-ins make.
type cniEnv struct {
	*env
	conf string // directory of configurations
	bin  string // directory of plug-ins that tests make
	real string // directory of the others
	ipam string // what host-local remembers
}

// bridgeName is of the bridge that the plug-in makes.
const bridgeName = "cnitest0"

func newCNIEnv(files map[string]string) *cniEnv {
	GinkgoHelper()
	tb := GinkgoTB()
	kerneltest.Require(tb, kerneltest.CNI, kerneltest.Nft)
	real, err := kerneltest.CNIBinDir()
	Expect(err).NotTo(HaveOccurred())
	dir := tb.TempDir()
	c := &cniEnv{real: real, env: prepareEnv(tb), conf: filepath.Join(dir, "net.d"), bin: filepath.Join(dir, "bin"), ipam: filepath.Join(dir, "ipam")}
	for _, d := range []string{c.conf, c.bin} {
		Expect(os.Mkdir(d, 0o755)).To(Succeed())
	}
	for name, text := range files {
		c.write(name, text)
	}
	c.cfg.Network = oci.Network{CNI: oci.CNI{ConfDir: c.conf, BinDirs: []string{c.bin, c.real}}}
	DeferCleanup(func() {
		for _, name := range []string{bridgeName, "cnitest1"} {
			if link, err := netlink.LinkByName(name); err == nil {
				Expect(netlink.LinkDel(link)).To(Succeed())
			}
		}
	})
	c.open()
	return c
}

func (c *cniEnv) write(name, text string) {
	GinkgoHelper()
	Expect(os.WriteFile(filepath.Join(c.conf, name), []byte(strings.ReplaceAll(text, "IPAM", c.ipam)), 0o600)).To(Succeed())
}

// plugin makes a shell script a plug-in.
func (c *cniEnv) plugin(name, script string) {
	GinkgoHelper()
	Expect(os.WriteFile(filepath.Join(c.bin, name), []byte("#!/bin/sh\n"+script), 0o700)).To(Succeed())
}

// held gives the addresses that host-local has given.
func (c *cniEnv) held() []string {
	var out []string
	files, _ := filepath.Glob(filepath.Join(c.ipam, "*", "*[0-9a-f]"))
	for _, f := range files {
		if name := filepath.Base(f); name != "lock" && !strings.HasPrefix(name, "last_reserved") {
			out = append(out, name)
		}
	}
	return out
}

// cached gives what libcni remembers.
func (c *cniEnv) cached() []string {
	files, _ := filepath.Glob(filepath.Join(c.cfg.Root, "cni", "results", "*"))
	return files
}

const bridgePlugin = `{"type": "bridge", "bridge": "` + bridgeName + `", "isGateway": true, "hairpinMode": true,
	"ipam": {"type": "host-local", "dataDir": "IPAM", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
		"ranges": [[{"subnet": "10.89.0.0/24"}], [{"subnet": "fd00:89::/64"}]]}}`

func conflist(name string, plugins ...string) string {
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": %q, "plugins": [%s]}`, name, strings.Join(plugins, ","))
}

var wholeNetwork = conflist("whole", bridgePlugin, `{"type": "loopback"}`,
	`{"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}}`)

var _ = Describe("a network of CNI plug-ins", func() {
	It("carries pods, gives them ports of the node, and leaves nothing", func() {
		c := newCNIEnv(map[string]string{"10-whole.conflist": wholeNetwork})
		outside := newOutside(GinkgoTB(), "/proc/self/ns/net")
		web, other := c.sandbox(hostPort(8080)), c.sandbox()
		ips := c.ips(web)
		Expect(ips).To(HaveLen(2))
		Expect(ips[0].String()).To(HavePrefix("10.89.0."))
		Expect(ips[1].String()).To(HavePrefix("fd00:89::"))
		c.serve(web, "web", 80)
		for i, ip := range ips {
			place(here).hears(ip.String(), 80, "web", "")
			c.from(other).hears(ip.String(), 80, "web", c.ips(other)[i].String())
		}
		c.from(web).hears("127.0.0.1", 80, "web", "127.0.0.1")
		setSysctl("net/ipv4/ip_forward", "1") // which is not the plug-in's part for ports
		outside.hears(node4, 8080, "web", outside4)
		Expect(c.table()).To(BeEmpty(), "plug-ins make the ports")

		clash := c.sandboxSpec()
		hostPort(8080)(&clash)
		_, err := c.rt.RunSandbox(c.ctx(), clash)
		Expect(err).To(MatchError(runtimeiface.ErrInUse))

		Expect(c.held()).To(HaveLen(4))
		Expect(c.cached()).To(HaveLen(2))
		c.reopen()
		Expect(c.ips(web)).To(Equal(ips))
		Expect(c.rt.StopSandbox(c.ctx(), web)).To(Succeed())
		Expect(c.held()).To(HaveLen(2))
		Expect(c.ips(web)).To(BeEmpty())
		outside.hearsNothing(node4, 8080)
		Expect(c.rt.Purge(c.ctx())).To(Succeed())
		Expect(c.held()).To(BeEmpty())
		Expect(c.cached()).To(BeEmpty())
	})

	It("is the first of those in the directory, and the built-in one while there is none", func() {
		c := newCNIEnv(nil)
		builtin := c.sandbox()
		Expect(c.ips(builtin)[0].String()).To(HavePrefix("10.88.0."))
		c.write("20-second.conflist", conflist("second", strings.ReplaceAll(bridgePlugin, "10.89", "10.90")))
		c.write("notes.txt", "no configuration")
		second := c.sandbox()
		Expect(c.ips(second)[0].String()).To(HavePrefix("10.90.0."))
		single := strings.NewReplacer("10.89", "10.91", "fd00:89", "fd00:91", bridgeName, "cnitest1").Replace(bridgePlugin)
		single = strings.Replace(single, "{", `{"cniVersion": "0.4.0", "name": "single", `, 1)
		c.write("10-single.conf", single)
		Expect(c.ips(c.sandbox())[0].String()).To(HavePrefix("10.91.0."))
		// Each ends with what it began with, whatever is there by then.
		Expect(os.RemoveAll(c.conf)).To(Succeed())
		c.cfg.Network.CNI.ConfDir = ""
		c.reopen()
		Expect(c.rt.RemoveSandbox(c.ctx(), builtin)).To(Succeed())
		Expect(c.held()).To(HaveLen(4))
		Expect(c.rt.Purge(c.ctx())).To(Succeed())
		Expect(c.held()).To(BeEmpty())
	})

	It("says what a plug-in said, and takes back what others had made", func() {
		c := newCNIEnv(map[string]string{"10-bad.conflist": conflist("bad", bridgePlugin, `{"type": "sour"}`)})
		calls := filepath.Join(c.bin, "calls")
		c.plugin("sour", `echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_ARGS" >> `+calls+`
cat > /dev/null
[ "$CNI_COMMAND" = DEL ] && exit 0
echo '{"cniVersion": "1.0.0", "code": 11, "msg": "the grapes are sour", "details": "all of them"}'
exit 1
`)
		spec := c.sandboxSpec()
		_, err := c.rt.RunSandbox(c.ctx(), spec)
		Expect(err).To(MatchError(ContainSubstring("CNI network bad")))
		Expect(err).To(MatchError(ContainSubstring("the grapes are sour; all of them")))
		Expect(err).To(MatchError(runtimeiface.ErrUnavailable), "code 11 of the specification: try again later")
		Expect(c.held()).To(BeEmpty())
		Eventually(c.leftovers, "1m").Should(BeEmpty())
		said, err := os.ReadFile(calls)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(said)).To(MatchRegexp(`(?s)^ADD .*K8S_POD_NAME=` + spec.Name + `.*\nDEL `))
	})

	It("is not made by halves of a configuration", func() {
		c := newCNIEnv(map[string]string{"10-broken.conflist": "{", "20-whole.conflist": wholeNetwork})
		_, err := c.rt.RunSandbox(c.ctx(), c.sandboxSpec())
		Expect(err).To(MatchError(ContainSubstring(filepath.Join(c.conf, "10-broken.conflist"))))
		c.write("10-broken.conflist", conflist("lost", `{"type": "no-such-plug-in"}`))
		_, err = c.rt.RunSandbox(c.ctx(), c.sandboxSpec())
		Expect(err).To(MatchError(ContainSubstring(`"no-such-plug-in"`)))
	})

	It("is taken back later where a plug-in will not now, and fails once a pod until then", func() {
		c := newCNIEnv(map[string]string{"10-bad.conflist": conflist("bad", bridgePlugin, `{"type": "stubborn"}`)})
		c.plugin("stubborn", `cat > /dev/null; [ -e `+c.bin+`/mild ] && exit 0; echo '{"code": 100, "msg": "never"}'; exit 1`)
		spec := c.sandboxSpec()
		for range 3 {
			_, err := c.rt.RunSandbox(c.ctx(), spec)
			Expect(err).To(MatchError(ContainSubstring("never")))
			Expect(c.held()).To(HaveLen(2))
			Expect(os.ReadDir(filepath.Join(c.cfg.Root, "sandboxes"))).To(HaveLen(1))
			c.reopen()
		}
		Expect(os.WriteFile(filepath.Join(c.bin, "mild"), nil, 0o600)).To(Succeed())
		c.write("10-bad.conflist", wholeNetwork)
		sb, err := c.rt.RunSandbox(c.ctx(), spec)
		Expect(err).NotTo(HaveOccurred())
		Expect(c.held()).To(ConsistOf(c.ips(sb)[0].String(), c.ips(sb)[1].String()))
		Expect(os.ReadDir(filepath.Join(c.cfg.Root, "sandboxes"))).To(HaveLen(1))
	})

	It("holds a sandbox whose stop a plug-in refuses, until it does not", func() {
		c := newCNIEnv(map[string]string{"10-odd.conflist": conflist("odd", bridgePlugin, `{"type": "odd"}`)})
		c.plugin("odd", `[ "$CNI_COMMAND" = ADD ] && exec `+c.real+`/loopback
cat > /dev/null; [ -e `+c.bin+`/mild ] && exit 0; echo '{"code": 100, "msg": "not now"}'; exit 1
`)
		sb := c.sandbox()
		Expect(c.ips(sb)).To(HaveLen(2))
		for range 2 {
			Expect(c.rt.StopSandbox(c.ctx(), sb)).To(MatchError(ContainSubstring("not now")))
			Expect(c.held()).To(HaveLen(2))
		}
		Expect(os.WriteFile(filepath.Join(c.bin, "mild"), nil, 0o600)).To(Succeed())
		Expect(c.rt.StopSandbox(c.ctx(), sb)).To(Succeed())
		Expect(c.held()).To(BeEmpty())
		s, err := c.rt.SandboxStatus(c.ctx(), sb)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.State).To(Equal(runtimeiface.SandboxNotReady))
		Expect(s.IPs).To(BeEmpty())
	})

	It("refuses ports that no plug-in would make", func() {
		c := newCNIEnv(map[string]string{"10-plain.conflist": conflist("plain", bridgePlugin)})
		spec := c.sandboxSpec()
		hostPort(8080)(&spec)
		_, err := c.rt.RunSandbox(c.ctx(), spec)
		Expect(err).To(MatchError(runtimeiface.ErrNotSupported))
		Expect(err).To(MatchError(ContainSubstring("portMappings")))
		Expect(c.held()).To(BeEmpty())
	})

	It("is taken down without a namespace when the shim was killed", func() {
		c := newCNIEnv(map[string]string{"10-whole.conflist": wholeNetwork})
		for _, down := range []bool{false, true} {
			sb := c.sandbox(hostPort(8080))
			s, err := c.rt.SandboxStatus(c.ctx(), sb)
			Expect(err).NotTo(HaveOccurred())
			if down {
				c.close()
			}
			Expect(unix.Kill(s.PID, unix.SIGKILL)).To(Succeed())
			if down {
				c.open()
			}
			Eventually(c.held, "1m", "20ms").Should(BeEmpty())
			Eventually(c.cached, "1m", "20ms").Should(BeEmpty(), "the last that is done")
			Expect(c.rt.RemoveSandbox(c.ctx(), sb)).To(Succeed())
		}
	})

	It("is given back after a kill while a plug-in works", func() {
		c := newCNIEnv(nil)
		c.close()
		hang := filepath.Join(c.bin, "hang")
		Expect(unix.Mkfifo(hang, 0o600)).To(Succeed())
		// The real one has done its work when the agent is killed.
		c.plugin("slow", `[ "$CNI_COMMAND" = ADD ] || exec `+c.real+`/bridge
out=$(`+c.real+`/bridge); : > `+c.bin+`/called; read x < `+hang+`; echo "$out"
`)
		c.write("10-slow.conflist", conflist("slow", strings.Replace(bridgePlugin, `"bridge"`, `"slow"`, 1)))
		a := c.agent(agentJob{Prefix: "slow", Pods: 1})
		_, ok := a.next("open")
		Expect(ok).To(BeTrue())
		Eventually(filepath.Join(c.bin, "called"), "1m", "5ms").Should(BeAnExistingFile())
		Expect(c.held()).To(HaveLen(2))
		a.kill()
		c.open()
		Expect(c.held()).To(BeEmpty())
		Expect(c.leftovers()).To(BeEmpty())
		stray, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, file := range stray {
			line, _ := os.ReadFile(file)
			Expect(string(line)).NotTo(ContainSubstring(c.bin + "/slow"))
		}
	})

	It("is given back after a kill at any moment", func() {
		c := newCNIEnv(map[string]string{"10-whole.conflist": wholeNetwork})
		c.close()
		random := rand.New(rand.NewPCG(GinkgoRandomSeed64(), 4))
		for round := range 8 {
			a := c.agent(agentJob{Prefix: fmt.Sprintf("cni%d", round), Pods: 2, HostPort: 8080, Forever: true})
			_, ok := a.next("open")
			Expect(ok).To(BeTrue(), "the agent opens")
			time.Sleep(time.Duration(random.IntN(500_000)) * time.Microsecond)
			a.kill()
			c.open()
			list, err := c.rt.ListSandboxes(c.ctx(), runtimeiface.SandboxFilter{State: runtimeiface.SandboxReady})
			Expect(err).NotTo(HaveOccurred())
			Expect(c.held()).To(HaveLen(2*len(list)), "round %d", round)
			for _, s := range list {
				Expect(s.IPs).To(HaveLen(2))
			}
			Expect(c.rt.Purge(c.ctx())).To(Succeed())
			Expect(c.held()).To(BeEmpty())
			Eventually(c.leftovers, "1m", "20ms").Should(BeEmpty())
			c.close()
		}
		c.open()
	})

	It("is given back when the record is damaged", func() {
		c := newCNIEnv(map[string]string{"10-whole.conflist": wholeNetwork})
		kept, bad := c.sandbox(), c.sandbox()
		c.close()
		Expect(os.WriteFile(filepath.Join(c.cfg.Root, "sandboxes", bad, "record.json"), []byte("{"), 0o600)).To(Succeed())
		c.open()
		Expect(c.held()).To(ConsistOf(c.ips(kept)[0].String(), c.ips(kept)[1].String()))
	})

	It("is made in the network namespace that counts as the node's", func() {
		node := kerneltest.NewNetNS(GinkgoTB())
		c := newCNIEnv(map[string]string{"10-whole.conflist": wholeNetwork})
		c.close()
		c.cfg.Network.NetNSPath = node.Path()
		c.open()
		sb := c.sandbox()
		c.serve(sb, "web", 80)
		place(node.Do).hears(c.ips(sb)[0].String(), 80, "web", "10.89.0.1")
		_, err := netlink.LinkByName(bridgeName)
		Expect(err).To(HaveOccurred(), "in the test's namespace")
	})
})
