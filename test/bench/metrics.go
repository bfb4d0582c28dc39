package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// meters are measured by turns, each in a process of its own.
var meters = []string{"nodekit", allButPressure, "kernel alone", everyFile, "nodekit, CPU and memory",
	"nodekit, openat", openAtButPressure, openAtAlone, "cAdvisor", "containerd/cgroups"}

const (
	// What cAdvisor reads of v1, where it tells no pressure.
	allButPressure    = "nodekit, all but pressure"
	openAtButPressure = "nodekit, openat, all but pressure"
	// everyFile has those too that a Meter leaves out of cgroups that sleep.
	everyFile   = "kernel alone, every file"
	openAtAlone = "kernel alone, openat"
)

// metered is what one process found.
type metered struct {
	CPU     float64 // us for one cgroup and round
	Files   float64 // read of one cgroup in a round; 0 if it does not tell
	Allocs  float64 // for one cgroup and round
	Garbage float64 // bytes for one cgroup and round
	RSS     float64 // MiB, anonymous, after scrapes
	Scrape  float64 // ms of CPU; 0 if it has none
	Text    float64 // MB of a scrape
	Scraped float64 // MB of garbage of a scrape
	Second  float64 // thousandths of a core, a round each second; 0 if not asked
	Found   float64 // ms until a new cgroup is metered, the median; 0 if it finds none
	FoundIn float64 // ms, the longest
}

func metricsMain(args []string) int {
	flags := flag.NewFlagSet("nodebench metrics", flag.ContinueOnError)
	sizes := flags.String("n", "10,110,500,1000", "numbers of cgroups")
	rounds := flags.Int("rounds", 20, "rounds of each meter at each size, and more of few cgroups: 1,000 samples at least")
	seconds := flags.Int("seconds", 20, "how long it meters at 1 s, with the most cgroups")
	subject := flags.String("subject", "", "measure this one, of the cgroups below --parent, and print JSON; not for people")
	parent := flags.String("parent", "", "see --subject")
	if code := parse(flags, args); code >= 0 {
		return code
	}
	if *subject != "" {
		got, err := measure(*subject, *parent, *rounds, *seconds)
		if err == nil {
			err = json.NewEncoder(os.Stdout).Encode(got)
		}
		return exitCode(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return exitCode(compareMeters(ctx, *sizes, *rounds, *seconds))
}

func compareMeters(ctx context.Context, sizes string, rounds, seconds int) (err error) {
	runtime.LockOSThread() // whose end would be taken for that of the sleepers' parent
	defer runtime.UnlockOSThread()
	parent := fmt.Sprintf("/nodebench-metrics-%d", os.Getpid())
	if err := makeCgroup(parent); err != nil {
		return err
	}
	var sleepers []*exec.Cmd
	defer func() {
		for _, one := range sleepers {
			_ = one.Process.Kill()
			_ = one.Wait()
		}
		err = errors.Join(err, removeCgroup(parent))
	}()
	if err := delegateAll(parent); err != nil {
		return err
	}
	all, err := hierarchies()
	if err != nil {
		return err
	}
	v1 := slices.ContainsFunc(all, func(h hierarchy) bool { return slices.Contains(h.options, "memory") })
	before, err := busy()
	if err != nil {
		return err
	}
	began := time.Now()
	fmt.Println("| cgroups | meter | CPU a cgroup and round | files | allocations | garbage | memory | scrape: CPU, size, garbage | 1 s sampling | new cgroup metered: median, max |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|")
	have := 0
	for word := range strings.SplitSeq(sizes, ",") {
		var n int
		if _, err := fmt.Sscan(word, &n); err != nil || n < have {
			return fmt.Errorf("-n: %q is not a number that grows", word)
		}
		for ; have < n; have++ {
			one, err := sleeper(filepath.Join(parent, fmt.Sprintf("%064x", have)))
			if err != nil {
				return err
			}
			sleepers = append(sleepers, one)
		}
		for _, name := range meters {
			if !v1 && slices.Contains([]string{allButPressure, openAtButPressure}, name) {
				continue // of v2, cAdvisor tells pressure too
			}
			got, err := measureApart(ctx, name, parent, max(rounds, 1000/max(n, 1)), seconds)
			if err != nil {
				return fmt.Errorf("%s, %d cgroups: %w", name, n, err)
			}
			fmt.Println(got.row(n, name))
		}
	}
	after, err := busy()
	if err != nil {
		return err
	}
	fmt.Printf("\nThe machine worked %.1f cores of its own and others' meanwhile.\n", (after-before).Seconds()/time.Since(began).Seconds())
	return nil
}

func (m metered) row(n int, name string) string {
	or := func(has float64, format string, values ...any) string {
		if has == 0 {
			return "-"
		}
		return fmt.Sprintf(format, values...)
	}
	return fmt.Sprintf("| %d | %s | %.1f us | %s | %.1f | %.1f kB | %.0f MiB | %s | %s | %s |", n, name, m.CPU, or(m.Files, "%.1f", m.Files), m.Allocs, m.Garbage/1e3, m.RSS,
		or(m.Text, "%.1f ms, %.1f MB, %.2f MB", m.Scrape, m.Text, m.Scraped),
		or(m.Second, "%.0f m", m.Second), or(m.FoundIn, "%.1f ms, %.1f ms", m.Found, m.FoundIn))
}

// measureApart runs measure in another process, so that what one has left does
// not weigh on the next.
func measureApart(ctx context.Context, name, parent string, rounds, seconds int) (got metered, err error) {
	program, err := os.Executable()
	if err != nil {
		return got, err
	}
	cmd := exec.CommandContext(ctx, program, "metrics", "-subject", name, "-parent", parent, "-rounds", fmt.Sprint(rounds), "-seconds", fmt.Sprint(seconds))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return got, err
	}
	return got, json.Unmarshal(out, &got)
}

// sleeper makes a cgroup with a process that sleeps, as most containers do.
func sleeper(cgroup string) (*exec.Cmd, error) {
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	if err := makeCgroup(cgroup); err != nil {
		return nil, err
	}
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	for _, h := range all {
		if slices.Contains(h.options, "cpuset") {
			continue // wants CPUs and nodes first
		}
		if err := os.WriteFile(filepath.Join(h.path, cgroup, "cgroup.procs"), []byte(fmt.Sprint(cmd.Process.Pid)), 0); err != nil {
			_ = cmd.Process.Kill()
			return nil, errors.Join(err, cmd.Wait())
		}
	}
	return cmd, nil
}

// delegateAll gives the cgroups below a cgroup all controllers, on v2.
func delegateAll(cgroup string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		if !h.v2 {
			continue
		}
		for _, dir := range []string{h.path, filepath.Join(h.path, cgroup)} {
			names, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
			if err != nil {
				return err
			}
			for name := range strings.FieldsSeq(string(names)) {
				if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
