package volume_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/podlifecycle/volume"
)

var _ = Describe("a volume that is given to a group", func() {
	const group = 4321
	var dir, outside string
	// request is that of a plug-in that has mounted dir.
	request := func(policy corev1.PodFSGroupChangePolicy) volume.PluginRequest {
		id := int64(group)
		pod := podWith()
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &id}
		if policy != "" {
			pod.Spec.SecurityContext.FSGroupChangePolicy = &policy
		}
		return volume.PluginRequest{Pod: pod, Dir: dir, Group: &id}
	}
	has := func(path string) string {
		GinkgoHelper()
		var stat unix.Stat_t
		Expect(unix.Lstat(path, &stat)).To(Succeed())
		return fmt.Sprintf("%d %o", stat.Gid, stat.Mode&0o7777)
	}

	BeforeEach(func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root)
		dir, outside = filepath.Join(GinkgoT().TempDir(), "v"), filepath.Join(GinkgoT().TempDir(), "outside")
		Expect(os.WriteFile(outside, nil, 0o600)).To(Succeed())
		Expect(os.MkdirAll(filepath.Join(dir, "sub"), 0o700)).To(Succeed())
		Expect(os.Chmod(dir, 0o755)).To(Succeed())
		Expect(os.WriteFile(filepath.Join(dir, "sub", "file"), nil, 0o600)).To(Succeed())
		Expect(os.Chmod(filepath.Join(dir, "sub", "file"), 0o600|os.ModeSetuid)).To(Succeed())
		Expect(os.Symlink(outside, filepath.Join(dir, "link"))).To(Succeed())
		Expect(unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600)).To(Succeed())
	})

	It("has it as the owner of all, with the rights to write, and no link leads out", func(ctx context.Context) {
		Expect(request("").GiveToGroup(ctx, false)).To(Succeed())
		Expect(has(dir)).To(Equal("4321 2775"))
		Expect(has(filepath.Join(dir, "sub"))).To(Equal("4321 2770"))
		Expect(has(filepath.Join(dir, "sub", "file"))).To(Equal("4321 4660"))
		Expect(has(filepath.Join(dir, "pipe"))).To(Equal("4321 660"))
		Expect(has(filepath.Join(dir, "link"))).To(HavePrefix("4321 "))
		Expect(has(outside)).To(Equal("0 600"))
	})

	It("is only to be read if it is mounted so", func(ctx context.Context) {
		Expect(request("").GiveToGroup(ctx, true)).To(Succeed())
		Expect(has(filepath.Join(dir, "sub"))).To(Equal("4321 2750"))
		Expect(has(filepath.Join(dir, "sub", "file"))).To(Equal("4321 4640"))
	})

	It("is looked through again, or only if its root is not the group's", func(ctx context.Context) {
		file := filepath.Join(dir, "sub", "file")
		forget := func() {
			GinkgoHelper()
			Expect(os.Lchown(file, 0, 0)).To(Succeed())
		}
		Expect(request(corev1.FSGroupChangeOnRootMismatch).GiveToGroup(ctx, false)).To(Succeed())
		Expect(has(file)).To(HavePrefix("4321 "))
		forget()
		Expect(request(corev1.FSGroupChangeOnRootMismatch).GiveToGroup(ctx, false)).To(Succeed())
		Expect(has(file)).To(HavePrefix("0 "))
		Expect(os.Chmod(dir, 0o775)).To(Succeed()) // without the bit that hands the group on
		Expect(request(corev1.FSGroupChangeOnRootMismatch).GiveToGroup(ctx, false)).To(Succeed())
		Expect(has(file)).To(HavePrefix("4321 "))
		forget()
		Expect(request(corev1.FSGroupChangeAlways).GiveToGroup(ctx, false)).To(Succeed())
		Expect(has(file)).To(HavePrefix("4321 "))
	})

	It("is begun anew when that broke off", func(ctx context.Context) {
		ended, cancel := context.WithCancel(ctx)
		cancel()
		Expect(request(corev1.FSGroupChangeOnRootMismatch).GiveToGroup(ended, false)).To(MatchError(context.Canceled))
		Expect(has(dir)).To(HavePrefix("0 "))
		Expect(request(corev1.FSGroupChangeOnRootMismatch).GiveToGroup(ctx, false)).To(Succeed())
		Expect(has(filepath.Join(dir, "sub", "file"))).To(HavePrefix("4321 "))
	})

	It("stays as it is without a group, and must be there with one", func(ctx context.Context) {
		r := request("")
		r.Group = nil
		Expect(r.GiveToGroup(ctx, false)).To(Succeed())
		Expect(has(dir)).To(Equal("0 755"))
		r = request("")
		r.Dir = filepath.Join(dir, "nowhere")
		Expect(r.GiveToGroup(ctx, false)).To(MatchError(os.ErrNotExist))
	})
})
