package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

// Every hostile layer either is refused and leaves nothing, or stays inside
// its own directory. The canary outside must never change.
var _ = Describe("A malicious layer", func() {
	var h *hub
	var root, canary string
	var s *image.Store
	BeforeEach(func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root)
		h = newHub()
		root = newRoot()
		canary = filepath.Join(newRoot(), "canary")
		Expect(os.WriteFile(canary, []byte("alive"), 0o600)).To(Succeed())
		s = open(image.Config{Root: root, MaxEntries: 1000})
	})
	AfterEach(func() {
		data, err := os.ReadFile(canary)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(data)).To(Equal("alive"))
		info, err := os.Lstat(canary)
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode()).To(Equal(os.FileMode(0o600)))
		Expect(info.Sys().(*syscall.Stat_t).Nlink).To(BeEquivalentTo(1))
		Expect(names(filepath.Dir(canary))).To(Equal([]string{"canary"}))
		Expect(names(root, "tmp")).To(BeEmpty())
		Expect(names(root)).To(HaveEach(BeElementOf("containers", "images.json", "ingest", "layers", "lock", "tmp", "used")))
	})

	pull := func(ctx context.Context, layer v1.Layer) (string, error) {
		_, err := s.Pull(ctx, h.push("evil:1", imageOf(layer)), image.PullOptions{})
		return filepath.Join(root, "layers", strings.Replace(diffID(layer), ":", "-", 1), "fs"), err
	}
	refused := func(ctx context.Context, kind error, text string, entries ...entry) {
		GinkgoHelper()
		_, err := pull(ctx, lay(entries...))
		Expect(err).To(MatchError(kind))
		Expect(err).To(MatchError(ContainSubstring(text)))
		Expect(s.List()).To(BeEmpty())
		Expect(names(root, "layers")).To(BeEmpty())
		expectClean(root)
	}
	confined := func(ctx context.Context, entries ...entry) string {
		GinkgoHelper()
		fs, err := pull(ctx, lay(entries...))
		Expect(err).NotTo(HaveOccurred())
		return fs
	}
	up := strings.Repeat("../", 40)

	It("with an absolute path stays inside", func(ctx context.Context) {
		fs := confined(ctx, file(canary, "dead"), file("//etc/x", "y"))
		Expect(filepath.Join(fs, canary)).To(BeAnExistingFile())
		Expect(filepath.Join(fs, "etc/x")).To(BeAnExistingFile())
	})
	It("with .. in a path is refused", func(ctx context.Context) {
		refused(ctx, image.ErrRefused, "path leads out of the layer", file(up+canary, "dead"))
	})
	It("with .. behind a directory is refused", func(ctx context.Context) {
		refused(ctx, image.ErrRefused, "path leads out of the layer", dir("a"), file("a/../../"+canary, "dead"))
	})
	It("that is .. itself is refused", func(ctx context.Context) {
		refused(ctx, image.ErrRefused, "path leads out of the layer", dir(".."))
	})
	It("that writes through an absolute symlink stays inside", func(ctx context.Context) {
		fs := confined(ctx, symlink("out", filepath.Dir(canary)), file("out/canary", "dead"))
		Expect(filepath.Join(fs, canary)).To(BeAnExistingFile())
		to, err := os.Readlink(filepath.Join(fs, "out"))
		Expect(err).NotTo(HaveOccurred())
		Expect(to).To(Equal(filepath.Dir(canary)), "what the image says is kept")
	})
	It("that writes through a relative symlink stays inside", func(ctx context.Context) {
		fs := confined(ctx, symlink("out", up+filepath.Dir(canary)), file("out/canary", "dead"))
		Expect(filepath.Join(fs, canary)).To(BeAnExistingFile())
	})
	It("that writes through a chain of symlinks stays inside", func(ctx context.Context) {
		fs := confined(ctx, dir("a"), symlink("a/up", ".."), symlink("b", "a/up/a/up/.."), symlink("c", "b/../.."+filepath.Dir(canary)),
			file("c/canary", "dead"))
		Expect(filepath.Join(fs, canary)).To(BeAnExistingFile())
	})
	It("that overwrites a symlink replaces it", func(ctx context.Context) {
		fs := confined(ctx, symlink("link", canary), file("link", "dead"))
		info, err := os.Lstat(filepath.Join(fs, "link"))
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode().IsRegular()).To(BeTrue())
	})
	It("that makes a directory over a symlink replaces it", func(ctx context.Context) {
		fs := confined(ctx, symlink("link", filepath.Dir(canary)), entry{name: "link", kind: tar.TypeDir, mode: 0o777})
		info, err := os.Lstat(filepath.Join(fs, "link"))
		Expect(err).NotTo(HaveOccurred())
		Expect(info.IsDir()).To(BeTrue())
	})
	It("whose root is a symlink is refused", func(ctx context.Context) {
		refused(ctx, image.ErrRefused, "the root is no directory", symlink("./", filepath.Dir(canary)), file("canary", "dead"))
	})
	It("with symlinks in a circle is refused", func(ctx context.Context) {
		refused(ctx, image.ErrRefused, "too many levels of symbolic links", symlink("a", "b"), symlink("b", "a"), file("a/x", ""))
	})
	It("with dangling symlinks in a circle is refused", func(ctx context.Context) {
		refused(ctx, image.ErrRefused, "parent", symlink("a", "a/b"), file("a/x/y", ""))
	})
	It("with a file as parent is refused", func(ctx context.Context) {
		refused(ctx, image.ErrRefused, "not a directory", file("a", ""), file("a/x", ""))
	})
	It("with a hard link to an absolute path is refused", func(ctx context.Context) {
		refused(ctx, image.ErrCorrupt, "hard link", hardlink("a", canary))
	})
	It("with a hard link to .. is refused", func(ctx context.Context) {
		refused(ctx, image.ErrRefused, "path leads out of the layer", hardlink("a", up+canary))
	})
	It("with a hard link through a symlink finds nothing outside", func(ctx context.Context) {
		refused(ctx, image.ErrCorrupt, "hard link", symlink("out", filepath.Dir(canary)), hardlink("a", "out/canary"))
	})
	It("with a hard link to a symlink links the symlink", func(ctx context.Context) {
		fs := confined(ctx, symlink("out", canary), hardlink("a", "out"))
		info, err := os.Lstat(filepath.Join(fs, "a"))
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode().Type()).To(Equal(os.ModeSymlink))
	})
	It("that writes through a hard link to a symlink replaces the name", func(ctx context.Context) {
		fs := confined(ctx, symlink("out", canary), hardlink("a", "out"), file("a", "dead"))
		info, err := os.Lstat(filepath.Join(fs, "a"))
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode().IsRegular()).To(BeTrue())
	})
	It("with a hard link to a directory is refused", func(ctx context.Context) {
		refused(ctx, image.ErrCorrupt, "hard link", dir("d"), hardlink("a", "d"))
	})
	It("with a hard link to itself keeps the file", func(ctx context.Context) {
		fs := confined(ctx, file("a", "x"), hardlink("a", "a"))
		Expect(filepath.Join(fs, "a")).To(BeAnExistingFile())
	})
	It("with a whiteout of its own directory is refused", func(ctx context.Context) {
		refused(ctx, image.ErrRefused, `whiteout of "."`, dir("a"), file("a/.wh..", ""))
	})
	It("with a whiteout of the parent is refused", func(ctx context.Context) {
		refused(ctx, image.ErrRefused, `whiteout of ".."`, dir("a"), file("a/.wh...", ""))
	})
	It("with a whiteout of nothing is refused", func(ctx context.Context) {
		refused(ctx, image.ErrRefused, `whiteout of ""`, file(".wh.", ""))
	})
	It("with a whiteout through a symlink stays inside", func(ctx context.Context) {
		fs := confined(ctx, symlink("out", filepath.Dir(canary)), file("out/.wh.canary", ""))
		info, err := os.Lstat(filepath.Join(fs, canary))
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode().Type()).To(Equal(os.ModeDevice | os.ModeCharDevice))
	})
	It("with an opaque marker through a symlink stays inside", func(ctx context.Context) {
		confined(ctx, symlink("out", filepath.Dir(canary)), file("out/.wh..wh..opq", ""))
		_, err := unix.Getxattr(filepath.Dir(canary), "trusted.overlay.opaque", nil)
		Expect(err).To(MatchError(unix.ENODATA))
	})
	It("with AUFS metadata has it skipped", func(ctx context.Context) {
		Expect(names(confined(ctx, file(".wh..wh.plnk/1.2", ""), file(".wh..wh.aufs", ""), file("a", "")))).To(ContainElement("a"))
	})
	It("with attributes for overlay has them dropped", func(ctx context.Context) {
		fs := confined(ctx, entry{name: "d", kind: tar.TypeDir, mode: 0o755, xattrs: map[string]string{
			"trusted.overlay.redirect": "/etc", "trusted.overlay.opaque": "y", "user.overlay.opaque": "y",
			"security.selinux": "x", "user.ok": "1",
		}})
		buf := make([]byte, 1000)
		n, err := unix.Listxattr(filepath.Join(fs, "d"), buf)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(buf[:n])).To(Equal("user.ok\x00"))
	})
	It("with device nodes keeps them, on a directory for root alone", func(ctx context.Context) {
		fs := confined(ctx, char("null", 1, 3), entry{name: "disk", kind: tar.TypeBlock, major: 254, minor: 0, mode: 0o660})
		var st unix.Stat_t
		Expect(unix.Lstat(filepath.Join(fs, "disk"), &st)).To(Succeed())
		Expect(st.Mode & unix.S_IFMT).To(BeEquivalentTo(unix.S_IFBLK))
		Expect(st.Rdev).To(Equal(unix.Mkdev(254, 0)))
		info, err := os.Stat(filepath.Join(root, "layers"))
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode().Perm()).To(Equal(os.FileMode(0o700)))
	})
	It("with a device of impossible number is refused", func(ctx context.Context) {
		refused(ctx, image.ErrRefused, "device 70000:1", char("x", 70000, 1))
	})
	It("with too many entries is refused", func(ctx context.Context) {
		var many []entry
		for i := range 1001 {
			many = append(many, file(fmt.Sprint(i), ""))
		}
		refused(ctx, image.ErrRefused, "more entries than the limit", many...)
	})
	It("with too many implied directories is refused", func(ctx context.Context) {
		refused(ctx, image.ErrRefused, "more entries than the limit", file(strings.Repeat("a/", 1001)+"x", ""))
	})
	It("with a path too long is refused", func(ctx context.Context) {
		refused(ctx, image.ErrRefused, "file name too long", file(strings.Repeat("a", 300)+"/x", ""))
	})
	It("of 10 GiB of zeros in 10 MiB is refused at its header", func(ctx context.Context) {
		blob := zeroBomb(10 << 30)
		Expect(len(blob)).To(BeNumerically("~", 10<<20, 1<<20))
		layer := rawLayer{static.NewLayer(blob, types.OCILayer), v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("a", 64)}}
		_, err := pull(ctx, layer)
		Expect(err).To(MatchError(image.ErrRefused))
		Expect(err).To(MatchError(ContainSubstring(`entry "zeros": layer refused: it unpacks to more than 200 times its`)))
		expectClean(root)
	})
	It("of zeros in zstd is refused at its header", func(ctx context.Context) {
		var head bytes.Buffer
		Expect(tar.NewWriter(&head).WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Mode: 0o644, Size: 10 << 30})).To(Succeed())
		enc, err := zstd.NewWriter(nil)
		Expect(err).NotTo(HaveOccurred())
		blob := enc.EncodeAll(append(head.Bytes(), make([]byte, 64<<20)...), nil)
		Expect(len(blob)).To(BeNumerically("<", 1<<20))
		_, err = pull(ctx, blobLayer(blob, nil))
		Expect(err).To(MatchError(image.ErrRefused))
		Expect(err).To(MatchError(ContainSubstring(`entry "zeros": layer refused: it unpacks to more than 200 times its`)))
		expectClean(root)
	})
	It("of more bytes than the limit behind the archive's end is refused", func(ctx context.Context) {
		small := open(image.Config{MaxLayerBytes: 1 << 20})
		data := append(archive(file("a", "")), make([]byte, 2<<20)...)
		_, err := small.Pull(ctx, h.push("evil:1", imageOf(blobLayer(gz(data), data))), image.PullOptions{})
		Expect(err).To(MatchError(image.ErrRefused))
		Expect(err).To(MatchError(ContainSubstring("the limit of 1048576 bytes")))
	})
	It("with a sparse file of terabytes is refused", func(ctx context.Context) {
		refused(ctx, image.ErrRefused, "it unpacks to more than", sparse(4<<40))
	})
})

// zeroBomb is a gzip archive of one file of n zeros, made of one compressed
// piece that is repeated: gzip members may follow one another.
func zeroBomb(n int64) []byte {
	const piece = 64 << 20
	var head bytes.Buffer
	w := tar.NewWriter(&head)
	Expect(w.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Mode: 0o644, Size: n})).To(Succeed())
	var zeros bytes.Buffer
	z, err := gzip.NewWriterLevel(&zeros, gzip.BestCompression)
	Expect(err).NotTo(HaveOccurred())
	_, err = z.Write(make([]byte, piece))
	Expect(err).NotTo(HaveOccurred())
	Expect(z.Close()).To(Succeed())
	return append(gz(head.Bytes()), bytes.Repeat(zeros.Bytes(), int(n/piece))...)
}

// sparse is a GNU sparse file that claims n bytes and holds none. PAX format
// 1.0 keeps its map at the beginning of the data.
func sparse(n int64) entry {
	return entry{name: "sparse", body: fmt.Sprintf("%-512s", "0\n"), sparse: n}
}
