package e2e_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

var _ = Describe("figures", func() {
	It("a crashing container is away for a moment the first time, then for the back-off", func() {
		n := newNode()
		n.start()
		var away []time.Duration
		for i := range 10 {
			pod := fmt.Sprintf("crash-%d", i)
			Expect(n.Write(pod+".json", single(pod, "exit", "3"))).To(Succeed())
			Eventually(func(g Gomega) {
				second, err := n.log(pod, "main", 1)
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(second).NotTo(BeEmpty())
				first, err := n.log(pod, "main", 0)
				g.Expect(err).NotTo(HaveOccurred())
				away = append(away, second[0].Time.Sub(first[len(first)-1].Time))
			}).WithTimeout(time.Minute).Should(Succeed())
		}
		slices.Sort(away)
		AddReportEntry("from the last line of the first run to the first line of the second", fmt.Sprint(away), ReportEntryVisibilityAlways)

		By("the second restart waits 10 s, and says so")
		Eventually(func(g Gomega) {
			status := n.pod("crash-9").Status.ContainerStatuses[0]
			g.Expect(status.RestartCount).To(BeEquivalentTo(1))
			g.Expect(status.State.Waiting).NotTo(BeNil())
			g.Expect(status.State.Waiting.Reason).To(Equal("CrashLoopBackOff"))
			g.Expect(status.LastTerminationState.Terminated.ExitCode).To(BeEquivalentTo(3))
		}).WithTimeout(time.Minute).Should(Succeed())
		var waited time.Duration
		Eventually(func(g Gomega) {
			third, err := n.log("crash-9", "main", 2)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(third).NotTo(BeEmpty())
			second, err := n.log("crash-9", "main", 1)
			g.Expect(err).NotTo(HaveOccurred())
			waited = third[0].Time.Sub(second[len(second)-1].Time)
		}).WithTimeout(time.Minute).Should(Succeed())
		Expect(waited).To(BeNumerically(">=", 10*time.Second))
		AddReportEntry("the second restart came after", waited, ReportEntryVisibilityAlways)
	})

	It("half a CPU-second burnt and 64 MiB touched are metered", func() {
		n := newNode()
		Expect(n.Write("work.json", single("work", "web"))).To(Succeed())
		n.start()
		direct := "http://" + n.awaitReady("work")["work"].Status.PodIP + ":8080"
		main := func() (cpu, memory uint64) {
			summary := n.summary()
			pod := slices.IndexFunc(summary.Pods, func(p stats.PodStats) bool { return p.PodRef.Name == "work" })
			Expect(pod).To(BeNumerically(">=", 0))
			container := summary.Pods[pod].Containers[0]
			return *container.CPU.UsageCoreNanoSeconds, *container.Memory.RSSBytes
		}
		settle := func() (cpu, memory uint64) { // two samples later the figures are of after the work
			time.Sleep(2500 * time.Millisecond)
			return main()
		}
		Eventually(func() error { // it listens, and is warm: the next call costs itself only
			_, err := n.Do("POST", direct+"/burn?cpu=10ms")
			return err
		}).Should(Succeed())
		cpu, _ := settle()
		idle0, _ := settle()
		burnt, err := n.Do("POST", direct+"/burn?cpu=500ms")
		Expect(err).NotTo(HaveOccurred())
		want, err := time.ParseDuration(strings.TrimSpace(burnt))
		Expect(err).NotTo(HaveOccurred())
		after, rss := settle()
		idle := time.Duration(idle0 - cpu) // what the program spends on living through as long a while
		got := time.Duration(after-idle0) - idle
		AddReportEntry("burnt", fmt.Sprintf("%v, metered %v", want, got), ReportEntryVisibilityAlways)
		Expect(got).To(BeNumerically("~", want, max(2*time.Millisecond, want/100)))

		size, err := n.Do("POST", direct+"/touch?mib=64")
		Expect(err).NotTo(HaveOccurred())
		bytes, err := strconv.ParseInt(strings.TrimSpace(size), 10, 64)
		Expect(err).NotTo(HaveOccurred())
		_, grown := settle()
		AddReportEntry("touched", fmt.Sprintf("%d bytes, metered %d", bytes, grown-rss), ReportEntryVisibilityAlways)
		Expect(int64(grown-rss)).To(BeNumerically("~", bytes, 1<<20), "beside the server's own garbage; metrics' tests hold 64 KiB with a program that does nothing else")
	})

	It("the Summary tells volumes, layers and logs as they are on disk", func() {
		n := newNode()
		n.start("--disk-interval", "500ms")
		Expect(n.Write("map.json", `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "words"}, "data": {"a": "b"}}`)).To(Succeed())
		Expect(n.Write("disk.json", singleWith("disk", `"args": ["web"], "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "fast", "mountPath": "/fast"}]`,
			`"volumes": [{"name": "data", "emptyDir": {}}, {"name": "fast", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
{"name": "words", "configMap": {"name": "words"}}, {"name": "host", "hostPath": {"path": "/proc"}}],`))).To(Succeed())
		uid := n.awaitReady("disk")["disk"].UID
		volumes := filepath.Join(n.State, "pods", "pods", string(uid), "volumes")
		data := filepath.Join(volumes, "kubernetes.io~empty-dir", "data")
		Expect(os.WriteFile(filepath.Join(data, "file"), make([]byte, 3<<20), 0o600)).To(Succeed())
		var under unix.Statfs_t
		Expect(unix.Statfs(data, &under)).To(Succeed())
		Eventually(func(g Gomega) {
			summary := n.summary()
			at := slices.IndexFunc(summary.Pods, func(p stats.PodStats) bool { return p.PodRef.Name == "disk" })
			g.Expect(at).To(BeNumerically(">=", 0))
			pod := summary.Pods[at]
			g.Expect(pod.VolumeStats).To(HaveLen(3), "the host's is not the pod's")
			onDisk, inMemory, words := pod.VolumeStats[0], pod.VolumeStats[1], pod.VolumeStats[2]
			g.Expect([]string{onDisk.Name, inMemory.Name, words.Name}).To(Equal([]string{"data", "fast", "words"}))
			g.Expect(*onDisk.UsedBytes).To(Equal(diskUse(g, data)))
			g.Expect(*onDisk.InodesUsed).To(Equal(uint64(2)))
			g.Expect(*onDisk.CapacityBytes).To(Equal(under.Blocks * uint64(under.Frsize)))
			g.Expect(*inMemory.CapacityBytes).To(Equal(uint64(8 << 20)))
			g.Expect(*inMemory.UsedBytes).To(BeZero())
			g.Expect(*words.UsedBytes).To(Equal(diskUse(g, filepath.Join(volumes, "kubernetes.io~configmap", "words"))))
			g.Expect(pod.EphemeralStorage).NotTo(BeNil())
			container := pod.Containers[0]
			g.Expect(container.Rootfs).NotTo(BeNil())
			g.Expect(container.Logs).NotTo(BeNil())
			g.Expect(*pod.EphemeralStorage.UsedBytes).To(Equal(*onDisk.UsedBytes + *words.UsedBytes + *container.Rootfs.UsedBytes + *container.Logs.UsedBytes))
		}).WithTimeout(2 * time.Minute).Should(Succeed()) // OnDisk is asked each 30 s
	})

	It("the quickstart checks itself with --once, ends with 0 and leaves nothing", func() {
		n := newNode()
		n.examples()
		n.launch("--once")
		Expect(n.agent.Wait(2*time.Minute)).To(Succeed(), n.agent.Output.String())
		AddReportEntry("it said", n.agent.Output.String(), ReportEntryVisibilityAlways)
		n.agent = nil
	})

	It("says why --once failed, and ends with another code", func() {
		n := newNode()
		n.examples()
		Expect(n.Delete("web-2.yaml")).To(Succeed())
		n.launch("--once", "--timeout", "15s")
		Expect(n.agent.Wait(time.Minute)).To(HaveOccurred())
		Expect(n.agent.Output.String()).To(ContainSubstring("web-2"))
		n.agent = nil
	})
})

// diskUse adds up the blocks of a directory's files, as du does.
func diskUse(g Gomega, dir string) (bytes uint64) {
	g.Expect(filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		bytes += uint64(st.Blocks) * 512
		return nil
	})).To(Succeed())
	return bytes
}
