package volume_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/podlifecycle/volume"
)

// shares mounts directories of server, as NFS would its exports.
type shares struct {
	server  string
	mount   func(volume.PluginRequest) error // before mounting
	unmount error
}

func (s *shares) Mount(_ context.Context, r volume.PluginRequest) error {
	if s.mount != nil {
		if err := s.mount(r); err != nil {
			return err
		}
	}
	if there, err := mountinfo.Mounted(r.Dir); err != nil || there {
		return err
	}
	return unix.Mount(filepath.Join(s.server, r.Volume.NFS.Path), r.Dir, "", unix.MS_BIND, "")
}

func (s *shares) Unmount(_ context.Context, dir string) error {
	if s.unmount != nil {
		return s.unmount
	}
	if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil // nothing is mounted
}

var _ = Describe("volumes of plug-ins", func() {
	var root string
	var plugin *shares
	manager := func(plugins map[string]volume.Plugin) *volume.Manager {
		GinkgoHelper()
		m, err := volume.New(volume.Config{Root: root, Plugins: plugins})
		Expect(err).NotTo(HaveOccurred())
		return m
	}
	pod := func(export string) *corev1.Pod {
		return podWith(corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{Server: "files", Path: export}}})
	}
	source := func(m *volume.Manager, mount corev1.VolumeMount) string {
		GinkgoHelper()
		mount.Name, mount.MountPath = "data", "/data"
		mounts, err := m.Mounts(context.Background(), pod("a"), &corev1.Container{Name: "app", VolumeMounts: []corev1.VolumeMount{mount}}, nil)
		Expect(err).NotTo(HaveOccurred())
		return mounts[0].Source
	}
	served := func(name string) string { return filepath.Join(plugin.server, "a", name) }

	BeforeEach(func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root)
		root = GinkgoT().TempDir()
		plugin = &shares{server: GinkgoT().TempDir()}
		Expect(os.Mkdir(filepath.Join(plugin.server, "a"), 0o755)).To(Succeed())
		Expect(os.WriteFile(served("file"), []byte("text"), 0o644)).To(Succeed())
		DeferCleanup(func() {
			mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(root))
			Expect(err).NotTo(HaveOccurred())
			for i := len(mounts) - 1; i >= 0; i-- {
				_ = unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH)
			}
		})
	})

	It("are mounted once, written to, and unmounted by an agent that comes later", func(ctx context.Context) {
		plugins := map[string]volume.Plugin{"nfs": plugin}
		m := manager(plugins)
		Expect(m.Setup(ctx, pod("a"), nil)).To(Succeed())
		Expect(m.Setup(ctx, pod("a"), nil)).To(Succeed())
		Expect(m.Update(ctx, pod("a"), nil)).To(BeEmpty())
		Expect(os.ReadFile(filepath.Join(source(m, corev1.VolumeMount{}), "file"))).To(BeEquivalentTo("text"))
		sub := source(m, corev1.VolumeMount{SubPath: "sub/dir"})
		Expect(os.WriteFile(filepath.Join(sub, "new"), nil, 0o644)).To(Succeed())
		Expect(served("sub/dir/new")).To(BeAnExistingFile())
		Expect(manager(plugins).Teardown(ctx, "u1")).To(Succeed())
		Expect(m.PodDir("u1")).NotTo(BeADirectory())
		Expect(served("sub/dir/new")).To(BeAnExistingFile())
	})

	It("keep their data when they cannot be unmounted, or their plug-in is no more", func(ctx context.Context) {
		m := manager(map[string]volume.Plugin{"nfs": plugin})
		Expect(m.Setup(ctx, pod("a"), nil)).To(Succeed())
		plugin.unmount = errors.New("server does not answer")
		err := m.Teardown(ctx, "u1")
		Expect(err).To(MatchError(volume.ErrMounted))
		Expect(err).To(MatchError(plugin.unmount))
		plugin.unmount = nil
		Expect(manager(nil).Teardown(ctx, "u1")).To(MatchError(volume.ErrMounted))
		Expect(served("file")).To(BeAnExistingFile())
		Expect(m.Teardown(ctx, "u1")).To(Succeed())
	})

	It("name the field when they cannot be mounted", func(ctx context.Context) {
		plugin.mount = func(volume.PluginRequest) error { return errors.New("access denied") }
		err := manager(map[string]volume.Plugin{"nfs": plugin}).Setup(ctx, pod("a"), nil)
		Expect(err).To(MatchError("pod shop/web: spec.volumes[0].nfs: volume data: access denied"))
		err = manager(nil).Setup(ctx, pod("a"), nil)
		Expect(err).To(MatchError(volume.ErrNotSupported))
		Expect(err).To(MatchError(ContainSubstring("spec.volumes[0].nfs")))
	})

	It("hold up no other pod when they hang", func(ctx context.Context) {
		begun, release := make(chan struct{}), make(chan struct{})
		plugin.mount = func(volume.PluginRequest) error { close(begun); <-release; return nil }
		m := manager(map[string]volume.Plugin{"nfs": plugin})
		done := make(chan error, 1)
		go func() { done <- m.Setup(ctx, pod("a"), nil) }()
		<-begun
		for i := range 200 {
			other := podWith(emptyDir("e"))
			other.UID = types.UID(fmt.Sprintf("other-%d", i))
			Expect(m.Setup(ctx, other, nil)).To(Succeed())
			Expect(m.Teardown(ctx, other.UID)).To(Succeed())
		}
		close(release)
		Eventually(done, "30s").Should(Receive(BeNil()))
		Expect(m.Teardown(ctx, "u1")).To(Succeed())
	}, NodeTimeout(60e9))
})

var _ = Describe("plug-ins of a config", func() {
	It("are for sources that there are", func() {
		_, err := volume.New(volume.Config{Root: "/x", Plugins: map[string]volume.Plugin{"emptyDir": &shares{}, "csi": nil}})
		Expect(err).To(MatchError(And(ContainSubstring(`no volume source "emptyDir" is for plug-ins, there are`), ContainSubstring("the plug-in for csi is nil"))))
		Expect(volume.Sources()).To(ContainElements("nfs", "csi", "persistentVolumeClaim"))
	})
})
