package oci_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface"
)

var _ = Describe("shims started ahead", func() {
	var e *env
	// shims are those of this Root, by process number.
	shims := func() (pids []int) {
		lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, file := range lines {
			line, _ := os.ReadFile(file)
			if strings.HasPrefix(string(line), "nodekit-shim\x00"+e.cfg.Root) {
				pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
				Expect(err).NotTo(HaveOccurred())
				pids = append(pids, pid)
			}
		}
		return pids
	}
	pidOf := func(sandbox string) int {
		s, err := e.rt.SandboxStatus(e.ctx(), sandbox)
		Expect(err).NotTo(HaveOccurred())
		return s.PID
	}
	BeforeEach(func() {
		e = prepareEnv(GinkgoTB())
		e.cfg.WarmShims = 2
		e.open()
		e.image = e.pull(e.images.Prog)
		Eventually(shims, "1m", "10ms").Should(HaveLen(2))
	})

	It("serve the next sandboxes, and others take their places", func() {
		warm := shims()
		a, b := e.sandbox(), e.sandbox()
		Expect([]int{pidOf(a), pidOf(b)}).To(ConsistOf(warm))
		Expect(e.exited(e.start(a, "app", "exit 3")).ExitCode).To(BeEquivalentTo(3))
		Eventually(shims, "1m", "10ms").Should(HaveLen(4))
		Expect(e.rt.RemoveSandbox(e.ctx(), a)).To(Succeed())
		Expect(e.rt.RemoveSandbox(e.ctx(), b)).To(Succeed())
		Expect(shims()).To(HaveLen(2))
	})

	It("do not serve a sandbox that wants the node's namespaces", func() {
		warm := shims()
		Expect(warm).NotTo(ContainElement(pidOf(e.sandbox(func(s *runtimeiface.SandboxSpec) { s.Network = runtimeiface.NamespaceHost }))))
		Expect(shims()).To(ContainElements(warm))
	})

	It("are replaced when they die, and nobody hears of it", func() {
		warm := shims()
		for _, pid := range warm { // not waited for: they may still be dying
			Expect(unix.Kill(pid, unix.SIGKILL)).To(Succeed())
		}
		Expect(e.exited(e.start(e.sandbox(), "app", "exit 4")).ExitCode).To(BeEquivalentTo(4))
		Eventually(shims, "1m", "10ms").Should(HaveLen(3))
	})

	It("stay for the next when a sandbox cannot be made", func() {
		warm := shims()
		hold := e.sandbox(hostPort(30080))
		_, err := e.rt.RunSandbox(e.ctx(), func() runtimeiface.SandboxSpec { s := e.sandboxSpec(); hostPort(30080)(&s); return s }())
		Expect(err).To(MatchError(runtimeiface.ErrInUse))
		Expect(warm).To(ContainElements(pidOf(hold), pidOf(e.sandbox())))
	})

	It("end with Close, with all their files", func() {
		e.close()
		Expect(shims()).To(BeEmpty())
		Expect(e.leftovers()).To(BeEmpty())
		e.open()
	})

	It("end with an agent that is killed, and leave nothing to the next", func() {
		e.close()
		a := e.agent(agentJob{Prefix: "killed", Pods: 1, Steps: "forever"})
		_, ok := a.next("done")
		Expect(ok).To(BeTrue(), "the agent starts a pod")
		Eventually(shims, "1m", "10ms").Should(HaveLen(3))
		a.kill()
		Eventually(shims, "1m", "10ms").Should(HaveLen(1))
		e.cfg.WarmShims = 0
		e.open()
		Expect(filepath.Glob(filepath.Join(e.cfg.Root, "sandboxes", "*"))).To(HaveLen(1))
	})
})
