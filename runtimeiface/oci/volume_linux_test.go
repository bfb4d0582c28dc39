package oci_test

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface"
)

var _ = Describe("an image volume", func() {
	var e *env
	var volume string // ID of the image
	BeforeEach(func() {
		e = newEnv(GinkgoTB())
		volume = e.imageOf(false, directory("data/"), directory("data/sub/"), regular("data/sub/file"), regular("data/top"),
			link("inside", "/data/sub"), link("outside", "/etc"), link("up", "../../../../../../etc/passwd"), link("data/loop", "loop"),
			tar.Header{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o644},
			tar.Header{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3})
	})
	mount := func(options ...string) func(*runtimeiface.ContainerSpec) {
		return func(s *runtimeiface.ContainerSpec) {
			s.Mounts = []specs.Mount{{Type: "image", Source: volume, Destination: "/vol", Options: options}}
		}
	}
	create := func(sandbox string, change func(*runtimeiface.ContainerSpec)) error {
		spec := runtimeiface.ContainerSpec{Name: "bad", Image: e.image}
		change(&spec)
		_, err := e.rt.CreateContainer(e.ctx(), sandbox, spec)
		return err
	}
	roots := func() []string {
		files, err := filepath.Glob(filepath.Join(e.cfg.Root, "images/containers/*"))
		Expect(err).NotTo(HaveOccurred())
		return files
	}

	for name, change := range map[string]func(*runtimeiface.SandboxSpec){
		"the node's IDs": func(*runtimeiface.SandboxSpec) {}, "a user namespace": userNamespace,
	} {
		It("shows the whole image, or a directory or a file of it, read-only, with "+name, func() {
			sb := e.sandbox(change)
			whole := e.start(sb, "whole", "ls /vol ; forever", mount())
			Eventually(func() string { return e.log(e.status(whole)) }, "1m").Should(Equal("data\ninside\nnull\noutside\npipe\nup\n"))
			at := fmt.Sprintf("/proc/%d/root/vol", e.status(whole).PID)
			var fs unix.Statfs_t
			Expect(unix.Statfs(at, &fs)).To(Succeed())
			want := int64(unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV)
			Expect(fs.Flags & want).To(Equal(want))
			Expect(ownerOf(at)).To(Equal(ownerOf(filepath.Dir(at))))
			for sub, steps := range map[string]string{
				"data": "cat /vol/top", "data/sub/file": "cat /vol", "inside/file": "cat /vol", "inside": "cat /vol/file", "data/../data/./top": "cat /vol",
			} {
				c := e.exited(e.start(sb, strings.ReplaceAll(sub, "/", "-"), steps, mount("subpath="+sub)))
				Expect(e.log(c)).To(HavePrefix("data/"), sub)
				Expect(c.ExitCode).To(BeZero(), sub)
			}
			c := e.exited(e.start(sb, "writes", "write /vol/x y", mount("subpath=data")))
			Expect(e.log(c)).To(ContainSubstring("read-only file system"))
			// Two volumes of one image, and one of the container's own.
			c = e.exited(e.start(sb, "two", "cat /a/top ; cat /b ; cat /c/etc/passwd", func(s *runtimeiface.ContainerSpec) {
				s.Mounts = []specs.Mount{
					{Type: "image", Source: volume, Destination: "/a", Options: []string{"subpath=data"}},
					{Type: "image", Source: volume, Destination: "/b", Options: []string{"subpath=data/top"}},
					{Type: "image", Source: e.image, Destination: "/c", Options: []string{"ro"}},
				}
			}))
			Expect(c.ExitCode).To(BeZero(), e.log(c))
		})
	}

	It("has a subpath that leads nowhere else", func() {
		sb := e.sandbox()
		for _, sub := range []string{"outside", "up", "missing", "data/loop", "data/top/x", "pipe", "null", "outside/passwd"} {
			err := create(sb, mount("subpath="+sub))
			Expect(err).To(MatchError(runtimeiface.ErrInvalid), sub)
			Expect(err).To(MatchError(ContainSubstring("Mounts[0].Options")), sub)
		}
		for _, sub := range []string{"..", "../x", "/data", "data/../../x"} {
			Expect(create(sb, mount("subpath="+sub))).To(MatchError(runtimeiface.ErrInvalid), sub)
		}
		Expect(roots()).To(BeEmpty(), "a failed call leaves nothing")
	})

	It("is of an image that is there, which stays as long as it is used", func() {
		sb := e.sandbox()
		err := create(sb, func(s *runtimeiface.ContainerSpec) {
			s.Mounts = []specs.Mount{{Type: "image", Source: "sha256:" + strings.Repeat("0", 64), Destination: "/vol"}}
		})
		Expect(err).To(MatchError(runtimeiface.ErrNotFound))
		Expect(err).To(MatchError(ContainSubstring("Mounts[0].Source")))

		id := e.start(sb, "app", "forever", mount())
		Expect(e.rt.RemoveImage(e.ctx(), volume)).To(MatchError(runtimeiface.ErrInUse))
		e.reopen()
		Expect(e.rt.RemoveImage(e.ctx(), volume)).To(MatchError(runtimeiface.ErrInUse), "by the next agent too")
		Expect(roots()).To(HaveLen(2))
		Expect(e.rt.RemoveContainer(e.ctx(), id)).To(Succeed())
		Expect(roots()).To(BeEmpty())
		Expect(e.rt.RemoveImage(e.ctx(), volume)).To(Succeed())
	})

	It("goes with its container when the shim is killed, and with one that was cut off", func() {
		sb := e.sandbox()
		e.start(sb, "app", "forever", mount())
		s, err := e.rt.SandboxStatus(e.ctx(), sb)
		Expect(err).NotTo(HaveOccurred())
		e.close()
		Expect(unix.Kill(s.PID, unix.SIGKILL)).To(Succeed())
		// As after a kill in the middle of CreateContainer: mounts, but no mark.
		marks, err := filepath.Glob(filepath.Join(e.cfg.Root, "sandboxes/*/containers/*/created"))
		Expect(err).NotTo(HaveOccurred())
		Expect(marks).To(HaveLen(1))
		Expect(os.Remove(marks[0])).To(Succeed())
		e.open()
		Expect(roots()).To(BeEmpty())
		Expect(e.rt.RemoveImage(e.ctx(), volume)).To(Succeed())
	})
})
