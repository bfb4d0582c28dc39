package image_test

import (
	"archive/tar"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

// newUserNS gives a user namespace whose IDs 0 to 65535 are the node's from first on.
func newUserNS(first int) *os.File {
	GinkgoHelper()
	ids := []syscall.SysProcIDMap{{HostID: first, Size: 65536}}
	holder := exec.Command("sleep", "60")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	Expect(holder.Start()).To(Succeed())
	defer func() { _ = holder.Process.Kill(); _ = holder.Wait() }()
	file, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", holder.Process.Pid))
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(file.Close)
	return file
}

var _ = Describe("Mount for a user namespace", func() {
	const first = 200000
	var root string
	var s *image.Store
	BeforeEach(func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root, kerneltest.Overlay)
		root = newRoot()
		s = open(image.Config{Root: root})
	})
	owner := func(parts ...string) string {
		GinkgoHelper()
		var st unix.Stat_t
		Expect(unix.Lstat(filepath.Join(parts...), &st)).To(Succeed())
		return fmt.Sprintf("%d:%d %o", st.Uid, st.Gid, st.Mode&0o7777)
	}
	mounts := func() (at []string) {
		GinkgoHelper()
		data, err := os.ReadFile("/proc/self/mountinfo")
		Expect(err).NotTo(HaveOccurred())
		for line := range strings.Lines(string(data)) {
			if fields := strings.Fields(line); strings.HasPrefix(fields[4], root) {
				at = append(at, strings.TrimPrefix(fields[4], root+"/"))
			}
		}
		return at
	}
	pull := func(ctx context.Context) image.Image {
		GinkgoHelper()
		got, err := s.Pull(ctx, newHub().push("web:1", imageOf(
			lay(entry{name: "./", kind: tar.TypeDir, mode: 0o755}, entry{name: "srv", kind: tar.TypeDir, mode: 0o750, uid: 7, gid: 8},
				entry{name: "srv/low", uid: 12, gid: 34, mode: 0o4755}),
			lay(entry{name: "srv/new", uid: 1, gid: 2}, file("top", "x")))), image.PullOptions{})
		Expect(err).NotTo(HaveOccurred())
		return got
	}

	It("keeps owners as seen from within, and the layers as they are", func(ctx context.Context) {
		img := pull(ctx)
		rootfs, err := s.Mount(ctx, "box", img.ID, image.MountOptions{UserNamespace: newUserNS(first)})
		Expect(err).NotTo(HaveOccurred())
		plain, err := s.Mount(ctx, "plain", img.ID, image.MountOptions{})
		Expect(err).NotTo(HaveOccurred())
		for name, want := range map[string][2]string{
			".":       {"200000:200000 755", "0:0 755"},
			"srv":     {"200007:200008 750", "7:8 750"},
			"srv/low": {"200012:200034 4755", "12:34 4755"},
			"srv/new": {"200001:200002 644", "1:2 644"},
			"top":     {"200000:200000 644", "0:0 644"},
		} {
			Expect(owner(rootfs, name)).To(Equal(want[0]), name)
			Expect(owner(plain, name)).To(Equal(want[1]), name)
		}
		Expect(mounts()).To(ConsistOf("containers/box/rootfs", "containers/plain/rootfs"))

		// What is written keeps the owner through a copy to the upper layer.
		Expect(os.Chmod(filepath.Join(rootfs, "srv/low"), 0o600)).To(Succeed())
		Expect(owner(rootfs, "srv/low")).To(Equal("200012:200034 600"))
		Expect(owner(plain, "srv/low")).To(Equal("12:34 4755"))
		Expect(owner(filepath.Dir(rootfs))).To(Equal("0:200000 710"), "passable for the pod's root alone")
		Expect(owner(filepath.Dir(plain))).To(Equal("0:0 700"))

		_, err = s.Mount(ctx, "box", img.ID, image.MountOptions{})
		Expect(err).To(MatchError(image.ErrInUse), "what is written has the IDs of the namespace")
		Expect(s.Unmount("box")).To(Succeed())
		Expect(s.Unmount("plain")).To(Succeed())
		Expect(mounts()).To(BeEmpty())
		Expect(names(root, "containers")).To(BeEmpty())
	})

	It("mounts an image read-only, and one without layers", func(ctx context.Context) {
		userns := newUserNS(first)
		rootfs, err := s.Mount(ctx, "volume", pull(ctx).ID, image.MountOptions{ReadOnly: true, UserNamespace: userns})
		Expect(err).NotTo(HaveOccurred())
		Expect(owner(rootfs, "srv/new")).To(Equal("200001:200002 644"))
		Expect(os.WriteFile(filepath.Join(rootfs, "x"), nil, 0o600)).To(MatchError(unix.EROFS))
		bare, err := s.Pull(ctx, newHub().push("bare:1", imageOf()), image.PullOptions{})
		Expect(err).NotTo(HaveOccurred())
		rootfs, err = s.Mount(ctx, "bare", bare.ID, image.MountOptions{UserNamespace: userns})
		Expect(err).NotTo(HaveOccurred())
		Expect(owner(rootfs)).To(Equal("200000:200000 755"))
		for _, id := range []string{"bare", "volume"} {
			Expect(s.Unmount(id)).To(Succeed())
		}
		Expect(mounts()).To(BeEmpty())
	})

	It("takes what a kill in the middle left", func(ctx context.Context) {
		img := pull(ctx)
		left := filepath.Join(root, "containers/box/mapped")
		cut := func() {
			Expect(os.MkdirAll(filepath.Join(left, "0"), 0o700)).To(Succeed())
			Expect(unix.Mount("tmpfs", left, "tmpfs", 0, "")).To(Succeed())
			Expect(os.Mkdir(filepath.Join(left, "0"), 0o700)).To(Succeed())
			Expect(unix.Mount(root+"/layers", filepath.Join(left, "0"), "", unix.MS_BIND, "")).To(Succeed())
		}
		cut()
		Expect(s.Close()).To(Succeed())
		s = open(image.Config{Root: root})
		gone, err := s.Reap(func(string) bool { return false })
		Expect(err).NotTo(HaveOccurred())
		Expect(gone).To(ConsistOf("box"))
		Expect(mounts()).To(BeEmpty())
		cut()
		_, err = s.Mount(ctx, "box", img.ID, image.MountOptions{UserNamespace: newUserNS(first)})
		Expect(err).NotTo(HaveOccurred())
		Expect(mounts()).To(ConsistOf("containers/box/rootfs"))
		Expect(s.Unmount("box")).To(Succeed())
		Expect(names(root, "containers")).To(BeEmpty())
		Expect(names(root, "layers")).To(HaveLen(2), "nothing was removed through a mount")
	})

	It("says whether it can, and why not", func() {
		userns := newUserNS(first)
		Expect(s.ProbeUserNamespace(userns)).To(Succeed())
		Expect(mounts()).To(BeEmpty())
		Expect(names(root, "containers")).To(BeEmpty())

		// An overlay is a file system that cannot be mounted with mapped IDs.
		dir := GinkgoT().TempDir()
		for _, sub := range []string{"lower", "upper", "work", "merged"} {
			Expect(os.Mkdir(filepath.Join(dir, sub), 0o755)).To(Succeed())
		}
		merged := filepath.Join(dir, "merged")
		Expect(unix.Mount("overlay", merged, "overlay", 0, fmt.Sprintf("lowerdir=%s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir))).To(Succeed())
		DeferCleanup(func() { Expect(unix.Unmount(merged, 0)).To(Succeed()) })
		other := open(image.Config{Root: filepath.Join(merged, "images")})
		DeferCleanup(other.Close)
		err := other.ProbeUserNamespace(userns)
		Expect(err).To(MatchError(image.ErrNotSupported))
		Expect(err).To(MatchError(ContainSubstring(merged)))
	})
})
