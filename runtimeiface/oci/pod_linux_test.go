package oci_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/runtime-spec/specs-go"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci"
)

var _ = Describe("a pod", func() {
	var e *env
	BeforeEach(func() { e = newEnv(GinkgoTB()) })

	It("ends in time though somebody outside holds its output open, and loses none of it", func() {
		id := e.start(e.sandbox(), "app", "print before ; forever")
		pid := e.status(id).PID
		held, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/1", pid), os.O_WRONLY, 0)
		Expect(err).NotTo(HaveOccurred())
		defer func() { _ = held.Close() }()
		Eventually(func() string { return e.log(e.status(id)) }, "1m").Should(Equal("before\n"))

		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		Expect(e.rt.StopContainer(ctx, id, 0)).To(Succeed())
		_, err = held.WriteString("after\n")
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() string { return e.log(e.status(id)) }, "1m").Should(Equal("before\nafter\n"))
	})

	It("is stopped with grace by its shim, though the agent goes", func() {
		id := e.start(e.sandbox(), "app", "ignore ; print ready ; forever")
		Eventually(func() string { return e.log(e.status(id)) }, "1m").Should(Equal("ready\n"))
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(50*time.Millisecond, cancel)
		Expect(e.rt.StopContainer(ctx, id, time.Second)).To(MatchError(context.Canceled))
		e.reopen()
		Expect(e.status(id).State).To(Equal(runtimeiface.ContainerRunning))
		Expect(e.exited(id).ExitCode).To(BeEquivalentTo(137))
	})

	It("has the node's network and names when asked to", func() {
		sb := e.sandbox(func(s *runtimeiface.SandboxSpec) {
			s.Network, s.IPC = runtimeiface.NamespaceHost, runtimeiface.NamespaceHost
		})
		pid := e.status(e.start(sb, "app", "forever")).PID
		for _, ns := range []string{"net", "uts", "ipc"} {
			Expect(nsOf(pid, ns)).To(Equal(nsOf(os.Getpid(), ns)))
		}
		Expect(nsOf(pid, "pid")).NotTo(Equal(nsOf(os.Getpid(), "pid")))
	})

	It("shares network, names and IPC among its containers, and no more", func() {
		sb, other := e.sandbox(), e.sandbox()
		a, b, c := e.status(e.start(sb, "a", "forever")).PID, e.status(e.start(sb, "b", "forever")).PID, e.status(e.start(other, "c", "forever")).PID
		for _, ns := range []string{"net", "uts", "ipc"} {
			Expect(nsOf(a, ns)).To(Equal(nsOf(b, ns)), ns)
			Expect(nsOf(a, ns)).NotTo(Equal(nsOf(c, ns)), ns)
			Expect(nsOf(a, ns)).NotTo(Equal(nsOf(os.Getpid(), ns)), ns)
		}
		for _, ns := range []string{"pid", "mnt"} {
			Expect(nsOf(a, ns)).NotTo(Equal(nsOf(b, ns)), ns)
		}
	})

	It("gets a working directory that the image lacks", func() {
		id := e.start(e.sandbox(), "app", "cwd", func(s *runtimeiface.ContainerSpec) { s.WorkingDir = "/made/for/it" })
		c := e.exited(id)
		Expect(e.log(c)).To(Equal("/made/for/it\n"))
	})

	It("starts with an OOM score that the agent may not give", func() {
		id := e.start(e.sandbox(), "app", "forever", func(s *runtimeiface.ContainerSpec) { s.OOMScoreAdj = -999 })
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", e.status(id).PID))
		Expect(err).NotTo(HaveOccurred())
		Expect(strings.TrimSpace(string(data))).To(BeElementOf("-999", "0"))
	})

	It("gives privileged containers devices, and others none of the host's", func() {
		privileged := func(s *runtimeiface.ContainerSpec) { s.Security.Privileged = true }
		sb := e.sandbox(func(s *runtimeiface.SandboxSpec) { s.Privileged = true })
		Expect(e.log(e.exited(e.start(sb, "yes", "ls /dev", privileged)))).To(ContainSubstring("kmsg"))
		Expect(e.log(e.exited(e.start(sb, "no", "ls /dev")))).NotTo(ContainSubstring("kmsg"))
	})

	It("gets a device that is asked for", func() {
		device := func(s *runtimeiface.ContainerSpec) {
			s.Devices = []specs.LinuxDevice{{Path: "/dev/mine", Type: "c", Major: 1, Minor: 5}}
		}
		Expect(e.log(e.exited(e.start(e.sandbox(), "app", "ls /dev", device)))).To(ContainSubstring("mine"))
	})

	It("does what the OCI runtime can with system-call filters", func() {
		out, err := exec.Command("runc", "features").Output()
		Expect(err).NotTo(HaveOccurred())
		var features struct {
			Linux struct{ Seccomp struct{ Enabled bool } }
		}
		Expect(json.Unmarshal(out, &features)).To(Succeed())
		spec := runtimeiface.ContainerSpec{Name: "app", Image: e.image}
		spec.Security.Seccomp = runtimeiface.SeccompRuntimeDefault
		_, err = e.rt.CreateContainer(e.ctx(), e.sandbox(), spec)
		if features.Linux.Seccomp.Enabled {
			Expect(err).NotTo(HaveOccurred())
		} else {
			Expect(err).To(MatchError(runtimeiface.ErrNotSupported))
			Expect(err).To(MatchError(ContainSubstring("Security.Seccomp")))
		}
	})

	It("has its log nowhere but below the log directory", func() {
		outside := GinkgoT().TempDir()
		sb := e.sandbox(func(s *runtimeiface.SandboxSpec) {
			Expect(os.MkdirAll(s.LogDirectory, 0o755)).To(Succeed())
			Expect(os.Symlink(outside, filepath.Join(s.LogDirectory, "app"))).To(Succeed())
		})
		_, err := e.rt.CreateContainer(e.ctx(), sb, runtimeiface.ContainerSpec{Name: "app", Image: e.image, LogPath: "app/0.log"})
		Expect(err).To(HaveOccurred())
		Expect(os.ReadDir(outside)).To(BeEmpty())
		list, err := e.rt.ListContainers(e.ctx(), runtimeiface.ContainerFilter{})
		Expect(err).NotTo(HaveOccurred())
		Expect(list).To(BeEmpty())
	})

	It("says which fields it cannot honour", func() {
		for field, change := range map[string]func(*runtimeiface.SandboxSpec){
			"PortMappings[0].HostIP": func(s *runtimeiface.SandboxSpec) {
				s.PortMappings = []runtimeiface.PortMapping{{Protocol: "TCP", ContainerPort: 80, HostPort: 80, HostIP: netip.MustParseAddr("2001:db8::1")}}
			},
			"RuntimeHandler": func(s *runtimeiface.SandboxSpec) { s.RuntimeHandler = "unknown" },
		} {
			spec := e.sandboxSpec()
			change(&spec)
			_, err := e.rt.RunSandbox(e.ctx(), spec)
			Expect(err).To(MatchError(runtimeiface.ErrNotSupported))
			Expect(err).To(MatchError(ContainSubstring(field)))
		}
	})

	It("has no slice as its cgroup, which is for systemd to make", func() {
		spec := e.sandboxSpec()
		spec.CgroupParent = "/kubepods.slice/kubepods-pod1.slice"
		_, err := e.rt.RunSandbox(e.ctx(), spec)
		Expect(err).To(MatchError(runtimeiface.ErrInvalid))
		Expect(err).To(MatchError(ContainSubstring("CgroupParent /kubepods.slice/kubepods-pod1.slice is a slice")))
	})

	It("has its kernel parameters before its interface", func() {
		sb := e.sandbox(func(s *runtimeiface.SandboxSpec) {
			s.Sysctls = map[string]string{"net.ipv4.conf.default.rp_filter": "2", "kernel.msgmax": "8191"}
		})
		// An interface takes what is the default when it is made.
		for _, p := range []string{"eth0/rp_filter 2", "eth0/accept_redirects 0", "all/accept_redirects 0"} {
			name, want, _ := strings.Cut(p, " ")
			Expect(e.inPod(sb, "/proc/sys/net/ipv4/conf/"+name)).To(Equal(want), name)
		}
		Expect(e.inPod(sb, "/proc/sys/kernel/msgmax")).To(Equal("8191"))
	})

	It("leaves nothing when its network cannot be made", func() {
		spec := e.sandboxSpec()
		spec.Sysctls = map[string]string{"net.ipv4.no_such_parameter": "1"}
		_, err := e.rt.RunSandbox(e.ctx(), spec)
		Expect(err).To(MatchError(ContainSubstring("no_such_parameter")))
		Eventually(e.leftovers, "1m").Should(BeEmpty())
	})
})

var _ = Describe("a Runtime", func() {
	It("leaves no goroutine behind", func() {
		e := newEnv(GinkgoTB())
		e.close()
		before := goleak.IgnoreCurrent()
		e.open()
		e.start(e.sandbox(), "app", "forever")
		e.close()
		Eventually(func() error { return goleak.Find(before) }, "1m").Should(Succeed())
		_, err := e.rt.ListSandboxes(context.Background(), runtimeiface.SandboxFilter{})
		Expect(err).To(MatchError(runtimeiface.ErrUnavailable))
		e.open()
	})

	It("works below a path that is longer than a socket's address", func() {
		e := prepareEnv(GinkgoTB())
		e.cfg.Root = filepath.Join(e.cfg.Root, strings.Repeat("long/", 25))
		e.open()
		e.image = e.pull(e.images.Prog)
		id := e.start(e.sandbox(), "app", "forever")
		e.reopen()
		Expect(e.status(id).State).To(Equal(runtimeiface.ContainerRunning))
	})

	It("has its pods in the network namespace that it is given", func() {
		node := kerneltest.NewNetNS(GinkgoTB())
		e := prepareEnv(GinkgoTB())
		e.cfg.Network = oci.Network{NetNSPath: node.Path(), Bridge: "elsewhere0"}
		e.open()
		e.image = e.pull(e.images.Prog)
		e.start(e.sandbox(), "pod", "forever")
		Expect(e.leftovers()).NotTo(ContainElement(HavePrefix("interface")), "in the test's namespace")
		host := e.sandbox(func(s *runtimeiface.SandboxSpec) { s.Network = runtimeiface.NamespaceHost })
		pid := e.status(e.start(host, "host", "forever")).PID
		want, err := os.Readlink(node.Path())
		Expect(err).NotTo(HaveOccurred())
		Expect(nsOf(pid, "net")).To(Equal(want))
	})

	It("puts the node's kernel parameters back when it is purged", func() {
		const forward = "/proc/sys/net/ipv4/ip_forward"
		read := func() string {
			data, err := os.ReadFile(forward)
			Expect(err).NotTo(HaveOccurred())
			return strings.TrimSpace(string(data))
		}
		Expect(os.WriteFile(forward, []byte("0"), 0)).To(Succeed())
		e := newEnv(GinkgoTB())
		e.sandbox()
		Expect(read()).To(Equal("1"))
		e.reopen()
		e.sandbox()
		Expect(e.rt.Purge(e.ctx())).To(Succeed())
		Expect(read()).To(Equal("0"))
		Expect(e.leftovers()).To(BeEmpty())
	})

	It("takes what a damaged record belongs to away, and keeps the rest", func() {
		e := newEnv(GinkgoTB())
		kept := e.start(e.sandbox(), "app", "forever")
		bad := e.sandbox()
		e.start(bad, "app", "forever")
		e.close()
		Expect(os.WriteFile(filepath.Join(e.cfg.Root, "sandboxes", bad, "record.json"), []byte("{"), 0o600)).To(Succeed())
		e.open()
		Expect(e.status(kept).State).To(Equal(runtimeiface.ContainerRunning))
		_, err := e.rt.SandboxStatus(e.ctx(), bad)
		Expect(err).To(MatchError(runtimeiface.ErrNotFound))
	})

	It("tells a machine that was restarted from an agent that was", func() {
		e := newEnv(GinkgoTB())
		sb := e.sandbox()
		id := e.start(sb, "app", "forever")
		s, err := e.rt.SandboxStatus(e.ctx(), sb)
		Expect(err).NotTo(HaveOccurred())
		e.close()
		// No process, no mount: as after a boot, but with what the disk keeps.
		Expect(unix.Kill(s.PID, unix.SIGKILL)).To(Succeed())
		e.open()
		Expect(e.status(id).Reason).To(Equal(runtimeiface.ReasonUnknown))
		Expect(e.status(id).ExitCode).To(BeEquivalentTo(runtimeiface.ExitCodeUnknown))
	})
})

func nsOf(pid int, name string) string {
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
	Expect(err).NotTo(HaveOccurred())
	return link
}
