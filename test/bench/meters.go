package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/metrics"
	"github.com/nodekit/nodekit/metrics/discovery"
	"github.com/nodekit/nodekit/test/bench/cadvisor"
)

// meter is one way to meter the cgroups below a parent.
type meter struct {
	round func() error                           // reads all cgroups
	copy  func() error                           // takes what round gives to who asks, and reads nothing; nil if that is nothing
	reads func() uint64                          // files of cgroups read so far; nil if it does not tell
	write func(context.Context, io.Writer) error // scrapes what was read; nil if there is none
	knows func(cgroup string) bool               // whether it is metered; nil if it finds none by itself
	close func() error
}

// measure measures one meter in this process.
func measure(name, parent string, rounds, seconds int) (got metered, err error) {
	if strings.HasPrefix(name, "nodekit") {
		debug.SetGCPercent(25) // as examples/nodemonitor does
	}
	if name == "nodekit" {
		if got.Second, err = eachSecond(parent, seconds); err != nil {
			return got, err
		}
	}
	cgroups, err := below(parent)
	if err != nil {
		return got, err
	}
	m, err := newMeter(name, parent, cgroups)
	if err != nil {
		return got, err
	}
	defer func() {
		if closeErr := m.close(); err == nil {
			err = closeErr
		}
	}()
	for range max(3, rounds/5) { // learn, and find room
		if err := m.round(); err != nil {
			return got, err
		}
	}
	reads := m.reads
	if reads == nil {
		reads = func() uint64 { return 0 }
	}
	files, before, cpu := reads(), memory(), cpuTime()
	for range rounds {
		if err := m.round(); err != nil {
			return got, err
		}
	}
	used, after := cpuTime()-cpu, memory()
	each := float64(rounds * len(cgroups))
	got.Files = float64(reads()-files) / each
	got.CPU = float64(used.Microseconds()) / each
	// Who asks for a round gets a copy of one sample, which is no part of sampling.
	if m.copy != nil {
		for range rounds {
			if err := m.copy(); err != nil {
				return got, err
			}
		}
	}
	copied := memory()
	got.Allocs = max(0, float64(after.Mallocs-before.Mallocs)-float64(copied.Mallocs-after.Mallocs)) / each
	got.Garbage = max(0, float64(after.TotalAlloc-before.TotalAlloc)-float64(copied.TotalAlloc-after.TotalAlloc)) / each
	if m.write != nil {
		if err := got.scrape(m, rounds); err != nil {
			return got, err
		}
	}
	if got.RSS, err = rss(); err != nil {
		return got, err
	}
	if m.knows != nil {
		got.Found, got.FoundIn, err = find(m, parent)
	}
	return got, err
}

func (got *metered) scrape(m meter, times int) error {
	ctx := context.Background()
	var size counter
	if err := m.write(ctx, &size); err != nil {
		return err
	}
	got.Text = float64(size) / 1e6
	before, cpu := memory(), cpuTime()
	for range times {
		if err := m.write(ctx, io.Discard); err != nil {
			return err
		}
	}
	got.Scrape = float64((cpuTime() - cpu).Microseconds()) / 1e3 / float64(times)
	got.Scraped = float64(memory().TotalAlloc-before.TotalAlloc) / 1e6 / float64(times)
	return nil
}

type counter int64

// Write counts.
func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

func newMeter(name, parent string, cgroups []string) (meter, error) {
	switch name {
	case "nodekit":
		return ours(parent, metrics.Config{Descriptors: 20 * (len(cgroups) + 100)})
	case "kernel alone", everyFile:
		return alone(parent, len(cgroups), name == "kernel alone")
	case allButPressure:
		return withoutPressure(parent, 20*(len(cgroups)+100))
	case openAtButPressure:
		return withoutPressure(parent, -1)
	case openAtAlone:
		return aloneOpenAt(parent, len(cgroups))
	case "nodekit, CPU and memory":
		return ours(parent, metrics.Config{Descriptors: 20 * (len(cgroups) + 100), ColdInterval: 48 * time.Hour})
	case "nodekit, openat":
		return ours(parent, metrics.Config{Descriptors: -1})
	case "cAdvisor":
		return peer(parent, len(cgroups))
	default:
		return bare(cgroups)
	}
}

// ours makes a Meter whose only rounds are those asked for.
func ours(parent string, cfg metrics.Config) (meter, error) {
	var m *metrics.Meter
	found, err := discovery.New(discovery.Config{Below: parent, Rescan: time.Hour, OnChange: func(emptied ...string) { m.Refresh(emptied...) }})
	if err != nil {
		return meter{}, err
	}
	cfg.Targets, cfg.Interval, cfg.LimitsInterval = found, 24*time.Hour, time.Hour
	if m, err = metrics.New(cfg); err != nil {
		return meter{}, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- found.Run(ctx) }()
	go func() { done <- m.Run(ctx) }()
	for m.Stats().Rounds == 0 || found.Stats().Scans == 0 {
		time.Sleep(time.Millisecond)
	}
	return meter{
		round: func() error { _, err := m.Sample(ctx, "/", 0); return err },
		copy:  func() error { _, err := m.Sample(ctx, "/", 24*time.Hour); return err },
		reads: func() uint64 { return m.Stats().Reads },
		write: m.WriteCAdvisor,
		knows: func(cgroup string) bool {
			s, err := m.Sample(ctx, cgroup, 24*time.Hour)
			_, known := s.Get(metrics.CPUUsage)
			return err == nil && known
		},
		close: func() error {
			cancel()
			if err := <-done; err != nil {
				return err
			}
			return <-done
		},
	}, nil
}

// eachSecond is what a Meter uses with its own loop: CPU and memory each
// second, the rest each ten.
func eachSecond(parent string, seconds int) (milli float64, err error) {
	found, err := discovery.New(discovery.Config{Below: parent})
	if err != nil {
		return 0, err
	}
	m, err := metrics.New(metrics.Config{Targets: found, Interval: time.Second, ColdInterval: 10 * time.Second})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- found.Run(ctx) }()
	go func() { done <- m.Run(ctx) }()
	for m.Stats().Rounds < 2 { // it has learnt
		time.Sleep(10 * time.Millisecond)
	}
	began, cpu := time.Now(), cpuTime()
	time.Sleep(time.Duration(seconds) * time.Second)
	milli = float64((cpuTime() - cpu).Milliseconds()) / time.Since(began).Seconds()
	cancel()
	if err := <-done; err != nil {
		return 0, err
	}
	return milli, <-done
}

func peer(parent string, cgroups int) (meter, error) {
	p, err := cadvisor.Start(parent, false)
	if err != nil {
		return meter{}, err
	}
	_, err = poll(time.Minute, func() (struct{}, error) {
		n, err := p.Round()
		if err == nil && n < cgroups {
			err = fmt.Errorf("cAdvisor found %d cgroups of %d", n, cgroups)
		}
		return struct{}{}, err
	})
	return meter{round: func() error { _, err := p.Round(); return err }, write: p.Write, knows: p.Knows, close: p.Close}, err
}

func bare(paths []string) (meter, error) {
	stat := make([]func() error, len(paths))
	for i, path := range paths {
		if cgroups.Mode() == cgroups.Unified {
			cg, err := cgroup2.Load(path)
			if err != nil {
				return meter{}, err
			}
			stat[i] = func() error { _, err := cg.Stat(); return err }
			continue
		}
		cg, err := cgroup1.Load(cgroup1.StaticPath(path))
		if err != nil {
			return meter{}, err
		}
		stat[i] = func() error { _, err := cg.Stat(cgroup1.IgnoreNotExist); return err }
	}
	return meter{close: func() error { return nil }, round: func() error {
		for _, one := range stat {
			if err := one(); err != nil {
				return err
			}
		}
		return nil
	}}, nil
}

// find makes cgroups one after another and waits until each is metered.
func find(m meter, parent string) (median, longest float64, err error) {
	var all []time.Duration
	for i := range 30 {
		cgroup := filepath.Join(parent, fmt.Sprintf("new-%d", i))
		began := time.Now()
		if err := makeCgroup(cgroup); err != nil {
			return 0, 0, err
		}
		_, err := poll(time.Minute, func() (struct{}, error) {
			if !m.knows(cgroup) {
				return struct{}{}, fmt.Errorf("%s is not metered", cgroup)
			}
			return struct{}{}, nil
		})
		all = append(all, time.Since(began))
		if err := removeCgroup(cgroup); err != nil {
			return 0, 0, err
		}
		if err != nil {
			return 0, 0, err
		}
	}
	return ms(all, 0.5), float64(slices.Max(all)) / 1e6, nil
}

// below lists the cgroups right below a parent.
func below(parent string) ([]string, error) {
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join(all[0].path, parent))
	if err != nil {
		return nil, err
	}
	var list []string
	for _, e := range entries {
		if e.IsDir() {
			list = append(list, filepath.Join(parent, e.Name()))
		}
	}
	return list, nil
}

func memory() (m runtime.MemStats) {
	runtime.ReadMemStats(&m)
	return m
}

func cpuTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		panic(err) // every Linux has that clock
	}
	return time.Duration(ts.Nano())
}

// rss is the anonymous resident set of this process in MiB: its program, which
// holds all meters, is not counted.
//
//	RssAnon:	   12345 kB
func rss() (float64, error) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, tail, _ := strings.Cut(string(data), "\nRssAnon:")
	number, _, _ := strings.Cut(strings.TrimSpace(tail), " ")
	kB, err := strconv.ParseFloat(number, 64)
	return kB / 1024, err
}
