package oci_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nodekit/nodekit/internal/barepod"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci"
)

// benchRest is how long a machine takes to come to rest.
const benchRest = 150 * time.Millisecond

// BenchmarkPodStartStop is the life of a pod with one container, image present,
// and by turns with it the bare sequence of the same bundle, each on a machine
// that is at rest. It reports medians, and how many times as long as the bare
// start a start takes.
func BenchmarkPodStartStop(b *testing.B) {
	e := prepareEnv(b)
	e.cfg.WarmShims = 1
	e.open()
	e.image = e.pull(e.images.Prog)
	kept := e.sandbox()
	plain := &barepod.Pod{Dir: b.TempDir(), Runtime: "runc", Bridge: oci.DefaultBridge, Cgroup: e.cfg.CgroupRoot + "/bare"}
	if err := plain.Take(filepath.Join(e.cfg.Root, "sandboxes", kept, "containers", e.start(kept, "app", "forever"))); err != nil {
		b.Fatal(err)
	}
	times := map[string][]time.Duration{}
	cycle := func() {
		time.Sleep(benchRest)
		begin := time.Now()
		last := begin
		lap := func(name string) {
			now := time.Now()
			times[name] = append(times[name], now.Sub(last))
			last = now
		}
		sb := e.sandbox()
		lap("sandbox")
		id := e.create(sb, "app", "forever")
		lap("create")
		if err := e.rt.StartContainer(e.ctx(), id); err != nil {
			b.Fatal(err)
		}
		lap("start")
		times["ours"] = append(times["ours"], last.Sub(begin))
		if err := e.rt.StopContainer(e.ctx(), id, 0); err != nil {
			b.Fatal(err)
		}
		if err := e.rt.RemoveSandbox(e.ctx(), sb); err != nil {
			b.Fatal(err)
		}
		lap("remove")
		time.Sleep(benchRest)
		start, _, err := plain.Cycle()
		if err != nil {
			b.Fatal(err)
		}
		times["bare"] = append(times["bare"], start)
	}
	cycle()
	clear(times)
	for b.Loop() {
		cycle()
	}
	b.ReportMetric(median(times["sandbox"]), "ms/RunSandbox")
	b.ReportMetric(median(times["create"]), "ms/CreateContainer")
	b.ReportMetric(median(times["start"]), "ms/StartContainer")
	b.ReportMetric(median(times["remove"]), "ms/stop+remove")
	b.ReportMetric(median(times["ours"]), "ms/start")
	b.ReportMetric(median(times["bare"]), "ms/bare-start")
	b.ReportMetric(median(times["ours"])/median(times["bare"]), "x-bare")
}

// BenchmarkFiftyPods starts 50 pods at once and reports when the median and the
// last one runs.
func BenchmarkFiftyPods(b *testing.B) {
	e := newEnv(b)
	const count = 50
	var medians, lasts []time.Duration
	for b.Loop() {
		times := make([]time.Duration, count)
		var wg sync.WaitGroup
		begin := time.Now()
		for i := range count {
			wg.Go(func() {
				e.start(e.sandbox(), "app", "forever")
				times[i] = time.Since(begin)
			})
		}
		wg.Wait()
		slices.Sort(times)
		medians, lasts = append(medians, times[count/2]), append(lasts, times[count-1])
		if err := e.rt.Purge(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(median(medians), "ms/median")
	b.ReportMetric(median(lasts), "ms/last")
}

// BenchmarkExec is one command in a running container.
func BenchmarkExec(b *testing.B) {
	e := newEnv(b)
	id := e.start(e.sandbox(), "app", "forever")
	for b.Loop() {
		code, err := e.rt.Exec(e.ctx(), id, runtimeiface.ExecSpec{Command: []string{"/prog", "exit", "0"}})
		if err != nil || code != 0 {
			b.Fatal(code, err)
		}
	}
}

// BenchmarkExitKnown is the time from a SIGKILL to the event of the exit.
func BenchmarkExitKnown(b *testing.B) {
	e := newEnv(b)
	events, err := e.rt.Subscribe(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	sb := e.sandbox()
	var times []time.Duration
	for i := 0; b.Loop(); i++ {
		id := e.start(sb, "app"+strconv.Itoa(i), "forever")
		begin := time.Now()
		if err := e.rt.StopContainer(e.ctx(), id, 0); err != nil {
			b.Fatal(err)
		}
		for ev := range events {
			if ev.Type == runtimeiface.ContainerStopped && ev.ContainerID == id {
				break
			}
		}
		times = append(times, time.Since(begin))
		if err := e.rt.RemoveContainer(e.ctx(), id); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(median(times), "ms/exit-known")
}

// BenchmarkShimMemory keeps 110 pods and reports the mean proportional memory
// of their shims.
func BenchmarkShimMemory(b *testing.B) {
	e := newEnv(b)
	const count = 110
	for b.Loop() {
		for range count {
			e.start(e.sandbox(), "app", "print hello ; forever")
		}
		time.Sleep(5 * time.Second) // the shims give memory back
		list, err := e.rt.ListSandboxes(e.ctx(), runtimeiface.SandboxFilter{})
		if err != nil {
			b.Fatal(err)
		}
		total := 0.0
		before := cpuTicks(list)
		for _, s := range list {
			total += pss(b, s.PID)
		}
		const idle = 10 * time.Second
		time.Sleep(idle)
		b.ReportMetric(total/count, "KiB-PSS/shim")
		b.ReportMetric(float64(cpuTicks(list)-before)/idle.Seconds(), "%core-idle")
		if err := e.rt.Purge(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func pss(tb testing.TB, pid int) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		if rest, ok := bytes.CutPrefix(line, []byte("Pss:")); ok {
			n, _ := strconv.ParseFloat(string(bytes.Fields(rest)[0]), 64)
			return n
		}
	}
	tb.Fatalf("no Pss of %d", pid)
	return 0
}

// cpuTicks are hundredths of a second that the shims have used.
func cpuTicks(list []runtimeiface.Sandbox) int {
	total := 0
	for _, s := range list {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.PID))
		if _, after, ok := bytes.Cut(data, []byte(") ")); ok {
			fields := bytes.Fields(after)
			for _, f := range fields[11:13] {
				n, _ := strconv.Atoi(string(f))
				total += n
			}
		}
	}
	return total
}

func median(list []time.Duration) float64 {
	slices.Sort(list)
	return float64(list[len(list)/2].Microseconds()) / 1000
}
