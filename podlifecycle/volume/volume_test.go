package volume_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodekit/nodekit/podlifecycle/volume"
)

var _ = Describe("volumes that need no root", func() {
	var root string
	var m *volume.Manager
	var known objects

	BeforeEach(func() {
		root = GinkgoT().TempDir()
		var err error
		m, err = volume.New(volume.Config{Root: root})
		Expect(err).NotTo(HaveOccurred())
		known = objects{configMaps: map[string]map[string]string{"shop/settings": {"level": "debug", "b.conf": "two"}}}
	})
	dirOf := func(name string) string {
		return filepath.Join(root, "pods/u1/volumes/kubernetes.io~configmap", name)
	}
	read := func(parts ...string) string {
		GinkgoHelper()
		data, err := os.ReadFile(filepath.Join(parts...))
		Expect(err).NotTo(HaveOccurred())
		return string(data)
	}

	It("refuses a root that is not absolute, and names that are paths", func(ctx context.Context) {
		_, err := volume.New(volume.Config{Root: "x"})
		Expect(err).To(MatchError(ContainSubstring("not absolute")))
		pod := podWith()
		for _, uid := range []types.UID{"", "..", "a/b", ".hidden"} {
			pod.UID = uid
			Expect(m.Setup(ctx, pod, nil)).To(MatchError(volume.ErrInvalid))
		}
		Expect(m.Setup(ctx, podWith(emptyDir("../x")), nil)).To(MatchError(volume.ErrInvalid))
	})

	It("makes an emptyDir once, with its mode", func(ctx context.Context) {
		pod := podWith(emptyDir("a"), emptyDir("b"))
		pod.Spec.Volumes[1].EmptyDir.Mode = to(int32(0o1750))
		Expect(m.Setup(ctx, pod, nil)).To(Succeed())
		mounts, err := m.Mounts(ctx, pod, &corev1.Container{Name: "app", VolumeMounts: []corev1.VolumeMount{
			{Name: "a", MountPath: "/a"}, {Name: "b", MountPath: "b", ReadOnly: true, MountPropagation: to(corev1.MountPropagationHostToContainer)}}}, nil)
		Expect(err).NotTo(HaveOccurred())
		Expect(mounts).To(HaveLen(2))
		Expect(mounts[0].Destination).To(Equal("/a"))
		Expect(mounts[0].Type).To(Equal("bind"))
		Expect(mounts[0].Options).To(Equal([]string{"rbind", "rprivate", "rw"}))
		Expect(mounts[1].Destination).To(Equal("/b"))
		Expect(mounts[1].Options).To(Equal([]string{"rbind", "rslave", "ro"}))
		info, err := os.Stat(mounts[0].Source)
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode().Perm()).To(Equal(os.FileMode(0o777)))
		info, err = os.Stat(mounts[1].Source)
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode()).To(Equal(os.ModeDir | os.ModeSticky | 0o750))

		Expect(os.WriteFile(filepath.Join(mounts[0].Source, "data"), []byte("x"), 0o600)).To(Succeed())
		Expect(os.Chmod(mounts[0].Source, 0o700)).To(Succeed())
		Expect(m.Setup(ctx, pod, nil)).To(Succeed())
		Expect(read(mounts[0].Source, "data")).To(Equal("x"))
		info, err = os.Stat(mounts[0].Source)
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode().Perm()).To(Equal(os.FileMode(0o700)), "it belongs to the pod by now")
		Expect(m.Pods()).To(Equal([]types.UID{"u1"}))
	})

	It("finishes an emptyDir whose making was interrupted", func(ctx context.Context) {
		Expect(os.MkdirAll(filepath.Join(root, "pods/u1/volumes/kubernetes.io~empty-dir/.a"), 0o700)).To(Succeed())
		Expect(m.Setup(ctx, podWith(emptyDir("a")), nil)).To(Succeed())
		entries, err := os.ReadDir(filepath.Join(root, "pods/u1/volumes/kubernetes.io~empty-dir"))
		Expect(err).NotTo(HaveOccurred())
		Expect(entries).To(HaveLen(1))
		Expect(entries[0].Name()).To(Equal("a"))
	})

	Describe("a configMap", func() {
		It("has a file for each key, or for those that are named", func(ctx context.Context) {
			pod := podWith(configMap("all", "settings"), configMap("some", "settings",
				corev1.KeyToPath{Key: "level", Path: "deep/er/level", Mode: to(int32(0o400))}))
			pod.Spec.Volumes[1].ConfigMap.DefaultMode = to(int32(0o600))
			Expect(m.Setup(ctx, pod, known)).To(Succeed())
			Expect(read(dirOf("all"), "level")).To(Equal("debug"))
			Expect(read(dirOf("all"), "b.conf")).To(Equal("two"))
			Expect(read(dirOf("some"), "deep/er/level")).To(Equal("debug"))
			info, err := os.Stat(filepath.Join(dirOf("some"), "deep/er/level"))
			Expect(err).NotTo(HaveOccurred())
			Expect(info.Mode()).To(Equal(os.FileMode(0o400)))
			info, err = os.Stat(filepath.Join(dirOf("all"), "level"))
			Expect(err).NotTo(HaveOccurred())
			Expect(info.Mode()).To(Equal(os.FileMode(0o644)))
			mounts, err := m.Mounts(ctx, pod, &corev1.Container{Name: "app", VolumeMounts: []corev1.VolumeMount{{Name: "all", MountPath: "/a"}}}, nil)
			Expect(err).NotTo(HaveOccurred())
			Expect(mounts[0].Options).To(Equal([]string{"rbind", "rprivate", "ro"}), "nobody writes into content")
		})

		It("is changed in one step, and only if it changed", func(ctx context.Context) {
			pod := podWith(configMap("c", "settings"), configMap("same", "settings", corev1.KeyToPath{Key: "level", Path: "level"}))
			Expect(m.Update(ctx, pod, known)).To(BeEmpty(), "nothing was set up")
			Expect(m.Setup(ctx, pod, known)).To(Succeed())
			Expect(m.Update(ctx, pod, known)).To(BeEmpty())
			first, err := os.Readlink(filepath.Join(dirOf("c"), "..data"))
			Expect(err).NotTo(HaveOccurred())

			known.configMaps["shop/settings"] = map[string]string{"level": "debug", "new": "n"}
			Expect(m.Update(ctx, pod, known)).To(Equal([]string{"c"}))
			Expect(read(dirOf("c"), "new")).To(Equal("n"))
			Expect(filepath.Join(dirOf("c"), "b.conf")).NotTo(BeAnExistingFile())
			Expect(filepath.Join(dirOf("c"), first)).NotTo(BeADirectory())
			entries, err := os.ReadDir(dirOf("c"))
			Expect(err).NotTo(HaveOccurred())
			Expect(entries).To(HaveLen(4), "two links, ..data and its directory: %v", entries)
		})

		It("never shows parts of two versions", func(ctx context.Context) {
			pod := podWith(configMap("c", "settings"))
			set := func(value string) {
				known.configMaps["shop/settings"] = map[string]string{"a": value, "b": value}
			}
			set("0")
			Expect(m.Setup(ctx, pod, known)).To(Succeed())
			stop := make(chan struct{})
			var wg sync.WaitGroup
			torn := make(chan string, 1)
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					// Through one directory, as a reader that wants consistency does.
					data, err := os.OpenRoot(filepath.Join(dirOf("c"), "..data"))
					if err != nil {
						continue
					}
					a, errA := data.ReadFile("a")
					b, errB := data.ReadFile("b")
					_ = data.Close()
					if errA == nil && errB == nil && string(a) != string(b) {
						select {
						case torn <- string(a) + string(b):
						default:
						}
					}
				}
			})
			for i := range 50 {
				set(fmt.Sprint(i % 10))
				_, err := m.Update(ctx, pod, known)
				Expect(err).NotTo(HaveOccurred())
			}
			close(stop)
			wg.Wait()
			Expect(torn).NotTo(Receive())
		})

		It("names what is missing, and makes the other volumes", func(ctx context.Context) {
			pod := podWith(configMap("none", "nothing"), configMap("key", "settings", corev1.KeyToPath{Key: "nope", Path: "p"}), emptyDir("good"))
			err := m.Setup(ctx, pod, known)
			Expect(err).To(MatchError(volume.ErrMissing))
			Expect(err).To(MatchError("pod shop/web: spec.volumes[0].configMap.name: volume none: ConfigMap shop/nothing: not found\n" +
				`pod shop/web: spec.volumes[1].configMap.items[0].key: volume key: key "nope" of ConfigMap shop/settings: not found`))
			Expect(filepath.Join(root, "pods/u1/volumes/kubernetes.io~empty-dir/good")).To(BeADirectory())
		})

		It("may be missing when it is optional, and may come later", func(ctx context.Context) {
			pod := podWith(configMap("c", "later", corev1.KeyToPath{Key: "k", Path: "k"}))
			pod.Spec.Volumes[0].ConfigMap.Optional = to(true)
			Expect(m.Setup(ctx, pod, known)).To(Succeed())
			known.configMaps["shop/later"] = map[string]string{"other": "x"}
			Expect(m.Update(ctx, pod, known)).To(BeEmpty())
			known.configMaps["shop/later"] = map[string]string{"k": "v"}
			Expect(m.Update(ctx, pod, known)).To(Equal([]string{"c"}))
			Expect(read(dirOf("c"), "k")).To(Equal("v"))
		})

		It("keeps its content when the object goes missing", func(ctx context.Context) {
			pod := podWith(configMap("c", "settings"))
			Expect(m.Setup(ctx, pod, known)).To(Succeed())
			changed, err := m.Update(ctx, pod, objects{})
			Expect(err).To(MatchError(volume.ErrMissing))
			Expect(changed).To(BeEmpty())
			Expect(read(dirOf("c"), "level")).To(Equal("debug"))
		})

		It("mends what an interrupted write left", func(ctx context.Context) {
			pod := podWith(configMap("c", "settings"))
			Expect(m.Setup(ctx, pod, known)).To(Succeed())
			Expect(os.Remove(filepath.Join(dirOf("c"), "level"))).To(Succeed())
			Expect(os.Symlink("..vnone", filepath.Join(dirOf("c"), "..data_tmp"))).To(Succeed())
			Expect(os.MkdirAll(filepath.Join(dirOf("c"), "..vhalf"), 0o700)).To(Succeed())
			Expect(os.WriteFile(filepath.Join(dirOf("c"), "..data", "b.conf"), nil, 0o600)).To(Succeed()) // lost with power
			Expect(m.Setup(ctx, pod, known)).To(Succeed())
			Expect(read(dirOf("c"), "level")).To(Equal("debug"))
			Expect(read(dirOf("c"), "b.conf")).To(Equal("two"))
			Expect(filepath.Join(dirOf("c"), "..vhalf")).NotTo(BeADirectory())
			_, err := os.Lstat(filepath.Join(dirOf("c"), "..data_tmp"))
			Expect(err).To(MatchError(os.ErrNotExist))
		})

		DescribeTable("keeps paths inside",
			func(ctx context.Context, path string, want error) {
				err := m.Setup(ctx, podWith(configMap("c", "settings", corev1.KeyToPath{Key: "level", Path: path})), known)
				Expect(err).To(MatchError(want))
			},
			Entry("up", "../x", volume.ErrEscape),
			Entry("up later", "a/../../x", volume.ErrEscape),
			Entry("absolute", "/etc/x", volume.ErrEscape),
			Entry("our own names", "..data", volume.ErrEscape),
			Entry("nothing", "", volume.ErrEscape),
		)
		It("cannot be a file and a directory", func(ctx context.Context) {
			err := m.Setup(ctx, podWith(configMap("c", "settings", corev1.KeyToPath{Key: "level", Path: "a"}, corev1.KeyToPath{Key: "level", Path: "a/b"})), known)
			Expect(err).To(MatchError(volume.ErrInvalid))
		})
	})

	Describe("a hostPath", func() {
		DescribeTable("is of its type",
			func(ctx context.Context, kind corev1.HostPathType, there string, ok bool) {
				path := filepath.Join(root, "host")
				switch there {
				case "dir":
					Expect(os.Mkdir(path, 0o700)).To(Succeed())
				case "file":
					Expect(os.WriteFile(path, nil, 0o600)).To(Succeed())
				case "socket":
					listener, err := net.Listen("unix", path)
					Expect(err).NotTo(HaveOccurred())
					DeferCleanup(listener.Close)
				case "device":
					path = "/dev/null"
				}
				err := m.Setup(ctx, podWith(hostPathOf("h", path, kind)), nil)
				if ok {
					Expect(err).NotTo(HaveOccurred())
					Expect(os.Stat(path)).NotTo(BeNil())
				} else {
					Expect(err).To(MatchError(volume.ErrHostPath))
					Expect(err).To(MatchError(HavePrefix("pod shop/web: spec.volumes[0].hostPath: volume h: ")))
				}
			},
			Entry("unset makes a directory", corev1.HostPathUnset, "", true),
			Entry("unset takes anything", corev1.HostPathUnset, "socket", true),
			Entry("directory", corev1.HostPathDirectory, "dir", true),
			Entry("directory missing", corev1.HostPathDirectory, "", false),
			Entry("directory is a file", corev1.HostPathDirectory, "file", false),
			Entry("directory made", corev1.HostPathDirectoryOrCreate, "", true),
			Entry("directory or create is a file", corev1.HostPathDirectoryOrCreate, "file", false),
			Entry("file", corev1.HostPathFile, "file", true),
			Entry("file missing", corev1.HostPathFile, "", false),
			Entry("file made", corev1.HostPathFileOrCreate, "", true),
			Entry("file is a directory", corev1.HostPathFileOrCreate, "dir", false),
			Entry("socket", corev1.HostPathSocket, "socket", true),
			Entry("socket is a file", corev1.HostPathSocket, "file", false),
			Entry("device", corev1.HostPathCharDev, "device", true),
			Entry("device is a file", corev1.HostPathCharDev, "file", false),
			Entry("block device is another", corev1.HostPathBlockDev, "device", false),
		)
	})

	It("names the mount of a volume that is not there", func(ctx context.Context) {
		pod := podWith()
		_, err := m.Mounts(ctx, pod, &corev1.Container{Name: "app", VolumeMounts: []corev1.VolumeMount{{Name: "x", MountPath: "/x"}}}, nil)
		Expect(err).To(MatchError("pod shop/web: spec.containers[0].volumeMounts[0].name: volume x: not found"))
	})

	It("refuses sub-paths that climb, and variables that nobody set", func(ctx context.Context) {
		pod := podWith(emptyDir("a"))
		Expect(m.Setup(ctx, pod, nil)).To(Succeed())
		mount := func(mount corev1.VolumeMount) error {
			mount.Name, mount.MountPath = "a", "/a"
			_, err := m.Mounts(ctx, pod, &corev1.Container{Name: "app", VolumeMounts: []corev1.VolumeMount{mount}}, []string{"UP=.."})
			return err
		}
		Expect(mount(corev1.VolumeMount{SubPath: "../b"})).To(MatchError(volume.ErrEscape))
		Expect(mount(corev1.VolumeMount{SubPath: "/etc"})).To(MatchError(volume.ErrEscape))
		Expect(mount(corev1.VolumeMount{SubPathExpr: "x/$(UP)/.."})).To(MatchError(volume.ErrEscape))
		Expect(mount(corev1.VolumeMount{SubPathExpr: "$(NONE)"})).To(MatchError(ContainSubstring(`spec.containers[0].volumeMounts[0].subPathExpr: volume a: expand "$(NONE)": variable NONE: not found`)))
	})

	It("ends with its context", func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		Expect(m.Setup(ctx, podWith(emptyDir("a")), nil)).To(MatchError(context.Canceled))
	})
})

func ExampleManager() {
	root, _ := os.MkdirTemp("", "nodekit")
	defer func() { _ = os.RemoveAll(root) }()
	volumes, _ := volume.New(volume.Config{Root: root})

	pod := podWith(configMap("settings", "settings"))
	known := objects{configMaps: map[string]map[string]string{"shop/settings": {"level": "debug"}}}
	ctx := context.Background()
	fmt.Println(volumes.Setup(ctx, pod, known))

	known.configMaps["shop/settings"]["level"] = "info"
	fmt.Println(volumes.Update(ctx, pod, known))
	level, _ := os.ReadFile(filepath.Join(volumes.PodDir(pod.UID), "volumes/kubernetes.io~configmap/settings/level"))
	fmt.Println(string(level))
	// Output:
	// <nil>
	// [settings] <nil>
	// info
}
