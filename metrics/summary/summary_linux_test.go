package summary_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	testclock "k8s.io/utils/clock/testing"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/metrics"
	"github.com/nodekit/nodekit/metrics/summary"
)

var update = flag.Bool("update", false, "rewrite testdata/*.golden")

func TestSummary(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "metrics/summary")
}

type fixed []metrics.Target

func (f fixed) Targets(context.Context) ([]metrics.Target, error) { return f, nil }

var epoch = time.Unix(1_800_000_000, 0).UTC()

var pods = fixed{
	{Cgroup: "/kubepods/pod1", Namespace: "default", Pod: "web", PodUID: "u1", PID: 101, StartedAt: epoch.Add(-time.Hour)},
	{Cgroup: "/kubepods/pod1/c1", Namespace: "default", Pod: "web", PodUID: "u1", Container: "app", ID: "c1", StartedAt: epoch.Add(-time.Minute)},
	{Cgroup: "/kubepods/pod1/c2", Namespace: "default", Pod: "web", PodUID: "u1", Container: "sidecar", ID: "c2", StartedAt: epoch.Add(-time.Minute)},
	{Cgroup: "/kubepods/pod1/exited", Namespace: "default", Pod: "web", PodUID: "u1", Container: "init", ID: "c0"},
}

// machine is a copy of the recorded machine.
func machine(list fixed) (dir string, clock *testclock.FakeClock, m *metrics.Meter) {
	GinkgoHelper()
	dir = GinkgoT().TempDir()
	Expect(os.CopyFS(dir, os.DirFS("../testdata/v2"))).To(Succeed())
	clock = testclock.NewFakeClock(epoch)
	m, err := metrics.New(metrics.Config{
		Targets: list, Clock: clock,
		CgroupRoot: dir + "/cgroup", ProcRoot: dir + "/proc", SysRoot: dir + "/sys",
	})
	Expect(err).NotTo(HaveOccurred())
	return dir, clock, m
}

func provider(cfg summary.Config) *summary.Provider {
	GinkgoHelper()
	cfg.NodeName = "n1"
	p, err := summary.New(cfg)
	Expect(err).NotTo(HaveOccurred())
	return p
}

func expectGolden(name string, value any) {
	GinkgoHelper()
	text, err := json.MarshalIndent(value, "", "  ")
	Expect(err).NotTo(HaveOccurred())
	path := filepath.Join("testdata", name)
	if *update {
		Expect(os.WriteFile(path, append(text, '\n'), 0o644)).To(Succeed())
	}
	want, err := os.ReadFile(path)
	Expect(err).NotTo(HaveOccurred())
	Expect(string(text) + "\n").To(Equal(string(want)))
}

var _ = Describe("Summary", func() {
	ctx := context.Background()

	It("has the kubelet's shape, whole and with CPU and memory only", func() {
		_, clock, m := machine(pods)
		p := provider(summary.Config{Meter: m})
		_, err := p.Summary(ctx, false)
		Expect(err).NotTo(HaveOccurred())
		clock.Step(10 * time.Second)
		s, err := p.Summary(ctx, false)
		Expect(err).NotTo(HaveOccurred())
		expectGolden("summary.golden", s)
		s, err = p.Summary(ctx, true)
		Expect(err).NotTo(HaveOccurred())
		expectGolden("summary-cpu-memory.golden", s)
	})

	It("has the kubelet's shape on v1 and its v2 tree for pressure too, with volumes", func() {
		claim := stats.VolumeStats{Name: "data", PVCRef: &stats.PVCReference{Name: "claim", Namespace: "default"}, FsStats: stats.FsStats{
			Time: metav1.NewTime(epoch), UsedBytes: new(uint64(4096)), InodesUsed: new(uint64(2)), CapacityBytes: new(uint64(1 << 30))}}
		clock := testclock.NewFakeClock(epoch)
		m, err := metrics.New(metrics.Config{Targets: pods[:2], Clock: clock,
			CgroupRoot: "../testdata/v1", ProcRoot: "../testdata/v2/proc", SysRoot: "../testdata/v2/sys"})
		Expect(err).NotTo(HaveOccurred())
		p := provider(summary.Config{Meter: m, Volumes: func(stats.PodReference) []stats.VolumeStats { return []stats.VolumeStats{claim} }})
		_, err = p.Summary(ctx, false)
		Expect(err).NotTo(HaveOccurred())
		clock.Step(10 * time.Second)
		s, err := p.Summary(ctx, false)
		Expect(err).NotTo(HaveOccurred())
		expectGolden("summary-v1.golden", s)
	})

	It("fills usageNanoCores from the history", func() {
		dir, clock, m := machine(pods)
		p := provider(summary.Config{Meter: m})
		s, err := p.Summary(ctx, true)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Pods[0].CPU.UsageNanoCores).To(BeNil()) // nothing to compare with yet
		for pod, usec := range map[string]int{"/kubepods/pod1": 6500001, "/kubepods/pod1/c1": 4000001} {
			text := fmt.Sprintf("usage_usec %d\nuser_usec 1\nsystem_usec 1\n", usec)
			Expect(os.WriteFile(dir+"/cgroup"+pod+"/cpu.stat", []byte(text), 0o644)).To(Succeed())
		}
		clock.Step(10 * time.Second)
		s, err = p.Summary(ctx, true)
		Expect(err).NotTo(HaveOccurred())
		Expect(*s.Pods[0].CPU.UsageNanoCores).To(Equal(uint64(500_000_000)))
		Expect(*s.Pods[0].Containers[0].CPU.UsageNanoCores).To(Equal(uint64(250_000_000)))
		Expect(*s.Pods[0].Containers[1].CPU.UsageNanoCores).To(BeZero())
	})

	It("shows a restarted container once, and system containers with the node", func() {
		list := append(fixed{}, pods...)
		again := list[1]
		again.Cgroup, again.ID, again.StartedAt = "/kubepods/pod1/c2", "c9", epoch
		list[2] = again
		list[3] = metrics.Target{Cgroup: "/kubepods", Container: "pods"}
		dir, _, m := machine(list)
		for _, file := range []string{"cpu.stat", "memory.current", "memory.stat"} {
			text, err := os.ReadFile(dir + "/cgroup/kubepods/pod1/" + file)
			Expect(err).NotTo(HaveOccurred())
			Expect(os.WriteFile(dir+"/cgroup/kubepods/"+file, text, 0o644)).To(Succeed())
		}
		s, err := provider(summary.Config{Meter: m}).Summary(ctx, false)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Pods).To(HaveLen(1))
		Expect(s.Pods[0].Containers).To(HaveLen(1))
		Expect(s.Pods[0].Containers[0].StartTime.Time).To(BeTemporally("==", epoch))
		Expect(s.Node.SystemContainers).To(HaveLen(1))
		Expect(s.Node.SystemContainers[0].Name).To(Equal("pods"))
	})

	It("has what is on disk where all of it is told, and no sum with a part missing", func() {
		GB := uint64(1 << 30)
		tell := map[string][2]metrics.DiskUse{
			"":        {{Bytes: 3 * GB, Inodes: 30, At: epoch}},
			"app":     {{Bytes: 5 * GB, Inodes: 50, At: epoch.Add(-time.Minute)}, {Bytes: GB, Inodes: 1, At: epoch}},
			"sidecar": {{Bytes: 7 * GB, Inodes: 70, At: epoch}, {Bytes: 2 * GB, Inodes: 2, At: epoch}},
		}
		list := append(fixed{{Cgroup: "/kubepods/pod1/c2", Namespace: "default", Pod: "web", PodUID: "u1", ID: "sandbox"}}, pods[:2]...)
		list = append(list, metrics.Target{Cgroup: "/kubepods", Container: "pods"})
		sidecar := pods[2]
		sidecar.Cgroup = "/kubepods/pod1/c3"
		list = append(list, sidecar)
		dir, clock, _ := machine(nil)
		for _, name := range []string{"/kubepods/pod1/c3", "/kubepods"} {
			Expect(os.MkdirAll(dir+"/cgroup"+name, 0o755)).To(Succeed())
			for _, file := range []string{"cpu.stat", "memory.current", "memory.stat"} {
				text, err := os.ReadFile(dir + "/cgroup/kubepods/pod1/" + file)
				Expect(err).NotTo(HaveOccurred())
				Expect(os.WriteFile(dir+"/cgroup"+name+"/"+file, text, 0o644)).To(Succeed())
			}
		}
		m, err := metrics.New(metrics.Config{
			Targets: list, Clock: clock, CgroupRoot: dir + "/cgroup", ProcRoot: dir + "/proc", SysRoot: dir + "/sys",
			OnDisk: func(t metrics.Target) (written, logs metrics.DiskUse) {
				Expect(t.Pod).To(Equal("web")) // no system container, and no sandbox
				Expect(t.Sandbox()).To(BeFalse())
				return tell[t.Container][0], tell[t.Container][1]
			},
		})
		Expect(err).NotTo(HaveOccurred())
		p := provider(summary.Config{Meter: m, NodeFS: dir, ImageFS: dir})
		s, err := p.Summary(ctx, false)
		Expect(err).NotTo(HaveOccurred())
		pod := s.Pods[0]
		Expect(pod.Containers).To(HaveLen(2)) // the sandbox is none
		app := pod.Containers[0]
		Expect([]uint64{*app.Rootfs.UsedBytes, *app.Rootfs.InodesUsed, *app.Logs.UsedBytes, *app.Logs.InodesUsed}).To(Equal([]uint64{5 * GB, 50, GB, 1}))
		Expect(app.Rootfs.Time.Time).To(BeTemporally("==", epoch.Add(-time.Minute)))
		Expect(app.Rootfs.CapacityBytes).To(Equal(s.Node.Runtime.ImageFs.CapacityBytes))
		Expect(app.Logs.Inodes).To(Equal(s.Node.Fs.Inodes))
		Expect([]uint64{*pod.EphemeralStorage.UsedBytes, *pod.EphemeralStorage.InodesUsed}).To(Equal([]uint64{18 * GB, 153}))
		Expect(pod.EphemeralStorage.Time.Time).To(BeTemporally("==", epoch.Add(-time.Minute)))
		Expect(pod.EphemeralStorage.AvailableBytes).To(Equal(s.Node.Fs.AvailableBytes))
		only, err := p.Summary(ctx, true)
		Expect(err).NotTo(HaveOccurred())
		Expect([]any{only.Pods[0].EphemeralStorage, only.Pods[0].Containers[0].Rootfs}).To(HaveEach(BeNil()))

		tell["sidecar"] = [2]metrics.DiskUse{{Bytes: 1, At: epoch}} // no logs
		clock.Step(time.Hour)
		s, err = p.Summary(ctx, false)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Pods[0].EphemeralStorage).To(BeNil())
		Expect(s.Pods[0].Containers[1].Logs).To(BeNil())
		Expect(*s.Pods[0].Containers[1].Rootfs.UsedBytes).To(Equal(uint64(1)))
	})

	It("has the volumes that it is told of, but not with CPU and memory only", func() {
		_, _, m := machine(pods)
		told := []stats.VolumeStats{{Name: "b", PVCRef: &stats.PVCReference{Name: "claim", Namespace: "default"}}, {Name: "a"}}
		var asked []stats.PodReference
		p := provider(summary.Config{Meter: m, Volumes: func(pod stats.PodReference) []stats.VolumeStats {
			asked = append(asked, pod)
			return told
		}})
		s, err := p.Summary(ctx, false)
		Expect(err).NotTo(HaveOccurred())
		Expect(asked).To(Equal([]stats.PodReference{{Name: "web", Namespace: "default", UID: "u1"}}))
		Expect(s.Pods[0].VolumeStats).To(Equal(told))
		s, err = p.Summary(ctx, true)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Pods[0].VolumeStats).To(BeEmpty())
		Expect(asked).To(HaveLen(1))
	})

	It("tells of a volume on the file system around it what was counted", func() {
		dir := GinkgoT().TempDir() + "/volume"
		Expect(os.Mkdir(dir, 0o755)).To(Succeed())
		var st unix.Statfs_t
		Expect(unix.Statfs(dir, &st)).To(Succeed())
		v, err := summary.VolumeAt("data", dir, metrics.DiskUse{Bytes: 7, Inodes: 2, At: epoch})
		Expect(err).NotTo(HaveOccurred())
		Expect([]uint64{*v.UsedBytes, *v.InodesUsed, *v.CapacityBytes, *v.Inodes}).To(Equal([]uint64{7, 2, st.Blocks * uint64(st.Frsize), st.Files}))
		Expect(*v.AvailableBytes).To(BeNumerically("<=", *v.CapacityBytes))
		Expect(v.Name).To(Equal("data"))
		Expect(v.Time.Time).To(BeTemporally("==", epoch))
		Expect(os.Symlink(dir, dir+"-link")).To(Succeed())
		v, err = summary.VolumeAt("data", dir+"-link", metrics.DiskUse{})
		Expect(err).NotTo(HaveOccurred())
		Expect([]*uint64{v.UsedBytes, v.InodesUsed}).To(HaveEach(BeNil()))
		Expect(*v.Inodes).To(Equal(st.Files))
		_, err = summary.VolumeAt("data", dir+"/nowhere", metrics.DiskUse{})
		Expect(err).To(MatchError(os.ErrNotExist))
	})

	It("tells of a volume with a file system of its own what that has", Label("kernel"), func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root)
		dir := GinkgoT().TempDir() + "/volume"
		Expect(os.Mkdir(dir, 0o755)).To(Succeed())
		Expect(unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,nr_inodes=100")).To(Succeed())
		DeferCleanup(func() { Expect(unix.Unmount(dir, unix.MNT_DETACH)).To(Succeed()) })
		Expect(os.WriteFile(dir+"/file", make([]byte, 64<<10), 0o600)).To(Succeed())
		v, err := summary.VolumeAt("fast", dir+"/", metrics.DiskUse{Bytes: 1, Inodes: 1, At: epoch})
		Expect(err).NotTo(HaveOccurred())
		Expect([]uint64{*v.UsedBytes, *v.AvailableBytes, *v.CapacityBytes, *v.InodesUsed, *v.InodesFree, *v.Inodes}).To(
			Equal([]uint64{64 << 10, 1<<20 - 64<<10, 1 << 20, 2, 98, 100}))
		Expect(v.Time.Time).To(BeTemporally("~", time.Now(), time.Minute))
	})

	It("asks the file systems that it is told of", func() {
		_, _, m := machine(nil)
		dir := GinkgoT().TempDir()
		s, err := provider(summary.Config{Meter: m, NodeFS: dir, ImageFS: dir}).Summary(ctx, false)
		Expect(err).NotTo(HaveOccurred())
		Expect(*s.Node.Fs.CapacityBytes).To(BeNumerically(">=", *s.Node.Fs.AvailableBytes))
		Expect(*s.Node.Fs.UsedBytes).To(BeNumerically(">", 0))
		Expect(s.Node.Runtime.ImageFs).NotTo(BeNil())
		s, err = provider(summary.Config{Meter: m, NodeFS: dir + "/nowhere"}).Summary(ctx, false)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.Node.Fs).To(BeNil())
	})

	It("hands on errors, and reports all bad fields together", func() {
		_, err := provider(summary.Config{Meter: broken{}}).Summary(ctx, false)
		Expect(err).To(MatchError("no hierarchy"))
		_, err = summary.New(summary.Config{MaxAge: -1})
		Expect(err).To(MatchError(And(ContainSubstring("Meter"), ContainSubstring("NodeName"), ContainSubstring("MaxAge"))))
	})
})

type broken struct{}

func (broken) Samples(context.Context, time.Duration) ([]metrics.Sample, error) {
	return nil, errors.New("no hierarchy")
}

func Example() {
	meter, err := metrics.New(metrics.Config{
		Targets: pods, CgroupRoot: "../testdata/v2/cgroup", ProcRoot: "../testdata/v2/proc", SysRoot: "../testdata/v2/sys",
	})
	if err != nil {
		log.Fatal(err)
	}
	p, err := summary.New(summary.Config{Meter: meter, NodeName: "n1"})
	if err != nil {
		log.Fatal(err)
	}
	s, err := p.Summary(context.Background(), false)
	if err != nil {
		log.Fatal(err)
	}
	for _, pod := range s.Pods {
		for _, c := range pod.Containers {
			fmt.Println(pod.PodRef.Namespace, pod.PodRef.Name, c.Name, *c.CPU.UsageCoreNanoSeconds, *c.Memory.WorkingSetBytes)
		}
	}
	// Output:
	// default web app 1500001000 50331648
	// default web sidecar 2000000000 16777216
}
