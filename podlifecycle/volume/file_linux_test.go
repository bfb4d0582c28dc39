package volume_test

import (
	"bytes"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/podlifecycle/volume"
)

var _ = Describe("a file that a container has left", func() {
	It("is read, but nothing else is", func(ctx SpecContext) {
		root := GinkgoT().TempDir()
		m, err := volume.New(volume.Config{Root: root})
		Expect(err).NotTo(HaveOccurred())
		pod := podWith(emptyDir("shared"), hostPathOf("host", root, ""))
		Expect(m.Setup(ctx, pod, objects{})).To(Succeed())
		dir := filepath.Join(m.PodDir("u1"), "volumes", "kubernetes.io~empty-dir", "shared")
		write := func(name string, data []byte) {
			Expect(os.WriteFile(filepath.Join(dir, name), data, 0o600)).To(Succeed())
		}
		Expect(os.Mkdir(filepath.Join(dir, "a"), 0o700)).To(Succeed())
		write("a/vars", []byte("KEY='x'"))
		write("large", bytes.Repeat([]byte("x"), 1<<20+1))
		write("most", bytes.Repeat([]byte("x"), 1<<20))
		Expect(os.WriteFile(filepath.Join(root, "secret"), []byte("s"), 0o600)).To(Succeed())
		for name, target := range map[string]string{"within": "a/vars", "out": "../../../../../secret", "absolute": filepath.Join(root, "secret"), "up": ".."} {
			Expect(os.Symlink(target, filepath.Join(dir, name))).To(Succeed())
		}
		Expect(unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600)).To(Succeed())

		for _, path := range []string{"a/vars", "within"} {
			Expect(m.File(pod, "shared", path)).To(Equal([]byte("KEY='x'")), path)
		}
		Expect(m.File(pod, "shared", "most")).To(HaveLen(1 << 20))
		for path, want := range map[string]error{
			"out": volume.ErrEscape, "absolute": volume.ErrEscape, "up/x": volume.ErrEscape, "../shared/a/vars": volume.ErrEscape,
			"pipe": volume.ErrInvalid, "a": volume.ErrInvalid, "large": volume.ErrInvalid, "none": volume.ErrMissing,
		} {
			_, err := m.File(pod, "shared", path)
			Expect(err).To(MatchError(want), path)
		}
		_, err = m.File(pod, "host", "secret")
		Expect(err).To(MatchError(volume.ErrInvalid))
		_, err = m.File(pod, "nothing", "x")
		Expect(err).To(MatchError(volume.ErrMissing))
	})
})
