package oci_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface"
)

var _ = Describe("containers that run together", func() {
	var e *env
	BeforeEach(func() { e = newEnv(GinkgoTB()) })

	spec := func(name, steps string) runtimeiface.ContainerSpec {
		return runtimeiface.ContainerSpec{Name: name, Image: e.image, Args: strings.Fields(steps), LogPath: name + "/0.log"}
	}

	It("are there after a restart, all of them", func() {
		sb := e.sandbox()
		ids, err := e.rt.RunContainers(e.ctx(), sb, []runtimeiface.ContainerSpec{spec("a", "forever"), spec("b", "exit 3"), spec("c", "forever")})
		Expect(err).NotTo(HaveOccurred())
		e.exited(ids[1])
		e.reopen()
		for i, state := range []runtimeiface.ContainerState{runtimeiface.ContainerRunning, runtimeiface.ContainerExited, runtimeiface.ContainerRunning} {
			Expect(e.status(ids[i]).State).To(Equal(state))
		}
		again, err := e.rt.RunContainers(e.ctx(), sb, []runtimeiface.ContainerSpec{spec("c", "forever"), spec("a", "forever")})
		Expect(err).NotTo(HaveOccurred())
		Expect(again).To(Equal([]string{ids[2], ids[0]}))
	})

	It("count for nothing when a kill came before their mark", func() {
		sb := e.sandbox()
		kept := e.start(sb, "kept", "forever")
		ids, err := e.rt.RunContainers(e.ctx(), sb, []runtimeiface.ContainerSpec{spec("a", "forever"), spec("b", "forever")})
		Expect(err).NotTo(HaveOccurred())
		pid := e.status(ids[0]).PID
		e.close()
		marks, err := filepath.Glob(filepath.Join(e.cfg.Root, "sandboxes", sb, "groups", "*"))
		Expect(err).NotTo(HaveOccurred())
		Expect(marks).To(HaveLen(1))
		Expect(os.Remove(marks[0])).To(Succeed())
		e.open()
		list, err := e.rt.ListContainers(e.ctx(), runtimeiface.ContainerFilter{SandboxID: sb})
		Expect(err).NotTo(HaveOccurred())
		Expect(list).To(HaveLen(1))
		Expect(list[0].ID).To(Equal(kept))
		Eventually(func() bool { return processGone(pid) }, "1m", "5ms").Should(BeTrue())
	})

	It("tell all bad fields of all of them", func() {
		bad := spec("bad", "forever")
		bad.LogPath = "../x"
		twice := spec("twice", "forever")
		_, err := e.rt.RunContainers(e.ctx(), e.sandbox(), []runtimeiface.ContainerSpec{bad, twice, twice})
		Expect(err).To(MatchError(runtimeiface.ErrInvalid))
		Expect(err).To(MatchError(And(ContainSubstring("container bad"), ContainSubstring("LogPath"), ContainSubstring("specs[2].Name"))))
	})

	It("have no event before that of their creation", func() {
		events, err := e.rt.Subscribe(e.ctx())
		Expect(err).NotTo(HaveOccurred())
		ids, err := e.rt.RunContainers(e.ctx(), e.sandbox(), []runtimeiface.ContainerSpec{spec("a", "exit 0"), spec("b", "exit 0")})
		Expect(err).NotTo(HaveOccurred())
		got := map[string][]runtimeiface.EventType{}
		for len(got[ids[0]]) < 3 || len(got[ids[1]]) < 3 {
			var ev runtimeiface.Event
			Eventually(events, "1m").Should(Receive(&ev))
			got[ev.ContainerID] = append(got[ev.ContainerID], ev.Type)
		}
		for _, id := range ids {
			Expect(got[id]).To(Equal([]runtimeiface.EventType{
				runtimeiface.ContainerMade, runtimeiface.ContainerStarted, runtimeiface.ContainerStopped,
			}))
		}
	})
})

var _ = Describe("limits of a container", func() {
	It("are kept over a restart, and those refused leave the others", func() {
		e := newEnv(GinkgoTB())
		memory, quota, period := int64(64<<20), int64(50_000), uint64(100_000)
		id := e.start(e.sandbox(), "app", "hold 20000000 ; forever", func(s *runtimeiface.ContainerSpec) {
			s.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}}
		})
		limit := func() string {
			for _, path := range []string{"/sys/fs/cgroup/memory" + e.status(id).Cgroup + "/memory.limit_in_bytes", "/sys/fs/cgroup" + e.status(id).Cgroup + "/memory.max"} {
				if data, err := os.ReadFile(path); err == nil {
					return strings.TrimSpace(string(data))
				}
			}
			return ""
		}
		Expect(e.rt.UpdateContainer(e.ctx(), id, specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}})).To(Succeed())
		Expect(limit()).To(Equal("67108864"))
		e.reopen()
		half := int64(25_000)
		Expect(e.rt.UpdateContainer(e.ctx(), id, specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &half}})).To(Succeed())
		Expect(limit()).To(Equal("67108864"))
		little := int64(8 << 20)
		Eventually(func() error {
			return e.rt.UpdateContainer(e.ctx(), id, specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &little}})
		}, "5s", "50ms").Should(HaveOccurred(), "less than is in use")
		Expect(limit()).To(Equal("67108864"))
		Expect(e.status(id).State).To(Equal(runtimeiface.ContainerRunning))
	})
})

var _ = Describe("a mount that is read-only to its last mount", func() {
	It("is given where the OCI runtime can, and refused where it cannot", func() {
		e := prepareEnv(GinkgoTB())
		script := filepath.Join(GinkgoT().TempDir(), "old")
		Expect(os.WriteFile(script, []byte("#!/bin/sh\n[ \"$1\" = features ] && exit 1\nexec runc \"$@\"\n"), 0o700)).To(Succeed())
		e.cfg.RuntimeHandlers = map[string]string{"old": script}
		e.open()
		e.image = e.pull(e.images.Prog)
		dir := GinkgoT().TempDir()
		below := filepath.Join(dir, "below")
		Expect(os.Mkdir(below, 0o777)).To(Succeed())
		Expect(unix.Mount("tmpfs", below, "tmpfs", 0, "")).To(Succeed())
		DeferCleanup(func() error { return syscall.Unmount(below, unix.MNT_DETACH) })
		with := func(options ...string) func(*runtimeiface.ContainerSpec) {
			return func(s *runtimeiface.ContainerSpec) {
				s.Mounts = []specs.Mount{{Destination: "/mnt", Type: "bind", Source: dir, Options: options}}
			}
		}
		sb := e.sandbox()
		Expect(e.exited(e.start(sb, "ro", "write /mnt/below/x y", with("rbind", "ro"))).ExitCode).To(BeEquivalentTo(0), "ro is for the top")
		Expect(e.exited(e.start(sb, "rro", "write /mnt/below/x y", with("rbind", "rro"))).ExitCode).To(BeEquivalentTo(1))
		spec := runtimeiface.ContainerSpec{Name: "app", Image: e.image}
		with("rbind", "rro")(&spec)
		_, err := e.rt.CreateContainer(e.ctx(), e.sandbox(func(s *runtimeiface.SandboxSpec) { s.RuntimeHandler = "old" }), spec)
		Expect(err).To(MatchError(runtimeiface.ErrNotSupported))
		Expect(err).To(MatchError(ContainSubstring("Mounts[0].Options")))
	})
})
