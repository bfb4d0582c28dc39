package metrics

// In the package itself, as the tests of allocations are.

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
)

// idleCgroups makes n cgroups without processes in every hierarchy, and
// removes them at the end.
func idleCgroups(tb testing.TB, n int) sameTargets {
	tb.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		tb.Fatal(err)
	}
	mounts, err := parseMountinfo(text)
	if err != nil {
		tb.Fatal(err)
	}
	parent := fmt.Sprintf("/nodekit-metrics-bench-%d-%d", os.Getpid(), time.Now().UnixNano())
	var list sameTargets
	var dirs []string
	tb.Cleanup(func() {
		for i := len(dirs) - 1; i >= 0; i-- {
			if err := unix.Rmdir(dirs[i]); err != nil && err != unix.ENOENT {
				tb.Errorf("remove %s: %v", dirs[i], err)
			}
		}
	})
	mkdir := func(cgroup string) {
		for _, m := range mounts {
			if contains(m.controllers, "name=systemd") || contains(m.controllers, "cpuset") {
				continue
			}
			dir := filepath.Join(m.path, cgroup)
			if err := os.Mkdir(dir, 0o755); err != nil {
				tb.Fatal(err)
			}
			dirs = append(dirs, dir)
		}
	}
	mkdir(parent)
	for i := range n {
		id := fmt.Sprintf("%064x", i)
		cgroup := parent + "/" + id
		mkdir(cgroup)
		list = append(list, Target{
			Cgroup: cgroup, ID: id, Namespace: "default", Pod: fmt.Sprintf("web-%d", i/2),
			PodUID: fmt.Sprint(i / 2), Container: fmt.Sprintf("app-%d", i%2),
			Image: "registry.example.com/team/web:v1.2.3", StartedAt: time.Unix(1_800_000_000, 0),
		})
	}
	return list
}

// BenchmarkSample is the time for one cgroup and round, all groups but limits.
func BenchmarkSample(b *testing.B) {
	kerneltest.Require(b, kerneltest.Root, kerneltest.Cgroup)
	targets := idleCgroups(b, 100)
	perCgroup := func(b *testing.B, each func(i int)) {
		b.ReportAllocs()
		b.ResetTimer()
		before := cpuTime(b)
		for i := range b.N {
			each(i % len(targets))
		}
		// CPU time, for the machine may be busy with others.
		b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
	}
	for _, how := range []struct {
		name        string
		descriptors int
		want        groupSet
	}{
		{"AllKept", 0, hotGroups | coldGroups},
		{"HotKept", 400, hotGroups | coldGroups},
		{"OpenAt", -1, hotGroups | coldGroups},
		{"CPUAndMemory/AllKept", 0, hotGroups},
		{"CPUAndMemory/HotKept", 400, hotGroups},
		{"CPUAndMemory/OpenAt", -1, hotGroups},
	} {
		b.Run(how.name, func(b *testing.B) {
			m := runningMeter(b, Config{Targets: targets, Descriptors: how.descriptors, LimitsInterval: time.Hour})
			now := time.Now()
			perCgroup(b, func(i int) { m.sampleTarget(m.order[i], now, how.want, true) })
		})
	}
	b.Run("ContainerdStat", func(b *testing.B) {
		stat := make([]func() error, len(targets))
		for i, t := range targets {
			if cgroups.Mode() == cgroups.Unified {
				cg, err := cgroup2.Load(t.Cgroup)
				if err != nil {
					b.Fatal(err)
				}
				stat[i] = func() error { _, err := cg.Stat(); return err }
				continue
			}
			cg, err := cgroup1.Load(cgroup1.StaticPath(t.Cgroup))
			if err != nil {
				b.Fatal(err)
			}
			stat[i] = func() error { _, err := cg.Stat(cgroup1.IgnoreNotExist); return err }
		}
		perCgroup(b, func(i int) {
			if err := stat[i](); err != nil {
				b.Fatal(err)
			}
		})
	})
}

// cpuTime is the CPU time of this process in ns.
func cpuTime(tb testing.TB) int64 {
	tb.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		tb.Fatal(err)
	}
	return ts.Nano()
}

// countingWriter counts what a scrape sends.
type countingWriter struct{ n, lines int64 }

func (w *countingWriter) Write(p []byte) (int, error) {
	w.n += int64(len(p))
	w.lines += int64(strings.Count(string(p), "\n"))
	return len(p), nil
}

// discard is a writer that costs nothing.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkExposition is one scrape of a node with 1000 containers whose
// figures are those of the recorded v2 container.
func BenchmarkExposition(b *testing.B) {
	root := b.TempDir()
	if err := os.CopyFS(root, os.DirFS("testdata/v2")); err != nil {
		b.Fatal(err)
	}
	var list sameTargets
	for i := range 1000 {
		id := fmt.Sprintf("%064x", i)
		cgroup := "/kubepods/pod" + id[40:] + "/" + id
		if err := os.MkdirAll(filepath.Join(root, "cgroup", filepath.Dir(cgroup)), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(root, "cgroup/kubepods/pod1/c1"), filepath.Join(root, "cgroup", cgroup)); err != nil {
			b.Fatal(err)
		}
		list = append(list, Target{
			Cgroup: cgroup, ID: id, Namespace: "default", Pod: fmt.Sprintf("web-5f7d8c9b6-%05d", i),
			PodUID: id[40:], Container: "app", Image: "registry.example.com/team/web:v1.2.3", StartedAt: time.Unix(1_800_000_000, 0),
		})
	}
	m := runningMeter(b, Config{
		CgroupRoot: root + "/cgroup", ProcRoot: root + "/proc", SysRoot: root + "/sys", Targets: list,
		Interval: time.Hour, LimitsInterval: time.Hour, Descriptors: -1,
	})
	ctx := context.Background()
	var size countingWriter
	if err := m.WriteCAdvisor(ctx, &size); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if err := m.WriteCAdvisor(ctx, discard{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(size.n), "bytes/scrape")
	b.ReportMetric(float64(size.lines), "lines/scrape")
}
