package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/agenttest"
)

// tick is the unit of /proc/stat.
const tick = 10 * time.Millisecond

// busy is the time that all CPUs together have worked since boot.
//
//	cpu  user nice system idle iowait irq softirq steal guest guest_nice
func busy() (time.Duration, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	fields := strings.Fields(line)
	if len(fields) < 8 {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var sum time.Duration
	for _, at := range []int{1, 2, 3, 6, 7} {
		n, err := strconv.ParseInt(fields[at], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// unmount takes away every mount below a directory.
func unmount(dir string) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var places []string
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			places = append(places, fields[4])
		}
	}
	var errs []error
	for _, place := range slices.Backward(places) { // the last one lies on top
		if err := unix.Unmount(place, unix.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", place, err))
		}
	}
	return errors.Join(errs...)
}

// weight is what processes take.
type weight struct {
	pss int64 // bytes
	cpu time.Duration
}

func weigh(pids []int) (weight, error) {
	var w weight
	for _, pid := range pids {
		size, err := agenttest.PSS(pid)
		if err != nil {
			return w, err
		}
		used, err := agenttest.CPUTime(pid)
		if err != nil {
			return w, err
		}
		w.pss, w.cpu = w.pss+size, w.cpu+used
	}
	return w, nil
}

// ms is a percentile in milliseconds.
func ms(all []time.Duration, part float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return float64(sorted[int(part*float64(len(sorted)-1))]) / 1e6
}
