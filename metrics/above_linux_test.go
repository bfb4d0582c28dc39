package metrics_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/metrics"
)

const (
	appDir     = "cgroup/kubepods/pod1/c1"
	someEvents = "low 0\nhigh %d\nmax 4\noom 1\noom_kill %d\n"
	someIO     = "8:0 rbytes=%d wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n"
)

// The recorded v2 machine, where a file is changed and that above it is not: only
// so can be seen that it was not read.
var _ = Describe("a file whose sum above has not changed", func() {
	// begin meters the machine until all is known that can be.
	begin := func(t *machineTree, descriptors int) *metrics.Meter {
		GinkgoHelper()
		m := t.running(descriptors)
		for range 2 {
			t.clock.Step(time.Second)
			figure(m, appTarget.Cgroup, metrics.CPUUsage, 0)
		}
		return m
	}
	// now is a figure of the app after a new round.
	now := func(t *machineTree, m *metrics.Meter, f metrics.Field) uint64 {
		GinkgoHelper()
		t.clock.Step(time.Second)
		return figure(m, appTarget.Cgroup, f, 0)
	}
	// summing makes the tree one whose events are summed.
	summing := func() *machineTree {
		GinkgoHelper()
		t := newTree()
		t.write("cgroup/kubepods/pod1/memory.events.local", "low 0\n")
		t.write(appDir+"/memory.events", fmt.Sprintf(someEvents, 7, 1))
		t.write(appDir+"/io.stat", fmt.Sprintf(someIO, 4096))
		return t
	}

	for name, descriptors := range map[string]int{"kept": 0, "openat": -1} {
		It("is that of memory's events, "+name, func() {
			t := summing()
			m := begin(t, descriptors)
			spared := m.Stats().Spared
			t.write(appDir+"/memory.events", fmt.Sprintf(someEvents, 9, 3))
			Expect(now(t, m, metrics.MemoryEventsHigh)).To(Equal(uint64(7)))
			Expect(figure(m, appTarget.Cgroup, metrics.OOMKills, time.Hour)).To(Equal(uint64(1)))
			Expect(m.Stats().Spared).To(BeNumerically(">", spared))
			t.write("cgroup/kubepods/pod1/memory.events", fmt.Sprintf(someEvents, 99, 3))
			Expect(now(t, m, metrics.MemoryEventsHigh)).To(Equal(uint64(9)))
			Expect(figure(m, appTarget.Cgroup, metrics.OOMKills, time.Hour)).To(Equal(uint64(3)))
		})
	}

	It("is read while the sum above cannot be", func() {
		t := summing()
		m := begin(t, 0)
		t.write("cgroup/kubepods/pod1/memory.events", "low 0\nhigh") // cut
		Expect(now(t, m, metrics.MemoryEventsHigh)).To(Equal(uint64(7)))
		t.write(appDir+"/memory.events", fmt.Sprintf(someEvents, 9, 3))
		Expect(now(t, m, metrics.MemoryEventsHigh)).To(Equal(uint64(9)))
	})

	It("is read where events are of one cgroup alone, by age of the kernel or as mounted", func() {
		t := summing()
		t.remove("cgroup/kubepods/pod1/memory.events.local")
		m := begin(t, 0)
		t.write(appDir+"/memory.events", fmt.Sprintf(someEvents, 9, 3))
		Expect(now(t, m, metrics.MemoryEventsHigh)).To(Equal(uint64(9)))

		t = summing()
		t.write("proc/self/mountinfo", "22 1 0:21 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,memory_localevents\n")
		m = begin(t, 0)
		t.write(appDir+"/memory.events", fmt.Sprintf(someEvents, 9, 3))
		Expect(now(t, m, metrics.MemoryEventsHigh)).To(Equal(uint64(9)))
	})

	It("keeps the kills of a container that was restarted", func() {
		t := summing()
		m := begin(t, 0)
		Expect(now(t, m, metrics.OOMKills)).To(Equal(uint64(1)))
		Expect(copyDir(filepath.Join(t.dir, appDir), filepath.Join(t.dir, "cgroup/kubepods/pod1/c3"))).To(Succeed())
		again := appTarget
		again.Cgroup, again.ID = "/kubepods/pod1/c3", "c3"
		t.to.set(podTarget, again, sidecarTarget)
		for range 4 {
			t.clock.Step(time.Second)
			Expect(figure(m, again.Cgroup, metrics.OOMKills, 0)).To(Equal(uint64(2)))
		}
	})

	It("is that of I/O of a cgroup with none below, with openat", func() {
		t := summing()
		m := begin(t, -1)
		t.write(appDir+"/io.stat", fmt.Sprintf(someIO, 777))
		Expect(now(t, m, metrics.IOReadBytes)).To(Equal(uint64(4096)))
		t.write("cgroup/kubepods/pod1/io.stat", fmt.Sprintf(someIO, 7777777))
		Expect(now(t, m, metrics.IOReadBytes)).To(Equal(uint64(777)))
		now(t, m, metrics.CPUUsage)
		// What io.cost charges has no such sum.
		t.write(appDir+"/io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0 cost.usage=5\n")
		t.write("cgroup/kubepods/pod1/io.stat", fmt.Sprintf(someIO, 7777778))
		Expect(now(t, m, metrics.IOReadBytes)).To(Equal(uint64(1)))
		t.write(appDir+"/io.stat", fmt.Sprintf(someIO, 6))
		Expect(now(t, m, metrics.IOReadBytes)).To(Equal(uint64(6)))
		now(t, m, metrics.CPUUsage)
		// Nor has one with cgroups below, on some kernels.
		Expect(os.Mkdir(filepath.Join(t.dir, appDir, "below"), 0o755)).To(Succeed())
		var dir unix.Stat_t
		Expect(unix.Stat(filepath.Join(t.dir, appDir), &dir)).To(Succeed())
		if dir.Nlink < 3 {
			return // this file system does not count them as that of cgroups does
		}
		t.write(appDir+"/io.stat", fmt.Sprintf(someIO, 8))
		Expect(now(t, m, metrics.IOReadBytes)).To(Equal(uint64(8)))
	})

	It("is read when another cgroup has its place", func() {
		t := summing()
		m := begin(t, -1)
		Expect(os.Rename(filepath.Join(t.dir, appDir), filepath.Join(t.dir, "old"))).To(Succeed())
		Expect(copyDir(filepath.Join(t.dir, "old"), filepath.Join(t.dir, appDir))).To(Succeed())
		t.write(appDir+"/io.stat", fmt.Sprintf(someIO, 777))
		t.write(appDir+"/memory.events", fmt.Sprintf(someEvents, 8, 1))
		Expect(now(t, m, metrics.IOReadBytes)).To(Equal(uint64(777)))
		Expect(figure(m, appTarget.Cgroup, metrics.MemoryEventsHigh, time.Hour)).To(Equal(uint64(8)))
	})

	It("is that of swap, on a machine without any", func() {
		t := newTree()
		memory, err := os.ReadFile(filepath.Join(t.dir, "proc/meminfo"))
		Expect(err).NotTo(HaveOccurred())
		none := strings.NewReplacer("SwapTotal:       1048576", "SwapTotal:       0", "SwapFree:        1048000", "SwapFree:        0").Replace(string(memory))
		t.write("proc/meminfo", none)
		t.write(appDir+"/memory.swap.current", "0\n")
		m := begin(t, 0)
		t.write(appDir+"/memory.swap.current", "4096\n")
		Expect(now(t, m, metrics.MemorySwap)).To(BeZero())
		t.write("proc/meminfo", string(memory))
		Expect(now(t, m, metrics.MemorySwap)).To(Equal(uint64(4096)))
		t.write("proc/meminfo", none) // it may be on its way out
		t.write(appDir+"/memory.swap.current", "0\n")
		Expect(now(t, m, metrics.MemorySwap)).To(BeZero())
	})
})

// And on the kernel: after any work of one among several, each says what its
// files say.
var _ = Describe("files of the kernel whose sums have not changed", Label("kernel"), func() {
	It("say what they would have said", func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root, kerneltest.Unified)
		parent := newCgroup(uniquePath())
		delegate(filepath.Dir(parent.dirs()[0]))
		var list []metrics.Target
		var workers []*worker
		var files []string
		for i := range 3 {
			cg := newCgroup(fmt.Sprintf("%s/%d", parent.path, i))
			list = append(list, metrics.Target{Cgroup: cg.path, ID: fmt.Sprint(i)})
			workers = append(workers, startWorker(cg, false))
			// A little above it the kernel counts events and holds up for little.
			used := numbers(cg.dirs()[0] + "/memory.current")[""]
			Expect(os.WriteFile(cg.dirs()[0]+"/memory.high", fmt.Append(nil, used+128<<10), 0)).To(Succeed())
			file, err := os.CreateTemp("/var", "nodekit-metrics-test-")
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(func() { Expect(os.Remove(file.Name())).To(Succeed()) })
			_, err = file.Write(make([]byte, 1<<20))
			Expect(err).NotTo(HaveOccurred())
			Expect(file.Sync()).To(Succeed())
			Expect(file.Close()).To(Succeed())
			files = append(files, file.Name())
		}
		to := &targets{}
		to.set(list...)
		meters := map[string]*metrics.Meter{}
		for name, descriptors := range map[string]int{"kept": 0, "openat": -1} {
			meters[name] = started(metrics.Config{Targets: to, Interval: time.Hour, LimitsInterval: time.Hour, Descriptors: descriptors})
		}
		// told reads high events, and bytes and operations written, past the meter.
		told := func(t metrics.Target) [3]uint64 {
			GinkgoHelper()
			dir := parent.roots[0] + t.Cgroup
			out := [3]uint64{numbers(dir + "/memory.events")["high"]}
			text, err := os.ReadFile(dir + "/io.stat")
			Expect(err).NotTo(HaveOccurred())
			for word := range strings.FieldsSeq(string(text)) {
				var n uint64
				if _, err := fmt.Sscanf(word, "wbytes=%d", &n); err == nil {
					out[1] += n
				} else if _, err := fmt.Sscanf(word, "wios=%d", &n); err == nil {
					out[2] += n
				}
			}
			return out
		}
		random := rand.New(rand.NewPCG(6, 6)) // the same each time
		compared, moved := 0, map[string]bool{}
		for range 30 {
			at := random.IntN(len(workers))
			switch work := random.IntN(4); work {
			case 0:
				workers[at].do("burn 1000000")
			case 1:
				workers[at].do(fmt.Sprintf("direct %d %s", 1<<20, files[at]))
			case 2:
				workers[at].do("touch 262144")
			}
			for name, m := range meters {
				for _, t := range list {
					before := told(t)
					s, err := m.Sample(context.Background(), t.Cgroup, 0)
					Expect(err).NotTo(HaveOccurred())
					if after := told(t); after != before {
						continue // something was on its way still
					}
					var got [3]uint64
					for i, f := range []metrics.Field{metrics.MemoryEventsHigh, metrics.IOWriteBytes, metrics.IOWrites} {
						v, ok := s.Get(f)
						Expect(ok).To(BeTrue(), "%s: field %d: %v", name, f, s.Gaps)
						got[i] = v
					}
					Expect(got).To(Equal(before), "%s, %s", name, t.Cgroup)
					compared++
					moved["events"] = moved["events"] || got[0] > 0
					moved["bytes"] = moved["bytes"] || got[1] > 0
				}
			}
		}
		for name, m := range meters {
			AddReportEntry(name, fmt.Sprintf("%d of 180 samples compared; %d files read, %d spared", compared, m.Stats().Reads, m.Stats().Spared))
			Expect(m.Stats().Spared).To(BeNumerically(">", 0))
		}
		Expect(compared).To(BeNumerically(">", 0))
		Expect(moved).To(Equal(map[string]bool{"events": true, "bytes": true}))
	})
})
