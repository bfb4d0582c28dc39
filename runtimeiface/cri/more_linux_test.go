package cri_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface"
)

// limit reads a file of a container's cgroup, of v1 or v2.
func limit(c runtimeiface.Container, controller, v1, v2 string) string {
	for _, path := range []string{
		filepath.Join("/sys/fs/cgroup", controller, c.Cgroup, v1), filepath.Join("/sys/fs/cgroup", c.Cgroup, v2),
	} {
		if data, err := os.ReadFile(path); err == nil {
			return strings.TrimSpace(string(data))
		}
	}
	return "no such file"
}

var _ = Describe("more of containerd", Ordered, ContinueOnFailure, func() {
	var n *node
	var image string
	BeforeAll(func(ctx SpecContext) {
		n = newNode(GinkgoTB())
		img, err := n.rt.PullImage(ctx, runtimeiface.ImageSpec{Ref: n.images.Prog}, nil)
		Expect(err).NotTo(HaveOccurred())
		image = img.ID
	})
	status := func(ctx context.Context, id string) runtimeiface.Container {
		GinkgoHelper()
		c, err := n.rt.ContainerStatus(ctx, id)
		Expect(err).NotTo(HaveOccurred())
		return c
	}
	said := func(ctx context.Context, id string) func() string {
		return func() string { return n.text(ctx, id) }
	}

	Describe("RunContainers", func() {
		spec := func(name, args string) runtimeiface.ContainerSpec {
			return runtimeiface.ContainerSpec{Name: name, Image: image, Args: strings.Fields(args), LogPath: name + ".log"}
		}
		all := func(ctx context.Context, sandbox string) []runtimeiface.Container {
			GinkgoHelper()
			list, err := n.rt.ListContainers(ctx, runtimeiface.ContainerFilter{SandboxID: sandbox})
			Expect(err).NotTo(HaveOccurred())
			return list
		}

		It("runs all, in the order asked for, and the same ones again", func(ctx SpecContext) {
			sb := n.pod(ctx)
			specs := []runtimeiface.ContainerSpec{spec("a", "forever"), spec("b", "forever"), spec("c", "forever")}
			ids, err := n.rt.RunContainers(ctx, sb, specs)
			Expect(err).NotTo(HaveOccurred())
			Expect(ids).To(HaveLen(3))
			for i, id := range ids {
				Expect(status(ctx, id)).To(And(HaveField("Name", specs[i].Name), HaveField("State", runtimeiface.ContainerRunning)))
			}
			Expect(n.rt.RunContainers(ctx, sb, specs)).To(Equal(ids))
		}, NodeTimeout(5*time.Minute))

		It("leaves none that it made if one cannot be created, and those that were there", func(ctx SpecContext) {
			sb := n.pod(ctx)
			before := n.prog(ctx, sb, "before", "forever")
			bad := spec("bad", "forever")
			bad.Image = "sha256:" + strings.Repeat("0", 64)
			ids, err := n.rt.RunContainers(ctx, sb, []runtimeiface.ContainerSpec{spec("a", "forever"), bad, spec("before", "forever")})
			Expect(err).To(MatchError(runtimeiface.ErrNotFound))
			Expect(err).To(MatchError(ContainSubstring("container bad")))
			Expect(ids).To(BeNil())
			Expect(all(ctx, sb)).To(HaveExactElements(And(HaveField("ID", before), HaveField("State", runtimeiface.ContainerRunning))))
		}, NodeTimeout(5*time.Minute))

		It("leaves all of them exited if one cannot be started, and those that ran running", func(ctx SpecContext) {
			sb := n.pod(ctx)
			before := n.prog(ctx, sb, "before", "forever")
			bad := spec("bad", "")
			bad.Command = []string{"/none"}
			_, err := n.rt.RunContainers(ctx, sb, []runtimeiface.ContainerSpec{spec("a", "forever"), bad, spec("before", "forever")})
			Expect(err).To(MatchError(ContainSubstring("container bad")))
			for _, c := range all(ctx, sb) {
				want := runtimeiface.ContainerExited
				if c.ID == before {
					want = runtimeiface.ContainerRunning
				}
				Expect(c.State).To(Equal(want), c.Name)
				if c.Name == "bad" {
					Expect(c.Reason).To(Equal(runtimeiface.ReasonStartError))
				}
			}
		}, NodeTimeout(5*time.Minute))
	})

	It("sets limits anew, and leaves those that are not told", func(ctx SpecContext) {
		weight, quota, period, memory := uint64(512), int64(50000), uint64(100000), int64(64<<20)
		id := n.prog(ctx, n.pod(ctx), "app", "forever", func(s *runtimeiface.ContainerSpec) {
			s.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &weight, Quota: &quota, Period: &period}, Memory: &specs.LinuxMemory{Limit: &memory}}
		})
		c := status(ctx, id)
		memory, quota = 80<<20, 60000
		Expect(n.rt.UpdateContainer(ctx, id, specs.LinuxResources{
			CPU: &specs.LinuxCPU{Quota: &quota}, Memory: &specs.LinuxMemory{Limit: &memory},
		})).To(Succeed())
		Expect(limit(c, "memory", "memory.limit_in_bytes", "memory.max")).To(Equal("83886080"))
		Expect(limit(c, "cpu", "cpu.cfs_quota_us", "cpu.max")).To(HavePrefix("60000"))
		Expect(limit(c, "cpu", "cpu.shares", "cpu.weight")).To(BeElementOf("512", "59", "20"))

		pids := int64(10)
		err := n.rt.UpdateContainer(ctx, id, specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &pids}})
		Expect(err).To(And(MatchError(runtimeiface.ErrNotSupported), MatchError(ContainSubstring("Pids"))))
		err = n.rt.UpdateContainer(ctx, id, specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true}}})
		Expect(err).To(MatchError(runtimeiface.ErrInvalid))
		Expect(n.rt.UpdateContainer(ctx, "none", specs.LinuxResources{})).To(MatchError(runtimeiface.ErrNotFound))
		Expect(n.rt.StopContainer(ctx, id, 0)).To(Succeed())
		Expect(n.rt.UpdateContainer(ctx, id, specs.LinuxResources{})).To(MatchError(runtimeiface.ErrNotRunning))
	}, NodeTimeout(5*time.Minute))

	It("gives a pod a user namespace, whose files keep their owners", func(ctx SpecContext) {
		dir := GinkgoT().TempDir()
		Expect(os.Chown(dir, 1000, 1000)).To(Succeed())
		ranges := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1 << 20, Size: 65536}}
		pod := n.pod(ctx, func(s *runtimeiface.SandboxSpec) {
			s.UserNamespace = &runtimeiface.UserNamespace{UIDs: ranges, GIDs: ranges}
		})
		user := int64(1000)
		id := n.prog(ctx, pod, "app", "cat /proc/self/uid_map ; write /data/file x ; print written ; forever", func(s *runtimeiface.ContainerSpec) {
			s.Mounts = []specs.Mount{{Type: "bind", Source: dir, Destination: "/data", Options: []string{"rbind"}}}
			s.Security.RunAsUser = &user
		})
		Eventually(said(ctx, id), "1m", "20ms").Should(And(MatchRegexp(`0\s+1048576\s+65536`), ContainSubstring("written")))
		var st unix.Stat_t
		Expect(unix.Stat(filepath.Join(dir, "file"), &st)).To(Succeed())
		Expect(st.Uid).To(BeEquivalentTo(1000))

		two := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1 << 20, Size: 100}, {ContainerID: 100, HostID: 1 << 21, Size: 100}}
		_, err := n.rt.RunSandbox(ctx, runtimeiface.SandboxSpec{
			Name: "two", Namespace: "test", UID: "two", UserNamespace: &runtimeiface.UserNamespace{UIDs: two, GIDs: ranges},
		})
		Expect(err).To(And(MatchError(runtimeiface.ErrNotSupported), MatchError(ContainSubstring("UserNamespace.UIDs"))))
	}, NodeTimeout(5*time.Minute))

	It("mounts an image, or a directory of it, and keeps it from being removed", func(ctx SpecContext) {
		spare, err := n.rt.PullImage(ctx, runtimeiface.ImageSpec{Ref: n.images.Spare}, nil)
		Expect(err).NotTo(HaveOccurred())
		sb := n.pod(ctx)
		id := n.prog(ctx, sb, "app", "ls /all ; print -- ; ls /part ; write /all/x y", func(s *runtimeiface.ContainerSpec) {
			s.Mounts = []specs.Mount{
				{Type: "image", Source: spare.ID, Destination: "/all"},
				{Type: "image", Source: spare.ID, Destination: "/part", Options: []string{"ro", "subpath=etc"}},
			}
		})
		Eventually(said(ctx, id), "1m", "20ms").Should(And(ContainSubstring("F etc"), ContainSubstring("passwd"), ContainSubstring("read-only")))
		Expect(n.rt.RemoveImage(ctx, spare.ID)).To(MatchError(runtimeiface.ErrInUse))

		bad := runtimeiface.ContainerSpec{Name: "bad", Image: image, Mounts: []specs.Mount{
			{Type: "image", Source: spare.ID, Destination: "/x", Options: []string{"subpath=none"}},
		}}
		_, err = n.rt.CreateContainer(ctx, sb, bad)
		Expect(err).To(And(MatchError(runtimeiface.ErrInvalid), MatchError(ContainSubstring("Mounts[0].Options"))))
		bad.Mounts[0].Source = "sha256:" + strings.Repeat("0", 64)
		_, err = n.rt.CreateContainer(ctx, sb, bad)
		Expect(err).To(And(MatchError(runtimeiface.ErrNotFound), MatchError(ContainSubstring("Mounts[0].Source"))))

		several := []runtimeiface.ContainerSpec{}
		for _, name := range []string{"a", "b", "c", "d"} {
			several = append(several, runtimeiface.ContainerSpec{
				Name: name, Image: image, Args: []string{"forever"}, Mounts: []specs.Mount{{Type: "image", Source: spare.ID, Destination: "/all"}},
			})
		}
		sb = n.pod(ctx)
		_, err = n.rt.RunContainers(ctx, sb, several)
		Expect(err).NotTo(HaveOccurred())
		Expect(n.rt.RemoveSandbox(ctx, sb)).To(Succeed())
	}, NodeTimeout(5*time.Minute))

	It("makes mounts below read-only too", func(ctx SpecContext) {
		dir := GinkgoT().TempDir()
		below := filepath.Join(dir, "below")
		Expect(os.Mkdir(below, 0o755)).To(Succeed())
		Expect(unix.Mount("tmpfs", below, "tmpfs", 0, "")).To(Succeed())
		DeferCleanup(func() { _ = unix.Unmount(below, unix.MNT_DETACH) })
		id := n.prog(ctx, n.pod(ctx), "app", "write /data/below/x y", func(s *runtimeiface.ContainerSpec) {
			s.Mounts = []specs.Mount{{Type: "bind", Source: dir, Destination: "/data", Options: []string{"rbind", "rro"}}}
		})
		Eventually(said(ctx, id), "1m", "20ms").Should(ContainSubstring("read-only"))

		_, err := n.rt.CreateContainer(ctx, n.pod(ctx), runtimeiface.ContainerSpec{Name: "app", Image: image, Mounts: []specs.Mount{
			{Type: "bind", Source: dir, Destination: "/data", Options: []string{"noexec"}},
		}})
		Expect(err).To(And(MatchError(runtimeiface.ErrNotSupported), MatchError(ContainSubstring("Mounts[0].Options"))))
	}, NodeTimeout(5*time.Minute))

	It("joins a container's PID namespace", func(ctx SpecContext) {
		sb := n.pod(ctx)
		target := n.prog(ctx, sb, "target", "forever")
		id := n.prog(ctx, sb, "debug", "ps ; print done ; forever", func(s *runtimeiface.ContainerSpec) {
			s.PID, s.PIDTarget = runtimeiface.NamespaceTarget, target
		})
		Eventually(said(ctx, id), "1m", "20ms").Should(And(ContainSubstring("F 1 /prog forever"), ContainSubstring("done")))
		spec := runtimeiface.ContainerSpec{Name: "late", Image: image, PID: runtimeiface.NamespaceTarget, PIDTarget: target}
		_, err := n.rt.CreateContainer(ctx, n.pod(ctx), spec)
		Expect(err).To(MatchError(runtimeiface.ErrNotFound))
		Expect(n.rt.StopContainer(ctx, target, 0)).To(Succeed())
		_, err = n.rt.CreateContainer(ctx, sb, spec)
		Expect(err).To(MatchError(runtimeiface.ErrNotRunning))
	}, NodeTimeout(5*time.Minute))

	It("tells of the file system of images, and which are pinned", func(ctx SpecContext) {
		var fs runtimeiface.Filesystem
		Eventually(func() (int64, error) {
			var err error
			fs, err = n.rt.ImageFilesystem(ctx)
			return fs.UsedBytes, err
		}, "1m", "100ms").Should(BeNumerically(">", 1<<20))
		Expect(fs.Path).To(HavePrefix(n.dir))
		Expect(fs.UsedInodes).To(BeNumerically(">", 0))
		Expect(fs.CapacityBytes).To(BeNumerically(">=", fs.AvailableBytes))
		Expect(fs.Inodes).To(BeNumerically(">=", fs.AvailableInodes))
		Expect(fs.AvailableBytes).To(BeNumerically(">", 0))
		n.pod(ctx) // brings the image of sandboxes
		images, err := n.rt.ListImages(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(images).To(ContainElement(And(HaveField("Pinned", true), HaveField("Tags", ContainElement(ContainSubstring("pause"))))))
		Expect(images).To(ContainElement(And(HaveField("Pinned", false), HaveField("ID", image))))
	}, NodeTimeout(5*time.Minute))

	It("tells what a container has written", func(ctx SpecContext) {
		id := n.prog(ctx, n.pod(ctx), "writes", "write /f "+strings.Repeat("x", 100_000)+" ; print done ; forever")
		Eventually(func() (int64, error) {
			fs, err := n.rt.ContainerFilesystem(ctx, id)
			return fs.UsedBytes, err
		}, "1m", "200ms").Should(BeNumerically(">=", 100_000)) // containerd counts every 10 s
		_, err := n.rt.ContainerFilesystem(ctx, "nobody")
		Expect(err).To(MatchError(runtimeiface.ErrNotFound))
	}, NodeTimeout(5*time.Minute))

	It("runs a pod by another of the runtime's handlers, and names one that it lacks", func(ctx SpecContext) {
		sb := n.pod(ctx, func(s *runtimeiface.SandboxSpec) { s.RuntimeHandler = "second" })
		got, err := n.rt.SandboxStatus(ctx, sb)
		Expect(err).NotTo(HaveOccurred())
		Expect(got.RuntimeHandler).To(Equal("second"))
		id := n.prog(ctx, sb, "app", "print here ; forever")
		Eventually(said(ctx, id), "1m", "20ms").Should(ContainSubstring("here"))
		Expect(filepath.Join(n.dir, "second", "k8s.io", id)).To(BeADirectory(), "the second runtime keeps its state elsewhere")

		_, err = n.rt.RunSandbox(ctx, runtimeiface.SandboxSpec{Name: "x", Namespace: "test", UID: "x", RuntimeHandler: "third"})
		Expect(err).To(And(MatchError(runtimeiface.ErrNotSupported), MatchError(ContainSubstring("RuntimeHandler"))))
		Expect(n.rt.ListSandboxes(ctx, runtimeiface.SandboxFilter{UID: "x"})).To(BeEmpty())
	}, NodeTimeout(5*time.Minute))
})
