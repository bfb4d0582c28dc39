package image_test

import (
	"archive/tar"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

var _ = Describe("Mount", func() {
	var h *hub
	var root string
	var s *image.Store
	BeforeEach(func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root, kerneltest.Overlay)
		h = newHub()
		root = newRoot()
		s = open(image.Config{Root: root})
	})
	pull := func(ctx context.Context, layers ...v1.Layer) image.Image {
		GinkgoHelper()
		got, err := s.Pull(ctx, h.push("web:1", imageOf(layers...)), image.PullOptions{})
		Expect(err).NotTo(HaveOccurred())
		return got
	}
	mount := func(ctx context.Context, layers ...v1.Layer) string {
		GinkgoHelper()
		rootfs, err := s.Mount(ctx, "box", pull(ctx, layers...).ID, image.MountOptions{})
		Expect(err).NotTo(HaveOccurred())
		return rootfs
	}
	read := func(parts ...string) string {
		GinkgoHelper()
		data, err := os.ReadFile(filepath.Join(parts...))
		Expect(err).NotTo(HaveOccurred())
		return string(data)
	}

	It("shows files with their owners, modes, times, attributes and links", func(ctx context.Context) {
		then := time.Date(2001, 2, 3, 4, 5, 6, 7000, time.UTC)
		capability := make([]byte, 20) // struct vfs_cap_data, linux/capability.h, revision 2
		binary.LittleEndian.PutUint32(capability, 0x02000001)
		binary.LittleEndian.PutUint32(capability[4:], 1<<10)
		rootfs := mount(ctx, lay(
			entry{name: "./", kind: tar.TypeDir, mode: 0o755},
			entry{name: "tmp", kind: tar.TypeDir, mode: 0o1777, time: then},
			file("tmp/child", ""),
			entry{name: "bin/su", body: "x", mode: 0o4755, uid: 12, gid: 34, time: then},
			entry{name: "bin/ping", body: "x", mode: 0o755, xattrs: map[string]string{"security.capability": string(capability), "user.k": "v"}},
			entry{name: "bin/link", kind: tar.TypeSymlink, link: "/bin/su", uid: 5, gid: 6, time: then},
			hardlink("bin/su2", "/bin/su"),
			entry{name: "fifo", kind: tar.TypeFifo, mode: 0o600},
		))
		stat := func(name string) unix.Stat_t {
			var st unix.Stat_t
			Expect(unix.Lstat(filepath.Join(rootfs, name), &st)).To(Succeed())
			return st
		}
		su := stat("bin/su")
		Expect([]uint32{su.Mode & 0o7777, su.Uid, su.Gid}).To(Equal([]uint32{0o4755, 12, 34}))
		Expect(su.Nlink).To(BeEquivalentTo(2))
		Expect(su.Mtim).To(Equal(unix.NsecToTimespec(then.UnixNano())))
		Expect(stat("bin/su2").Ino).To(Equal(su.Ino))
		tmp := stat("tmp")
		Expect(tmp.Mode & 0o7777).To(BeEquivalentTo(0o1777))
		Expect(tmp.Mtim).To(Equal(su.Mtim), "in spite of the child made later")
		link := stat("bin/link")
		Expect([]uint32{link.Uid, link.Gid}).To(Equal([]uint32{5, 6}))
		Expect(link.Mtim).To(Equal(su.Mtim))
		Expect(stat("fifo").Mode & unix.S_IFMT).To(BeEquivalentTo(unix.S_IFIFO))
		Expect(stat("bin").Mode & 0o7777).To(BeEquivalentTo(0o755))
		Expect(stat(".").Mode & 0o7777).To(BeEquivalentTo(0o755))
		buf := make([]byte, 64)
		n, err := unix.Lgetxattr(filepath.Join(rootfs, "bin/ping"), "security.capability", buf)
		Expect(err).NotTo(HaveOccurred())
		Expect(buf[:n]).To(Equal(capability))
		n, err = unix.Lgetxattr(filepath.Join(rootfs, "bin/ping"), "user.k", buf)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(buf[:n])).To(Equal("v"))
	})

	It("lets whiteouts and opaque directories hide what is lower", func(ctx context.Context) {
		rootfs := mount(ctx,
			lay(file("gone", "1"), file("kept", "1"), file("dir/gone", "1"), file("dir/kept", "1"),
				file("opaque/old", "1"), file("replaced/old", "1"), file("before/old", "1"), file("tofile/old", "1"), file("bare/old", "1")),
			lay(file(".wh.gone", ""), file("dir/.wh.gone", ""),
				dir("opaque"), file("opaque/new", "2"), file("opaque/.wh..wh..opq", ""),
				file(".wh.replaced", ""), dir("replaced"), file("replaced/new", "2"),
				dir("before"), file("before/new", "2"), file(".wh.before", ""),
				file(".wh.tofile", ""), file("tofile", "2"), file(".wh.bare", ""), file("bare/new/x", "2")))
		Expect(names(rootfs)).To(ConsistOf("kept", "dir", "opaque", "replaced", "before", "tofile", "bare"))
		Expect(names(rootfs, "dir")).To(ConsistOf("kept"))
		Expect(names(rootfs, "opaque")).To(ConsistOf("new"))
		Expect(names(rootfs, "replaced")).To(ConsistOf("new"))
		Expect(names(rootfs, "before")).To(ConsistOf("new"))
		Expect(names(rootfs, "bare")).To(ConsistOf("new"))
		Expect(read(rootfs, "tofile")).To(Equal("2"))
	})

	It("lets an opaque root hide all that is lower", func(ctx context.Context) {
		rootfs := mount(ctx, lay(file("old", "1")), lay(file(".wh..wh..opq", ""), file("mid", "2")), lay(file("new", "3")))
		Expect(names(rootfs)).To(ConsistOf("mid", "new"))
	})

	It("keeps owner and mode of directories that a higher layer only implies", func(ctx context.Context) {
		owned := func(name string, mode int64, id int) entry {
			return entry{name: name, kind: tar.TypeDir, mode: mode, uid: id, gid: id}
		}
		img := pull(ctx,
			lay(owned(".", 0o750, 9), owned("tmp", 0o1777, 1), owned("srv", 0o700, 2), owned("srv/a", 0o711, 3),
				owned("hidden", 0o700, 4), owned("changed", 0o700, 5), file("implied/x", "")),
			lay(file("tmp/x", ""), file("srv/a/x", ""), file(".wh.hidden", ""), owned("changed", 0o770, 6)),
			lay(file("hidden/x", ""), file("implied/y", ""), file("srv/a/y", ""), file("changed/x", "")))
		for id, opts := range map[string]image.MountOptions{"rw": {}, "ro": {ReadOnly: true}} {
			rootfs, err := s.Mount(ctx, id, img.ID, opts)
			Expect(err).NotTo(HaveOccurred())
			for name, want := range map[string][2]uint32{
				".": {0o750, 9}, "tmp": {0o1777, 1}, "srv": {0o700, 2}, "srv/a": {0o711, 3},
				"hidden": {0o755, 0}, "changed": {0o770, 6}, "implied": {0o755, 0},
			} {
				var st unix.Stat_t
				Expect(unix.Lstat(filepath.Join(rootfs, name), &st)).To(Succeed())
				Expect([2]uint32{st.Mode & 0o7777, st.Uid}).To(Equal(want), "%s of %s", name, id)
			}
			Expect(names(rootfs, "srv/a")).To(ConsistOf("x", "y"))
			Expect(names(rootfs, "hidden")).To(ConsistOf("x"))
		}
	})

	It("stacks the same layer twice", func(ctx context.Context) {
		twice := lay(file("a", "1"))
		rootfs := mount(ctx, twice, lay(file("b", "2"), file(".wh.a", "")), twice)
		Expect(names(rootfs)).To(ConsistOf("a", "b"))
	})

	It("mounts an image without layers", func(ctx context.Context) {
		rootfs := mount(ctx)
		Expect(names(rootfs)).To(BeEmpty())
		Expect(os.WriteFile(filepath.Join(rootfs, "x"), nil, 0o600)).To(Succeed())
	})

	It("mounts 190 layers, and refuses more", func(ctx context.Context) {
		var layers []v1.Layer
		for i := range 191 {
			layers = append(layers, lay(file(fmt.Sprint(i), "x")))
		}
		Expect(names(mount(ctx, layers[:190]...))).To(HaveLen(190))
		_, err := s.Pull(ctx, h.push("more:1", imageOf(layers...)), image.PullOptions{})
		Expect(err).To(MatchError(image.ErrRefused))
	})

	It("tells when its root cannot be written through", func(ctx context.Context) {
		odd := mount(ctx, lay(dir("inside")))
		nested := open(image.Config{Root: filepath.Join(odd, "inside")})
		img, err := nested.Pull(ctx, s.List()[0].RepoTags[0], image.PullOptions{})
		Expect(err).NotTo(HaveOccurred())
		_, err = nested.Mount(ctx, "box", img.ID, image.MountOptions{})
		Expect(err).To(MatchError(image.ErrNotSupported))
		Expect(err).To(MatchError(ContainSubstring("is on an overlay itself")))
		Expect(nested.Mounted()).To(BeEmpty())
		Expect(nested.Close()).To(Succeed())
	})

	It("mounts below a root of a difficult name", func(ctx context.Context) {
		odd := filepath.Join(root, `odd:name,with\all`)
		s = open(image.Config{Root: odd})
		Expect(names(mount(ctx, lay(file("a", "1")), lay(file("b", "2"))))).To(ConsistOf("a", "b"))
	})

	It("gives each container its own writable layer, and counts it", func(ctx context.Context) {
		img := pull(ctx, lay(file("a", "image")))
		one, err := s.Mount(ctx, "one", img.ID, image.MountOptions{})
		Expect(err).NotTo(HaveOccurred())
		two, err := s.Mount(ctx, "two", img.RepoTags[0], image.MountOptions{})
		Expect(err).NotTo(HaveOccurred())
		before, err := s.ContainerUsage(ctx, "one")
		Expect(err).NotTo(HaveOccurred())
		Expect(os.WriteFile(filepath.Join(one, "a"), make([]byte, 1<<20), 0o600)).To(Succeed())
		Expect(read(two, "a")).To(Equal("image"))
		unix.Sync()
		after, err := s.ContainerUsage(ctx, "one")
		Expect(err).NotTo(HaveOccurred())
		Expect(after.Bytes - before.Bytes).To(BeNumerically("~", 1<<20, 64<<10))
		Expect(after.Inodes - before.Inodes).To(BeEquivalentTo(1))
		_, err = s.ContainerUsage(ctx, "three")
		Expect(err).To(MatchError(image.ErrNotFound))
	})

	It("is idempotent, and refuses another image for the same container", func(ctx context.Context) {
		rootfs := mount(ctx, lay(file("a", "1")))
		Expect(os.WriteFile(filepath.Join(rootfs, "mine"), []byte("m"), 0o600)).To(Succeed())
		img := s.List()[0]
		again, err := s.Mount(ctx, "box", img.ID, image.MountOptions{})
		Expect(err).NotTo(HaveOccurred())
		Expect(again).To(Equal(rootfs))
		Expect(read(rootfs, "mine")).To(Equal("m"))
		Expect(s.Mounted()).To(Equal([]string{"box"}))
		other, err := s.Pull(ctx, h.push("other:1", imageOf(lay(file("b", "1")))), image.PullOptions{})
		Expect(err).NotTo(HaveOccurred())
		_, err = s.Mount(ctx, "box", other.ID, image.MountOptions{})
		Expect(err).To(MatchError(image.ErrInUse))
		_, err = s.Mount(ctx, "box", img.ID, image.MountOptions{ReadOnly: true})
		Expect(err).To(MatchError(image.ErrInUse))
	})

	It("makes read-only roots", func(ctx context.Context) {
		img := pull(ctx, lay(file("a", "1")))
		rootfs, err := s.Mount(ctx, "volume", img.ID, image.MountOptions{ReadOnly: true})
		Expect(err).NotTo(HaveOccurred())
		Expect(names(rootfs)).To(ConsistOf("a"))
		Expect(os.WriteFile(filepath.Join(rootfs, "x"), nil, 0o600)).To(MatchError(unix.EROFS))
	})

	It("refuses unknown images and IDs that are paths", func(ctx context.Context) {
		_, err := s.Mount(ctx, "box", "sha256:"+strings.Repeat("0", 64), image.MountOptions{})
		Expect(err).To(MatchError(image.ErrNotFound))
		Expect(s.Mounted()).To(BeEmpty())
		img := pull(ctx, lay(file("a", "1")))
		for _, id := range []string{"", ".", "..", "../x", "a/b", "-x", "a\x00b", strings.Repeat("a", 129)} {
			_, err := s.Mount(ctx, id, img.ID, image.MountOptions{})
			Expect(err).To(HaveOccurred(), "%q", id)
			Expect(s.Unmount(id)).NotTo(Succeed(), "%q", id)
		}
	})

	It("is undone by Unmount, also twice and while a file is open", func(ctx context.Context) {
		rootfs := mount(ctx, lay(file("a", "1")))
		f, err := os.Open(filepath.Join(rootfs, "a"))
		Expect(err).NotTo(HaveOccurred())
		defer f.Close()
		Expect(s.Unmount("box")).To(Succeed())
		Expect(s.Unmount("box")).To(Succeed())
		Expect(s.Mounted()).To(BeEmpty())
		Expect(names(root, "containers")).To(BeEmpty())
		expectClean(root)
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		Expect(err).NotTo(HaveOccurred())
		Expect(string(mounts)).NotTo(ContainSubstring(root))
	})

	It("outlives the store, whose successor knows or reaps it", func(ctx context.Context) {
		img := pull(ctx, lay(file("a", "1")))
		kept, err := s.Mount(ctx, "kept", img.ID, image.MountOptions{})
		Expect(err).NotTo(HaveOccurred())
		_, err = s.Mount(ctx, "lost", img.ID, image.MountOptions{})
		Expect(err).NotTo(HaveOccurred())
		Expect(os.WriteFile(filepath.Join(kept, "mine"), []byte("m"), 0o600)).To(Succeed())
		Expect(s.Close()).To(Succeed())
		// As a kill in the middle of Mount leaves it.
		Expect(os.MkdirAll(filepath.Join(root, "containers", "half", "upper"), 0o700)).To(Succeed())

		next := open(image.Config{Root: root})
		Expect(next.Mounted()).To(Equal([]string{"half", "kept", "lost"}))
		gone, err := next.Reap(func(id string) bool { return id == "kept" })
		Expect(err).NotTo(HaveOccurred())
		Expect(gone).To(Equal([]string{"half", "lost"}))
		Expect(names(root, "containers")).To(Equal([]string{"kept"}))
		Expect(next.Remove(img.ID)).To(MatchError(image.ErrInUse))
		again, err := next.Mount(ctx, "kept", img.ID, image.MountOptions{})
		Expect(err).NotTo(HaveOccurred())
		Expect(read(again, "mine")).To(Equal("m"))
		// As a restart of the machine leaves it.
		Expect(unix.Unmount(kept, 0)).To(Succeed())
		again, err = next.Mount(ctx, "kept", img.ID, image.MountOptions{})
		Expect(err).NotTo(HaveOccurred())
		Expect(read(again, "mine")).To(Equal("m"))
		Expect(read(again, "a")).To(Equal("1"))
	})

	It("never pulls the layers from under a mount, with many at once", func(ctx context.Context) {
		img := pull(ctx, lay(file("a", "1")), lay(file("b", "2")))
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				defer GinkgoRecover()
				id := fmt.Sprint("c", i)
				var rootfs string
				for {
					got, err := s.Pull(ctx, img.RepoTags[0], image.PullOptions{})
					Expect(err).NotTo(HaveOccurred())
					rootfs, err = s.Mount(ctx, id, got.ID, image.MountOptions{})
					if err == nil {
						break
					}
					Expect(err).To(MatchError(image.ErrNotFound), "removed by another meanwhile")
				}
				Expect(s.Remove(img.ID)).To(MatchError(image.ErrInUse))
				Expect(names(rootfs)).To(ConsistOf("a", "b"))
				Expect(s.Unmount(id)).To(Succeed())
				if err := s.Remove(img.ID); err != nil {
					Expect(err).To(MatchError(image.ErrInUse))
				}
			})
		}
		wg.Wait()
		Expect(s.Mounted()).To(BeEmpty())
		Expect(s.List()).To(BeEmpty())
		Expect(names(root, "layers")).To(BeEmpty())
		expectClean(root)
	})
})
