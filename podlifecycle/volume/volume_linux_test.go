package volume_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/podlifecycle/volume"
)

var _ = Describe("volumes on a kernel", func() {
	var root string
	var m *volume.Manager
	known := objects{
		configMaps: map[string]map[string]string{"shop/settings": {"level": "debug"}},
		secrets:    map[string]map[string]string{"shop/login": {"user": "joe", "pass": "x"}},
	}

	BeforeEach(func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root)
		root = GinkgoT().TempDir()
		DeferCleanup(func() {
			mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(root))
			Expect(err).NotTo(HaveOccurred())
			for i := len(mounts) - 1; i >= 0; i-- {
				_ = unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH)
			}
		})
		var err error
		m, err = volume.New(volume.Config{Root: root, Allocatable: corev1.ResourceList{"memory": resource.MustParse("64Mi")}})
		Expect(err).NotTo(HaveOccurred())
	})
	mountsBelow := func() []string {
		GinkgoHelper()
		infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(root))
		Expect(err).NotTo(HaveOccurred())
		var result []string
		for _, info := range infos {
			result = append(result, strings.TrimPrefix(info.Mountpoint, root))
		}
		return result
	}
	mount := func(ctx context.Context, pod *corev1.Pod, mount corev1.VolumeMount) (string, error) {
		mount.MountPath = "/data"
		mounts, err := m.Mounts(ctx, pod, &corev1.Container{Name: "app", VolumeMounts: []corev1.VolumeMount{mount}}, []string{"POD=web"})
		if err != nil {
			return "", err
		}
		return mounts[0].Source, nil
	}
	memoryDir := func(limit string) corev1.Volume {
		v := corev1.Volume{Name: "mem", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}}
		if limit != "" {
			v.EmptyDir.SizeLimit = to(resource.MustParse(limit))
		}
		return v
	}

	Describe("emptyDir in memory", func() {
		DescribeTable("is as large as the least limit", func(ctx context.Context, limit, pod string, want int64) {
			p := podWith(memoryDir(limit))
			if pod != "" {
				p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"memory": resource.MustParse(pod)}
			}
			Expect(m.Setup(ctx, p, nil)).To(Succeed())
			path, err := mount(ctx, p, corev1.VolumeMount{Name: "mem"})
			Expect(err).NotTo(HaveOccurred())
			var fs unix.Statfs_t
			Expect(unix.Statfs(path, &fs)).To(Succeed())
			Expect(fs.Type).To(BeEquivalentTo(unix.TMPFS_MAGIC))
			Expect(int64(fs.Blocks) * fs.Bsize).To(Equal(want))
		},
			Entry("its own", "1Mi", "8Mi", int64(1<<20)),
			Entry("the pod's", "16Mi", "8Mi", int64(8<<20)),
			Entry("the node's", "", "", int64(64<<20)),
		)
		It("holds its limit, survives a second Setup, and is gone after Teardown", func(ctx context.Context) {
			pod := podWith(memoryDir("1Mi"))
			Expect(m.Setup(ctx, pod, nil)).To(Succeed())
			path, err := mount(ctx, pod, corev1.VolumeMount{Name: "mem"})
			Expect(err).NotTo(HaveOccurred())
			Expect(os.WriteFile(filepath.Join(path, "big"), make([]byte, 2<<20), 0o600)).To(MatchError(syscall.ENOSPC))
			Expect(os.Remove(filepath.Join(path, "big"))).To(Succeed())
			Expect(os.WriteFile(filepath.Join(path, "small"), []byte("x"), 0o600)).To(Succeed())
			Expect(m.Setup(ctx, pod, nil)).To(Succeed())
			Expect(filepath.Join(path, "small")).To(BeAnExistingFile())
			Expect(mountsBelow()).To(HaveLen(1))
			Expect(m.Teardown(ctx, pod.UID)).To(Succeed())
			Expect(mountsBelow()).To(BeEmpty())
			Expect(m.PodDir(pod.UID)).NotTo(BeADirectory())
			Expect(m.Teardown(ctx, pod.UID)).To(Succeed(), "again")
		})
	})

	Describe("secrets, downward API and projections", func() {
		It("lie in memory, with all sources in one volume", func(ctx context.Context) {
			item := corev1.DownwardAPIVolumeFile{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}
			limit := corev1.DownwardAPIVolumeFile{Path: "mem", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "app", Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}}
			pod := podWith(
				corev1.Volume{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "login", DefaultMode: to(int32(0o400))}}},
				corev1.Volume{Name: "d", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{item, limit}}}},
				corev1.Volume{Name: "p", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}},
					{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "login"}, Items: []corev1.KeyToPath{{Key: "user", Path: "a/user"}}}},
					{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{item}}},
				}}}},
			)
			Expect(m.Setup(ctx, pod, known)).To(Succeed())
			Expect(mountsBelow()).To(HaveLen(3))
			content := func(name, file string) string {
				GinkgoHelper()
				path, err := mount(ctx, pod, corev1.VolumeMount{Name: name})
				Expect(err).NotTo(HaveOccurred())
				data, err := os.ReadFile(filepath.Join(path, file))
				Expect(err).NotTo(HaveOccurred())
				return string(data)
			}
			Expect(content("s", "pass")).To(Equal("x"))
			Expect(content("d", "labels")).To(Equal(`app="web"`))
			Expect(content("d", "mem")).To(Equal("64"))
			Expect(content("p", "level")).To(Equal("debug"))
			Expect(content("p", "a/user")).To(Equal("joe"))
			pod.Labels["app"] = "other"
			Expect(m.Update(ctx, pod, known)).To(ConsistOf("d", "p"))
			Expect(content("d", "labels")).To(Equal(`app="other"`))
			Expect(m.Teardown(ctx, pod.UID)).To(Succeed())
			Expect(mountsBelow()).To(BeEmpty())
		})
	})

	It("gives volumes to fsGroup", func(ctx context.Context) {
		pod := podWith(emptyDir("e"), memoryDir(""), configMap("c", "settings"))
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: to(int64(4711))}
		pod.Spec.Volumes[2].ConfigMap.DefaultMode = to(int32(0o400))
		Expect(m.Setup(ctx, pod, known)).To(Succeed())
		check := func(name, file string, mode uint32) {
			GinkgoHelper()
			path, err := mount(ctx, pod, corev1.VolumeMount{Name: name})
			Expect(err).NotTo(HaveOccurred())
			var stat unix.Stat_t
			Expect(unix.Stat(filepath.Join(path, file), &stat)).To(Succeed())
			Expect(stat.Gid).To(Equal(uint32(4711)))
			Expect(stat.Mode & 0o7777).To(Equal(mode))
		}
		check("e", "", 0o2777)
		check("mem", "", 0o2777)
		check("c", "level", 0o440)
	})

	Describe("subPath", func() {
		var pod *corev1.Pod
		var base string
		BeforeEach(func(ctx context.Context) {
			pod = podWith(emptyDir("a"), configMap("c", "settings"))
			Expect(m.Setup(ctx, pod, known)).To(Succeed())
			var err error
			base, err = mount(ctx, pod, corev1.VolumeMount{Name: "a"})
			Expect(err).NotTo(HaveOccurred())
		})

		It("is made with the volume's mode and held by a mount", func(ctx context.Context) {
			source, err := mount(ctx, pod, corev1.VolumeMount{Name: "a", SubPathExpr: "logs/$(POD)"})
			Expect(err).NotTo(HaveOccurred())
			Expect(source).To(Equal(filepath.Join(root, "pods/u1/volume-subpaths/a/app/0")))
			info, err := os.Stat(filepath.Join(base, "logs/web"))
			Expect(err).NotTo(HaveOccurred())
			Expect(info.Mode().Perm()).To(Equal(os.FileMode(0o777)))
			Expect(os.WriteFile(filepath.Join(base, "logs/web/f"), nil, 0o600)).To(Succeed())
			Expect(filepath.Join(source, "f")).To(BeAnExistingFile())
			_, err = mount(ctx, pod, corev1.VolumeMount{Name: "a", SubPathExpr: "logs/$(POD)"})
			Expect(err).NotTo(HaveOccurred())
			Expect(mountsBelow()).To(HaveLen(1), "the same mount again")
			Expect(m.Teardown(ctx, pod.UID)).To(Succeed())
			Expect(mountsBelow()).To(BeEmpty())
		})

		It("may be a file, follows links inside, and takes a new file after an update", func(ctx context.Context) {
			source, err := mount(ctx, pod, corev1.VolumeMount{Name: "c", SubPath: "level"})
			Expect(err).NotTo(HaveOccurred())
			Expect(os.ReadFile(source)).To(BeEquivalentTo("debug"))
			newer := objects{configMaps: map[string]map[string]string{"shop/settings": {"level": "info"}}}
			_, err = m.Update(ctx, pod, newer)
			Expect(err).NotTo(HaveOccurred())
			Expect(os.ReadFile(source)).To(BeEquivalentTo("debug"), "held")
			source, err = mount(ctx, pod, corev1.VolumeMount{Name: "c", SubPath: "level"})
			Expect(err).NotTo(HaveOccurred())
			Expect(os.ReadFile(source)).To(BeEquivalentTo("info"), "a new container")
			Expect(mountsBelow()).To(HaveLen(1))
			_, err = mount(ctx, pod, corev1.VolumeMount{Name: "c", SubPath: "none"})
			Expect(err).To(MatchError(volume.ErrMissing))
		})

		DescribeTable("does not follow links out of its volume (CVE-2017-1002101)",
			func(ctx context.Context, link, target, sub string) {
				outside := filepath.Join(root, "outside")
				Expect(os.MkdirAll(filepath.Join(outside, "dir"), 0o700)).To(Succeed())
				Expect(os.MkdirAll(filepath.Join(base, "sub"), 0o700)).To(Succeed())
				Expect(os.Symlink(strings.ReplaceAll(target, "OUTSIDE", outside), filepath.Join(base, link))).To(Succeed())
				_, err := mount(ctx, pod, corev1.VolumeMount{Name: "a", SubPath: sub})
				Expect(err).To(MatchError(volume.ErrEscape))
				Expect(mountsBelow()).To(BeEmpty())
				Expect(filepath.Join(outside, "new")).NotTo(BeAnExistingFile())
			},
			Entry("absolute", "l", "OUTSIDE", "l"),
			Entry("absolute, below", "l", "OUTSIDE", "l/dir"),
			Entry("absolute, to be made", "l", "OUTSIDE", "l/new"),
			Entry("relative", "sub/l", "../../../../../..", "sub/l"),
			Entry("dangling", "l", "OUTSIDE/none", "l"),
			Entry("magic", "l", "/proc/self/root", "l"),
		)

		It("stays with the directory that was checked when it is swapped for a link (CVE-2021-25741)", func(ctx context.Context) {
			outside := filepath.Join(root, "outside")
			Expect(os.MkdirAll(outside, 0o700)).To(Succeed())
			Expect(os.WriteFile(filepath.Join(outside, "secret"), nil, 0o600)).To(Succeed())
			stop := make(chan struct{})
			done := make(chan struct{})
			Expect(os.Mkdir(filepath.Join(base, "x"), 0o700)).To(Succeed())
			Expect(os.Symlink(outside, filepath.Join(base, "l"))).To(Succeed())
			go func() {
				defer close(done)
				for {
					select {
					case <-stop:
						return
					default:
						_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(base, "x"), unix.AT_FDCWD, filepath.Join(base, "l"), unix.RENAME_EXCHANGE)
					}
				}
			}()
			good := 0
			for range 300 {
				source, err := mount(ctx, pod, corev1.VolumeMount{Name: "a", SubPath: "x"})
				if err != nil {
					Expect(err).To(MatchError(volume.ErrEscape))
					continue
				}
				good++
				Expect(filepath.Join(source, "secret")).NotTo(BeAnExistingFile())
			}
			close(stop)
			<-done
			Expect(good).To(BeNumerically(">", 0))
		})
	})

	Describe("Teardown", func() {
		It("does not touch what others mounted, nor what is beside it", func(ctx context.Context) {
			pod := podWith(emptyDir("a"))
			Expect(m.Setup(ctx, pod, nil)).To(Succeed())
			base, err := mount(ctx, pod, corev1.VolumeMount{Name: "a"})
			Expect(err).NotTo(HaveOccurred())
			data := filepath.Join(root, "user-data")
			Expect(os.Mkdir(data, 0o700)).To(Succeed())
			Expect(os.WriteFile(filepath.Join(data, "precious"), []byte("x"), 0o600)).To(Succeed())
			live := filepath.Join(base, "live")
			Expect(os.Mkdir(live, 0o700)).To(Succeed())
			Expect(unix.Mount(data, live, "", unix.MS_BIND, "")).To(Succeed())

			err = m.Teardown(ctx, pod.UID)
			Expect(err).To(MatchError(volume.ErrMounted))
			Expect(err).To(MatchError(ContainSubstring(live)))
			Expect(filepath.Join(data, "precious")).To(BeAnExistingFile())
			Expect(base).To(BeADirectory(), "nothing was removed")

			Expect(unix.Unmount(live, 0)).To(Succeed())
			Expect(os.Symlink(data, filepath.Join(base, "link"))).To(Succeed())
			Expect(m.Teardown(ctx, pod.UID)).To(Succeed())
			Expect(filepath.Join(data, "precious")).To(BeAnExistingFile())
		})

		It("removes trees deeper than there are descriptors", func(ctx context.Context) {
			pod := podWith(emptyDir("a"))
			Expect(m.Setup(ctx, pod, nil)).To(Succeed())
			base, err := mount(ctx, pod, corev1.VolumeMount{Name: "a"})
			Expect(err).NotTo(HaveOccurred())
			dir, err := unix.Open(base, unix.O_PATH|unix.O_DIRECTORY, 0)
			Expect(err).NotTo(HaveOccurred())
			for i := range 1500 {
				Expect(unix.Mkdirat(dir, "d", 0o700)).To(Succeed())
				next, err := unix.Openat(dir, "d", unix.O_PATH|unix.O_DIRECTORY, 0)
				Expect(err).NotTo(HaveOccurred(), fmt.Sprint(i))
				Expect(unix.Close(dir)).To(Succeed())
				dir = next
			}
			Expect(unix.Close(dir)).To(Succeed())
			Expect(m.Teardown(ctx, pod.UID)).To(Succeed())
			Expect(m.PodDir(pod.UID)).NotTo(BeADirectory())
		})

		It("is of use for any directory, and stops before a mount too", func(ctx context.Context) {
			dir := filepath.Join(root, "logs", "one")
			data, live := filepath.Join(root, "user-data"), filepath.Join(dir, "live")
			Expect(os.MkdirAll(live, 0o700)).To(Succeed())
			Expect(os.Mkdir(data, 0o700)).To(Succeed())
			Expect(os.WriteFile(filepath.Join(data, "precious"), []byte("x"), 0o600)).To(Succeed())
			Expect(os.Symlink(data, filepath.Join(dir, "link"))).To(Succeed())
			Expect(unix.Mount(data, live, "", unix.MS_BIND, "")).To(Succeed())
			Expect(volume.RemoveTree(ctx, dir)).To(MatchError(volume.ErrMounted))
			Expect(filepath.Join(dir, "link")).To(BeADirectory(), "nothing beside it is gone")
			Expect(unix.Unmount(live, 0)).To(Succeed())
			Expect(volume.RemoveTree(ctx, dir)).To(Succeed())
			Expect(dir).NotTo(BeADirectory())
			Expect(filepath.Join(data, "precious")).To(BeAnExistingFile())
			Expect(volume.RemoveTree(ctx, dir)).To(Succeed(), "it is gone")
			Expect(volume.RemoveTree(ctx, filepath.Join(data, "precious"))).NotTo(Succeed(), "no directory")
		})

		It("says that a volume is busy and can be called again", func(ctx context.Context) {
			pod := podWith(memoryDir(""))
			Expect(m.Setup(ctx, pod, nil)).To(Succeed())
			path, err := mount(ctx, pod, corev1.VolumeMount{Name: "mem"})
			Expect(err).NotTo(HaveOccurred())
			f, err := os.Create(filepath.Join(path, "open"))
			Expect(err).NotTo(HaveOccurred())
			Expect(m.Teardown(ctx, pod.UID)).To(MatchError(volume.ErrMounted))
			Expect(filepath.Join(path, "open")).To(BeAnExistingFile())
			Expect(f.Close()).To(Succeed())
			Expect(m.Teardown(ctx, pod.UID)).To(Succeed())
		})

		It("refuses a UID that is a path", func(ctx context.Context) {
			for _, uid := range []types.UID{"", ".", "..", "../x", "a/b"} {
				Expect(m.Teardown(ctx, uid)).To(MatchError(volume.ErrInvalid))
			}
		})
	})
})
