package oci_test

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface"
)

// withSystemd makes an env that is not open yet one of the systemd driver, and
// looks at its end for units that are left.
func withSystemd(e *env) {
	e.tb.Helper()
	kerneltest.Require(e.tb, kerneltest.Systemd)
	name := fmt.Sprintf("nodekit_test_%d_%d", os.Getpid(), pods.Add(1))
	e.cfg.CgroupDriver, e.cfg.CgroupRoot = "systemd", "/"+name+".slice"
	e.tb.Cleanup(func() {
		e.purge()
		e.rt = nil
		if left := units(name + "*"); len(left) > 0 {
			e.tb.Errorf("units left behind: %q", left)
		}
	})
}

// units lists what systemd has loaded, of any state.
func units(pattern string) []string {
	out, err := exec.Command("systemctl", "list-units", "--all", "--plain", "--no-legend", pattern).Output()
	Expect(err).NotTo(HaveOccurred())
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' })
}

func property(unit, name string) string {
	out, err := exec.Command("systemctl", "show", "--value", "--property="+name, unit).Output()
	Expect(err).NotTo(HaveOccurred())
	return strings.TrimSpace(string(out))
}

var _ = Describe("the systemd driver", func() {
	var e *env
	BeforeEach(func() {
		e = prepareEnv(GinkgoTB())
		withSystemd(e)
		e.open()
		e.image = e.pull(e.images.Prog)
	})

	It("has a slice for each pod and a scope for each container, as long as they last", func() {
		sb := e.sandbox()
		id := e.start(sb, "app", "forever")
		c, scope := e.status(id), "nodekit-"+id+".scope"
		s, err := e.rt.SandboxStatus(e.ctx(), sb)
		Expect(err).NotTo(HaveOccurred())
		slice := path.Base(s.CgroupParent)
		Expect(path.Dir(s.CgroupParent)).To(Equal(e.cfg.CgroupRoot))
		Expect(c.Cgroup).To(Equal(s.CgroupParent + "/" + scope))
		Expect(property(scope, "ControlGroup")).To(Equal(c.Cgroup))
		Expect(property(scope, "Slice")).To(Equal(slice))
		Expect(property(slice, "ActiveState")).To(Equal("active"))

		Expect(e.rt.StopContainer(e.ctx(), id, 0)).To(Succeed())
		Eventually(units, "1m").WithArguments("nodekit-" + id + "*").Should(BeEmpty())
		second := e.start(sb, "app", "forever", func(s *runtimeiface.ContainerSpec) { s.Attempt = 1 })
		Expect(e.rt.RemoveSandbox(e.ctx(), sb)).To(Succeed())
		Expect(units(slice)).To(BeEmpty())
		Eventually(units, "1m").WithArguments("nodekit-" + second + "*").Should(BeEmpty())
	})

	It("works with crun", func() {
		kerneltest.Require(GinkgoTB(), kerneltest.Crun)
		e.close()
		e.cfg.RuntimeHandlers = map[string]string{"small": "crun"}
		e.open()
		sb := e.sandbox(func(s *runtimeiface.SandboxSpec) { s.RuntimeHandler = "small" })
		id := e.start(sb, "app", "forever")
		c, scope := e.status(id), "nodekit-"+id+".scope"
		Expect(property(scope, "ControlGroup")).To(Equal(c.Cgroup))
		Expect(os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.PID))).To(ContainSubstring(":" + c.Cgroup + "\n"))
		code, err := e.rt.Exec(e.ctx(), id, runtimeiface.ExecSpec{Command: []string{"/prog", "exit", "3"}})
		Expect(err).NotTo(HaveOccurred())
		Expect(code).To(Equal(3))
		Expect(e.rt.StopContainer(e.ctx(), id, 0)).To(Succeed())
		Eventually(units, "1m").WithArguments("nodekit-" + id + "*").Should(BeEmpty())
		e.start(sb, "app", "forever", func(s *runtimeiface.ContainerSpec) { s.Attempt = 1 })
		Expect(e.rt.RemoveSandbox(e.ctx(), sb)).To(Succeed())
	})

	It("takes a slice of the caller's and leaves it", func() {
		name := strings.TrimSuffix(strings.TrimPrefix(e.cfg.CgroupRoot, "/"), ".slice")
		slice := name + "-burstable-pod1.slice"
		parent := strings.Join([]string{e.cfg.CgroupRoot, name + "-burstable.slice", slice}, "/")
		sb := e.sandbox(func(s *runtimeiface.SandboxSpec) { s.CgroupParent = parent })
		id := e.start(sb, "app", "forever")
		Expect(e.status(id).Cgroup).To(Equal(parent + "/nodekit-" + id + ".scope"))
		Expect(e.rt.RemoveSandbox(e.ctx(), sb)).To(Succeed())
		Expect(property(slice, "ActiveState")).To(Equal("active"))
		Expect(exec.Command("systemctl", "stop", slice, name+"-burstable.slice").Run()).To(Succeed())
	})

	It("ends what a killed shim leaves", func() {
		sb := e.sandbox()
		id := e.start(sb, "app", "forever")
		c := e.status(id)
		s, err := e.rt.SandboxStatus(e.ctx(), sb)
		Expect(err).NotTo(HaveOccurred())
		Expect(unix.Kill(s.PID, unix.SIGKILL)).To(Succeed())
		Expect(e.exited(id).Reason).To(Equal(runtimeiface.ReasonUnknown))
		Eventually(processGone, "1m").WithArguments(c.PID).Should(BeTrue())
		Eventually(units, "1m").WithArguments("nodekit-" + id + "*").Should(BeEmpty())
		Expect(e.rt.RemoveSandbox(e.ctx(), sb)).To(Succeed())
		Expect(units(path.Base(s.CgroupParent))).To(BeEmpty())
	})

	It("stays with its pods when the driver changes", func() {
		sb := e.sandbox()
		id := e.start(sb, "app", "forever")
		slice, root := e.status(id).Cgroup, e.cfg.CgroupRoot
		e.close()
		e.cfg.CgroupDriver, e.cfg.CgroupRoot = "", strings.TrimSuffix(root, ".slice")
		e.open()
		Expect(e.status(id).Cgroup).To(Equal(slice))
		later := e.start(sb, "later", "forever")
		Expect(property("nodekit-"+later+".scope", "ControlGroup")).To(Equal(e.status(later).Cgroup))
		Expect(e.rt.RemoveSandbox(e.ctx(), sb)).To(Succeed())
		Expect(e.rt.Purge(e.ctx())).To(Succeed())
		Expect(units("nodekit-" + id + "*")).To(BeEmpty())
		e.close()
		e.cfg.CgroupDriver, e.cfg.CgroupRoot = "systemd", root
		e.open()
	})

	It("tells each kill for want of memory, though the scope goes with its last process", func() {
		sb := e.sandbox()
		limit := int64(32 << 20)
		for i := range 10 {
			id := e.start(sb, "app", "hold 100000000", func(s *runtimeiface.ContainerSpec) {
				s.Attempt = uint32(i)
				s.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
			})
			Expect(e.exited(id).Reason).To(Equal(runtimeiface.ReasonOOMKilled))
			Eventually(units, "1m").WithArguments("nodekit-" + id + "*").Should(BeEmpty())
		}
		id := e.start(sb, "killed", "kill 9")
		Expect(e.exited(id).Reason).To(Equal(runtimeiface.ReasonError))
	})
})

var _ = Describe("cgroup v2", func() {
	for name, change := range map[string]func(*env){"cgroupfs": func(*env) {}, "systemd": withSystemd} {
		It("kills a container whole for want of memory, if asked to, with "+name, func() {
			kerneltest.Require(GinkgoTB(), kerneltest.Unified)
			e := prepareEnv(GinkgoTB())
			change(e)
			e.open()
			e.image = e.pull(e.images.Prog)
			sb := e.sandbox()
			limit := int64(32 << 20)
			start := func(group string) string {
				return e.start(sb, "group-"+group, "forever", func(s *runtimeiface.ContainerSpec) {
					s.Resources = &specs.LinuxResources{
						Memory: &specs.LinuxMemory{Limit: &limit}, Unified: map[string]string{"memory.oom.group": group},
					}
				})
			}
			// A command is in a cgroup of its own below the container's, whose
			// limits count for it.
			hold := runtimeiface.ExecSpec{Command: []string{"/prog", "hold", "100000000"}}
			one := start("0")
			code, err := e.rt.Exec(e.ctx(), one, hold)
			Expect(err).NotTo(HaveOccurred())
			Expect(code).To(Equal(137))
			Expect(e.status(one).State).To(Equal(runtimeiface.ContainerRunning))
			whole := start("1")
			_, _ = e.rt.Exec(e.ctx(), whole, hold)
			Expect(e.exited(whole).Reason).To(Equal(runtimeiface.ReasonOOMKilled))
		})
	}
})
