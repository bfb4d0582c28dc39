package cgroup_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/cgroups/v3"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/podlifecycle/cgroup"
)

var _ = Describe("cgroups of this kernel", func() {
	var m *cgroup.Manager
	var root string

	BeforeEach(func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root, kerneltest.Cgroup)
		m = cgroup.New()
		root = fmt.Sprintf("/nodekit-cgrouptest-%d-%d", os.Getpid(), time.Now().UnixNano())
		DeferCleanup(func() { Expect(m.Remove(context.Background(), root)).To(Succeed()) })
	})
	v1 := func() bool { return cgroups.Mode() != cgroups.Unified }
	file := func(controller, path, name string) string {
		if !v1() {
			controller = ""
		}
		return filepath.Join("/sys/fs/cgroup", controller, path, name)
	}
	read := func(controller, path, v1Name, v2Name string) string {
		GinkgoHelper()
		name := v1Name
		if !v1() {
			name = v2Name
		}
		data, err := os.ReadFile(file(controller, path, name))
		Expect(err).NotTo(HaveOccurred())
		return strings.TrimSpace(string(data))
	}
	limits := func(memory int64, quota int64) *specs.LinuxResources {
		shares, period, pids := uint64(512), uint64(100000), int64(77)
		return &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares, Quota: &quota, Period: &period},
			Memory: &specs.LinuxMemory{Limit: &memory}, Pids: &specs.LinuxPids{Limit: &pids}}
	}
	// run starts a shell in the cgroup that makes children and ignores signals.
	run := func(path string) *exec.Cmd {
		GinkgoHelper()
		controller := "pids"
		procs := file(controller, path, "cgroup.procs")
		var others []string
		if v1() {
			for _, c := range []string{"memory", "freezer", "cpu"} {
				others = append(others, file(c, path, "cgroup.procs"))
			}
		}
		script := "for f in " + strings.Join(append(others, procs), " ") + "; do echo $$ > $f; done; trap '' TERM INT; sleep 1000 & sleep 1000 & wait; sleep 1000"
		cmd := exec.Command("sh", "-c", script)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		Expect(cmd.Start()).To(Succeed())
		DeferCleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		Eventually(func() int {
			data, _ := os.ReadFile(procs)
			return len(strings.Fields(string(data)))
		}).Should(BeNumerically(">=", 3))
		return cmd
	}

	It("makes what is missing, with limits, and changes them", func(ctx context.Context) {
		path := root + "/burstable/podu1"
		Expect(m.Ensure(ctx, path, limits(64<<20, 50000))).To(Succeed())
		Expect(read("memory", path, "memory.limit_in_bytes", "memory.max")).To(Equal(strconv.Itoa(64 << 20)))
		Expect(read("pids", path, "pids.max", "pids.max")).To(Equal("77"))
		if v1() {
			Expect(read("cpu", path, "cpu.shares", "")).To(Equal("512"))
			Expect(read("cpu", path, "cpu.cfs_quota_us", "")).To(Equal("50000"))
			Expect(file("cpuacct", path, "cgroup.procs")).To(BeAnExistingFile())
		} else {
			Expect(read("", path, "", "cpu.max")).To(Equal("50000 100000"))
		}
		for _, memory := range []int64{128 << 20, 32 << 20, 32 << 20} {
			Expect(m.Ensure(ctx, path, limits(memory, 70000))).To(Succeed())
			Expect(read("memory", path, "memory.limit_in_bytes", "memory.max")).To(Equal(strconv.FormatInt(memory, 10)))
		}
		Expect(m.Ensure(ctx, path, nil)).To(Succeed())
		Expect(read("pids", path, "pids.max", "pids.max")).To(Equal("77"), "left as it is")
		Expect(m.List(root)).To(Equal([]string{root + "/burstable"}))
		Expect(m.List(root + "/burstable")).To(Equal([]string{path}))
		Expect(m.List(root + "/none")).To(BeEmpty())
	})

	It("makes what one hierarchy lacks", func(ctx context.Context) {
		path := root + "/podu1"
		Expect(m.Ensure(ctx, path, limits(64<<20, 50000))).To(Succeed())
		Expect(syscall.Rmdir(file("memory", path, ""))).To(Succeed())
		Expect(m.Ensure(ctx, path, limits(64<<20, 50000))).To(Succeed())
		Expect(read("memory", path, "memory.limit_in_bytes", "memory.max")).To(Equal(strconv.Itoa(64 << 20)))
	})

	It("removes a tree with all that runs in it", func(ctx context.Context) {
		for _, path := range []string{root + "/podu1/c1", root + "/podu1/c2/deep"} {
			Expect(m.Ensure(ctx, path, nil)).To(Succeed())
		}
		one, two := run(root+"/podu1/c1"), run(root+"/podu1/c2/deep")
		Expect(m.Remove(ctx, root+"/podu1")).To(Succeed())
		for _, cmd := range []*exec.Cmd{one, two} {
			Expect(cmd.Wait()).To(MatchError("signal: killed"))
		}
		Expect(m.List(root)).To(BeEmpty())
		Expect(file("memory", root+"/podu1", "")).NotTo(BeADirectory())
		Expect(m.Remove(ctx, root+"/podu1")).To(Succeed(), "again")
	}, NodeTimeout(5*time.Minute))

	It("removes what is only in some hierarchies, the unified one of a hybrid included", func(ctx context.Context) {
		Expect(m.Ensure(ctx, root+"/podu1", nil)).To(Succeed())
		made := file("pids", root+"/podu1/only-pids", "")
		Expect(os.Mkdir(made, 0o755)).To(Succeed())
		if cgroups.Mode() == cgroups.Hybrid {
			unified := filepath.Join("/sys/fs/cgroup/unified", root, "podu1")
			Expect(os.MkdirAll(unified, 0o755)).To(Succeed())
			cmd := exec.Command("sh", "-c", "echo $$ > "+unified+"/cgroup.procs; exec sleep 1000")
			Expect(cmd.Start()).To(Succeed())
			DeferCleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
			Eventually(func() string {
				data, _ := os.ReadFile(unified + "/cgroup.procs")
				return string(data)
			}).ShouldNot(BeEmpty())
			made = unified
		}
		Expect(m.Remove(ctx, root+"/podu1")).To(Succeed())
		Expect(made).NotTo(BeADirectory())
		Expect(m.List(root)).To(BeEmpty())
	})

	It("does not kill itself", func(ctx context.Context) {
		Expect(m.Ensure(ctx, root+"/own", nil)).To(Succeed())
		before, err := os.ReadFile("/proc/self/cgroup")
		Expect(err).NotTo(HaveOccurred())
		home := ""
		for line := range strings.Lines(string(before)) {
			if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); parts[1] == "pids" || parts[1] == "" && !v1() {
				home = parts[2]
			}
		}
		pid := []byte(strconv.Itoa(os.Getpid()))
		Expect(os.WriteFile(file("pids", root+"/own", "cgroup.procs"), pid, 0o600)).To(Succeed())
		err = m.Remove(ctx, root)
		Expect(os.WriteFile(file("pids", home, "cgroup.procs"), pid, 0o600)).To(Succeed())
		Expect(err).To(MatchError(cgroup.ErrOwn))
		Expect(m.Remove(ctx, root)).To(Succeed())
	})

	It("ends with its context", func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		Expect(m.Ensure(ctx, root+"/x", nil)).To(MatchError(context.Canceled))
		Expect(m.List(root)).To(BeEmpty())
	})
})
