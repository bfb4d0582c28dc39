package oci_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface"
)

// firstID is what ID 0 of the pods in here is on the node.
const firstID = 300000

func userNamespace(s *runtimeiface.SandboxSpec) {
	ids := []specs.LinuxIDMapping{{HostID: firstID, Size: 65536}}
	s.UserNamespace = &runtimeiface.UserNamespace{UIDs: ids, GIDs: ids}
}

func ownerOf(path string) string {
	GinkgoHelper()
	var st unix.Stat_t
	Expect(unix.Lstat(path, &st)).To(Succeed(), path)
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

var _ = Describe("a pod with a user namespace", func() {
	for _, program := range []kerneltest.Need{kerneltest.Runc, kerneltest.Crun} {
		Describe("of "+string(program), func() { userNamespaces(program) })
	}
})

var _ = Describe("the network of a pod with a user namespace", func() {
	It("has both families and ports of the node", func() {
		e := newDualEnv(GinkgoTB())
		web, other := e.sandbox(userNamespace, hostPort(8080)), e.sandbox(userNamespace)
		e.serve(web, "web", 80)
		for i, ip := range e.ips(web) {
			place(here).hears(ip.String(), 80, "web", "")
			e.from(other).hears(ip.String(), 80, "web", e.ips(other)[i].String())
		}
		place(here).hears("127.0.0.1", 8080, "web", "")
		e.reopen()
		place(here).hears("127.0.0.1", 8080, "web", "")
		gone := e.ips(web)
		Expect(e.rt.RemoveSandbox(e.ctx(), web)).To(Succeed())
		place(here).hearsNothing(gone[0].String(), 80)
	})

	It("is made and taken back by plug-ins", func() {
		c := newCNIEnv(map[string]string{"10-whole.conflist": wholeNetwork})
		newOutside(GinkgoTB(), "/proc/self/ns/net") // the node has addresses of both families
		web, other := c.sandbox(userNamespace, hostPort(8080)), c.sandbox(userNamespace)
		c.serve(web, "web", 80)
		for i, ip := range c.ips(web) {
			place(here).hears(ip.String(), 80, "web", "")
			c.from(other).hears(ip.String(), 80, "web", c.ips(other)[i].String())
		}
		Expect(c.rt.Purge(c.ctx())).To(Succeed())
		Expect(c.held()).To(BeEmpty())
		Expect(c.cached()).To(BeEmpty())
	})
})

func userNamespaces(program kerneltest.Need) {
	var e *env
	BeforeEach(func() {
		kerneltest.Require(GinkgoTB(), program)
		e = prepareEnv(GinkgoTB())
		e.cfg.RuntimeHandlers = map[string]string{"": string(program)}
		e.open()
		e.image = e.pull(e.images.Prog)
	})
	// says gives the output of a container that ends well.
	says := func(sandbox, name, steps string, change ...func(*runtimeiface.ContainerSpec)) string {
		GinkgoHelper()
		c := e.exited(e.start(sandbox, name, steps, change...))
		Expect(c.ExitCode).To(BeZero(), "%s %s", c.Message, e.log(c))
		return e.log(c)
	}

	It("owns its namespaces and its files, and sees them as root's", func() {
		sb := e.sandbox(userNamespace)
		id := e.start(sb, "app", "write /new x ; ids ; print ready ; forever")
		Eventually(func() string { return e.log(e.status(id)) }, "1m").Should(Equal("0 0\nready\n"))
		pid := e.status(id).PID
		for _, ns := range []string{"user", "net", "uts", "ipc", "pid", "mnt", "cgroup"} {
			Expect(nsOf(pid, ns)).NotTo(Equal(nsOf(os.Getpid(), ns)), ns)
		}
		root := fmt.Sprintf("/proc/%d/root", pid)
		for _, file := range []string{"/", "/new", "/prog", "/etc/hostname", "/etc/resolv.conf", "/proc/1", "/dev/shm", "/dev/pts", "/tmp"} {
			Expect(ownerOf(root+file)).To(Equal(fmt.Sprintf("%d:%[1]d", firstID)), file)
		}
		map0, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", pid))
		Expect(err).NotTo(HaveOccurred())
		Expect(strings.Fields(string(map0))).To(Equal([]string{"0", "300000", "65536"}))

		s, err := e.rt.SandboxStatus(e.ctx(), sb)
		Expect(err).NotTo(HaveOccurred())
		Expect(nsOf(s.PID, "net")).To(Equal(nsOf(pid, "net")), "the sandbox's process is in its network")
		Expect(says(sb, "name", "hostname")).To(Equal(s.Name + "\n"))
	})

	It("can what root of the namespace can, and no more", func() {
		sb := e.sandbox(userNamespace, func(s *runtimeiface.SandboxSpec) {
			s.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "80", "kernel.msgmax": "8191"}
		})
		Expect(says(sb, "sysctls", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start ; cat /proc/sys/kernel/msgmax")).To(Equal("80\n8191\n"))
		Expect(says(sb, "mqueue", "ls /dev/mqueue ; ls /sys/class/net")).To(Equal("eth0\nlo\n"))
		Expect(says(sb, "chown", "write /tmp/x y ; chown /tmp/x 1000 1000 ; cat /tmp/x")).To(Equal("y\n"))
		Expect(says(sb, "shm", "write /dev/shm/x y ; cat /dev/shm/x")).To(Equal("y\n"))
		Expect(says(sb, "shared", "cat /dev/shm/x")).To(Equal("y\n"))

		server := e.start(sb, "server", "serve :79")
		Eventually(func() string { return e.log(e.status(server)) }, "1m").Should(Equal("serving\n"))
		s, err := e.rt.SandboxStatus(e.ctx(), sb)
		Expect(err).NotTo(HaveOccurred())
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(s.IPs[0].String(), "79"), 5*time.Second)
		Expect(err).NotTo(HaveOccurred(), "the node reaches the pod")
		Expect(conn.Close()).To(Succeed())

		for i, step := range []string{"write /proc/sys/kernel/core_pattern x", "write /proc/sys/vm/swappiness 1", "chown /tmp 70000 0"} {
			c := e.exited(e.start(sb, fmt.Sprint("not", i), step, func(s *runtimeiface.ContainerSpec) {
				s.Security.ReadonlyPaths, s.Security.MaskedPaths = []string{}, []string{}
			}))
			Expect(c.ExitCode).To(BeEquivalentTo(1), step)
		}
	})

	It("shows volumes with their owners as seen from within", func() {
		volume := GinkgoT().TempDir()
		Expect(os.Chmod(volume, 0o700)).To(Succeed())
		Expect(os.WriteFile(filepath.Join(volume, "file"), []byte("x"), 0o600)).To(Succeed())
		Expect(os.Chown(filepath.Join(volume, "file"), 1000, 1001)).To(Succeed())
		bind := func(s *runtimeiface.ContainerSpec) {
			s.Mounts = []specs.Mount{
				{Type: "bind", Source: volume, Destination: "/vol", Options: []string{"rw"}},
				{Type: "bind", Source: filepath.Join(volume, "file"), Destination: "/one", Options: []string{"bind", "ro"}},
				{Type: "tmpfs", Destination: "/scratch"},
			}
		}
		sb := e.sandbox(userNamespace)
		id := e.start(sb, "app", "write /vol/new y ; chown /vol/new 7 8 ; cat /one ; write /scratch/x y ; print ; forever", bind)
		Eventually(func() string { return e.log(e.status(id)) }, "1m").Should(Equal("x\n"))
		root := fmt.Sprintf("/proc/%d/root", e.status(id).PID)
		Expect(ownerOf(root + "/vol/file")).To(Equal("301000:301001"))
		Expect(ownerOf(root + "/one")).To(Equal("301000:301001"))
		Expect(ownerOf(filepath.Join(volume, "new"))).To(Equal("7:8"), "on the node, as the pod means it")
		Expect(ownerOf(filepath.Join(volume, "file"))).To(Equal("1000:1001"), "nothing was chowned")
	})

	It("names the mount whose file system cannot, and leaves nothing", func() {
		sb := e.sandbox(userNamespace)
		_, err := e.rt.CreateContainer(e.ctx(), sb, runtimeiface.ContainerSpec{Name: "app", Image: e.image, Mounts: []specs.Mount{
			{Type: "bind", Source: e.logs, Destination: "/good"},
			{Type: "bind", Source: "/sys/kernel", Destination: "/bad"},
		}})
		Expect(err).To(MatchError(runtimeiface.ErrNotSupported))
		Expect(err).To(MatchError(ContainSubstring("Mounts[1]")))
		Expect(err).To(MatchError(ContainSubstring("/sys/kernel")))
		Expect(filepath.Glob(filepath.Join(e.cfg.Root, "images/containers/*"))).To(BeEmpty())
	})

	It("runs commands, shares a PID namespace and knows users of the image", func() {
		sb := e.sandbox(userNamespace, func(s *runtimeiface.SandboxSpec) { s.PID = runtimeiface.NamespacePod })
		uid := int64(1000)
		first := e.start(sb, "first", "forever", func(s *runtimeiface.ContainerSpec) { s.Security.RunAsUser = &uid })
		second := e.start(sb, "second", "forever", func(s *runtimeiface.ContainerSpec) {
			s.Security.AddCapabilities = []string{"SYS_PTRACE"}
		})
		Expect(nsOf(e.status(first).PID, "pid")).To(Equal(nsOf(e.status(second).PID, "pid")))
		var out strings.Builder
		code, err := e.rt.Exec(e.ctx(), first, runtimeiface.ExecSpec{Command: []string{"/prog", "ids", ";", "ps"}, Stdout: &out})
		Expect(err).NotTo(HaveOccurred())
		Expect(code).To(BeZero())
		Expect(out.String()).To(And(HavePrefix("1000 1000 1001\n"), ContainSubstring("1 nodekit-shim pause"), ContainSubstring("/prog forever")))

		// The process that holds the namespaces has nothing to be found.
		out.Reset()
		code, err = e.rt.Exec(e.ctx(), second, runtimeiface.ExecSpec{Command: []string{"/prog", "ls", "/proc/1/root/"}, Stdout: &out, Stderr: &out})
		Expect(err).NotTo(HaveOccurred())
		Expect(fmt.Sprint(code, out.String())).To(Equal("0"), "its root is there and empty")

		// Nor can it be ended from within.
		s, err := e.rt.SandboxStatus(e.ctx(), sb)
		Expect(err).NotTo(HaveOccurred())
		for _, signal := range []string{"HUP", "KILL", "TERM", "SEGV", "QUIT", "STOP"} {
			inside := exec.Command("nsenter", "--user", "--pid", "--target", fmt.Sprint(s.PID), "sh", "-c", "kill -"+signal+" 1")
			text, err := inside.CombinedOutput()
			Expect(err).NotTo(HaveOccurred(), string(text))
		}
		Expect(says(sb, "third", "ids")).To(Equal("0 0\n"))
		again, err := e.rt.SandboxStatus(e.ctx(), sb)
		Expect(err).NotTo(HaveOccurred())
		Expect(again).To(Equal(s))
	})

	It("refuses IDs that are not mapped, by field", func() {
		sb := e.sandbox(userNamespace)
		uid := int64(70000)
		_, err := e.rt.CreateContainer(e.ctx(), sb, runtimeiface.ContainerSpec{Name: "a", Image: e.image, Security: runtimeiface.Security{RunAsUser: &uid}})
		Expect(err).To(MatchError(runtimeiface.ErrInvalid))
		Expect(err).To(MatchError(ContainSubstring("RunAsUser")))
		_, err = e.rt.CreateContainer(e.ctx(), sb, runtimeiface.ContainerSpec{Name: "a", Image: e.image, Security: runtimeiface.Security{SupplementalGroups: []int64{70000}}})
		Expect(err).To(MatchError(runtimeiface.ErrInvalid))
		_, err = e.rt.CreateContainer(e.ctx(), sb, runtimeiface.ContainerSpec{Name: "a", Image: e.image, PID: runtimeiface.NamespaceHost})
		Expect(err).To(MatchError(runtimeiface.ErrInvalid))

		spec := e.sandboxSpec()
		spec.UserNamespace = &runtimeiface.UserNamespace{}
		for i := range uint32(300) { // more text than uid_map takes at once
			spec.UserNamespace.UIDs = append(spec.UserNamespace.UIDs, specs.LinuxIDMapping{ContainerID: 2 * i, HostID: 1000000 + 2*i, Size: 1})
		}
		spec.UserNamespace.GIDs = spec.UserNamespace.UIDs[:1]
		_, err = e.rt.RunSandbox(e.ctx(), spec)
		Expect(err).To(MatchError(runtimeiface.ErrInvalid))
		Expect(err).To(MatchError(ContainSubstring("UserNamespace.UIDs")))
		spec.UserNamespace.UIDs = spec.UserNamespace.UIDs[:200]
		many, err := e.rt.RunSandbox(e.ctx(), spec)
		Expect(err).NotTo(HaveOccurred())
		Expect(says(many, "app", "ids")).To(Equal("0 0\n"))
	})

	It("works with few IDs, of several ranges", func() {
		sb := e.sandbox(func(s *runtimeiface.SandboxSpec) {
			s.UserNamespace = &runtimeiface.UserNamespace{
				UIDs: []specs.LinuxIDMapping{{HostID: 400000, Size: 1}, {ContainerID: 1000, HostID: 500000, Size: 1}},
				GIDs: []specs.LinuxIDMapping{{HostID: 400001, Size: 1}, {ContainerID: 1000, HostID: 500001, Size: 2}},
			}
		})
		Expect(says(sb, "root", "write /x y ; ids")).To(Equal("0 0\n"))
		uid := int64(1000)
		Expect(says(sb, "user", "write /work/x y ; ids", func(s *runtimeiface.ContainerSpec) { s.Security.RunAsUser = &uid })).To(Equal("1000 1000 1001\n"))
	})

	It("lets privileged containers have all of the namespace and nothing of the node", func() {
		sb := e.sandbox(userNamespace, func(s *runtimeiface.SandboxSpec) { s.Privileged = true })
		id := e.start(sb, "app", "forever", func(s *runtimeiface.ContainerSpec) { s.Security.Privileged = true })
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", e.status(id).PID))
		Expect(err).NotTo(HaveOccurred())
		own, err := os.ReadFile("/proc/self/status")
		Expect(err).NotTo(HaveOccurred())
		capEff := func(text []byte) string {
			_, after, _ := strings.Cut(string(text), "CapEff:")
			return strings.Fields(after)[0]
		}
		Expect(capEff(data)).To(Equal(capEff(own)), "all capabilities")
		code, err := e.rt.Exec(e.ctx(), id, runtimeiface.ExecSpec{Command: []string{"/prog", "write", "/proc/sys/kernel/core_pattern", "x"}})
		Expect(err).NotTo(HaveOccurred())
		Expect(code).To(Equal(1))
		code, err = e.rt.Exec(e.ctx(), id, runtimeiface.ExecSpec{Command: []string{"/prog", "write", "/proc/sys/net/ipv4/ip_forward", "1"}})
		Expect(err).NotTo(HaveOccurred())
		Expect(code).To(Equal(0), "its own network's")
	})

	It("is taken up by the next agent, and ends whole", func() {
		sb := e.sandbox(userNamespace)
		id := e.start(sb, "app", "forever")
		s, err := e.rt.SandboxStatus(e.ctx(), sb)
		Expect(err).NotTo(HaveOccurred())
		e.reopen()
		again, err := e.rt.SandboxStatus(e.ctx(), sb)
		Expect(err).NotTo(HaveOccurred())
		Expect(again.PID).To(Equal(s.PID))
		Expect(e.status(id).State).To(Equal(runtimeiface.ContainerRunning))
		Expect(says(sb, "late", "ids")).To(Equal("0 0\n"))
		ns := nsOf(s.PID, "user")
		Expect(held(ns)).NotTo(BeEmpty())
		Expect(e.rt.StopSandbox(e.ctx(), sb)).To(Succeed())
		Expect(processGone(s.PID)).To(BeTrue(), "the namespaces go with the sandbox")
		Expect(held(ns)).To(BeEmpty(), "nobody keeps the namespace")
		Expect(e.rt.RemoveSandbox(e.ctx(), sb)).To(Succeed())
		Expect(e.leftovers()).To(Equal([]string{"interface nodekit0"}))
	})

	It("is over when its shim or the holder of its namespaces is killed, and leaves nothing", func() {
		for _, which := range []string{"holder", "shim"} {
			sb := e.sandbox(userNamespace)
			id := e.start(sb, "app", "forever")
			s, err := e.rt.SandboxStatus(e.ctx(), sb)
			Expect(err).NotTo(HaveOccurred())
			holder, container := s.PID, e.status(id).PID
			killed := holder
			if which == "shim" {
				killed = parentOf(holder)
			}
			Expect(unix.Kill(killed, unix.SIGKILL)).To(Succeed())
			Expect(e.exited(id).ExitCode).To(BeEquivalentTo(137), which)
			Eventually(func() runtimeiface.SandboxState {
				s, err = e.rt.SandboxStatus(e.ctx(), sb)
				return s.State
			}, "5s", "5ms").Should(Equal(runtimeiface.SandboxNotReady), which)
			for _, pid := range []int{holder, container} {
				Eventually(func() bool { return processGone(pid) }, "1m", "5ms").Should(BeTrue(), which)
			}
			Expect(e.rt.RemoveSandbox(e.ctx(), sb)).To(Succeed())
			Eventually(e.leftovers, "1m", "20ms").Should(Equal([]string{"interface nodekit0"}), which)
		}
	})

	It("leaves nothing when its agent is killed at any moment", func() {
		e.close()
		random := rand.New(rand.NewPCG(GinkgoRandomSeed64(), 3))
		for round := range 8 {
			a := e.agent(agentJob{Prefix: fmt.Sprint("round", round), Pods: 2, Steps: "forever", Forever: true, UserNamespace: true})
			_, ok := a.next("open")
			Expect(ok).To(BeTrue(), "the agent opens")
			time.Sleep(time.Duration(random.IntN(250_000)) * time.Microsecond)
			a.kill()
			e.open()
			Expect(e.rt.Purge(e.ctx())).To(Succeed())
			Eventually(e.leftovers, "1m", "20ms").Should(BeEmpty(), "round %d", round)
			Eventually(holders, "1m").Should(BeEmpty(), "round %d", round)
			e.close()
		}
		e.open()
	})

	It("is not made when that is not possible, and says why", func() {
		Expect(os.Chmod(filepath.Dir(e.cfg.Root), 0o700)).To(Succeed())
		DeferCleanup(func() { _ = os.Chmod(filepath.Dir(e.cfg.Root), 0o711) })
		spec := e.sandboxSpec()
		userNamespace(&spec)
		_, err := e.rt.RunSandbox(e.ctx(), spec)
		Expect(err).To(MatchError(runtimeiface.ErrNotSupported))
		Expect(err).To(MatchError(ContainSubstring(filepath.Dir(e.cfg.Root))))
		Expect(e.leftovers()).To(BeEmpty())
	})

	It("leaves nothing when its set-up fails or is given up", func() {
		spec := e.sandboxSpec()
		userNamespace(&spec)
		spec.Sysctls = map[string]string{"kernel.shm_no_such_parameter": "1"}
		_, err := e.rt.RunSandbox(e.ctx(), spec)
		Expect(err).To(MatchError(ContainSubstring("shm_no_such_parameter")))
		Eventually(e.leftovers, "1m").Should(BeEmpty())
		for i := range 10 {
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i)*5*time.Millisecond)
			spec := e.sandboxSpec()
			userNamespace(&spec)
			id, err := e.rt.RunSandbox(ctx, spec)
			cancel()
			if err == nil {
				Expect(e.rt.RemoveSandbox(e.ctx(), id)).To(Succeed())
			}
		}
		Eventually(e.leftovers, "1m").Should(Or(BeEmpty(), Equal([]string{"interface nodekit0"})))
		Eventually(holders, "1m").Should(BeEmpty())
	})
}

// held finds what keeps a namespace: processes in it, and descriptors.
func held(ns string) (who []string) {
	GinkgoHelper()
	for _, pattern := range []string{"/proc/[0-9]*/ns/*", "/proc/[0-9]*/task/[0-9]*/ns/user", "/proc/[0-9]*/fd/*"} {
		files, err := filepath.Glob(pattern)
		Expect(err).NotTo(HaveOccurred())
		for _, f := range files {
			if to, err := os.Readlink(f); err == nil && to == ns {
				who = append(who, f)
			}
		}
	}
	return who
}

// holders finds processes that hold namespaces of pods and have no parent.
func holders() (pids []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		data, _ := os.ReadFile(f)
		pid := filepath.Base(filepath.Dir(f))
		if strings.HasPrefix(string(data), "nodekit-shim\x00pause\x00") && parentOf(atoi(pid)) == 1 {
			pids = append(pids, pid)
		}
	}
	return pids
}

func atoi(s string) (n int) {
	_, _ = fmt.Sscan(s, &n)
	return n
}

func parentOf(pid int) int {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, after, _ := strings.Cut(string(data), "PPid:")
	return atoi(after)
}
