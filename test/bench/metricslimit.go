package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/metrics"
)

// alone is the limit of every meter: the descriptors that a Meter keeps, each
// read once a round in the same order, and nothing done with the text. With
// needed it leaves out what a Meter leaves out of cgroups that sleep.
func alone(parent string, cgroups int, needed bool) (meter, error) {
	m, err := ours(parent, metrics.Config{Descriptors: 20 * (cgroups + 100)})
	if err != nil {
		return meter{}, err
	}
	var files []int
	// Some may not sleep yet, and a Meter reads the node's CPU too, of which no
	// file is below the parent.
	_, err = poll(time.Minute, func() (struct{}, error) {
		before := m.reads()
		if err := m.round(); err != nil {
			return struct{}{}, err
		}
		want := m.reads() - before
		if files, err = keptFiles(parent, needed); err != nil {
			return struct{}{}, err
		}
		if n := uint64(len(files)); needed && (want < n || want > n+3) {
			err = fmt.Errorf("a meter reads %d files and not %d", want, n)
		}
		return struct{}{}, err
	})
	if err != nil {
		return meter{}, errors.Join(err, m.close())
	}
	text := make([]byte, 64<<10)
	count := uint64(0)
	return meter{
		reads: func() uint64 { return count },
		round: func() error {
			for _, file := range files {
				if _, err := unix.Pread(file, text, 0); err != nil {
					return fmt.Errorf("descriptor %d: %w", file, err)
				}
			}
			count += uint64(len(files))
			return nil
		},
		close: m.close,
	}, nil
}

// withoutPressure meters v1 alone: pressure is told by the v2 tree of a hybrid
// machine, which is not among the hierarchies that this Meter is shown.
func withoutPressure(parent string, cgroups int) (meter, error) {
	all, err := hierarchies()
	if err != nil {
		return meter{}, err
	}
	root, err := os.MkdirTemp("", "nodebench-cgroups-")
	if err != nil {
		return meter{}, err
	}
	for _, h := range all {
		for _, controller := range []string{"cpu", "cpuacct", "memory", "pids", "blkio", "hugetlb"} {
			if !h.v2 && slices.Contains(h.options, controller) {
				err = errors.Join(err, os.Symlink(h.path, filepath.Join(root, controller)))
			}
		}
	}
	if err != nil {
		return meter{}, errors.Join(err, os.RemoveAll(root))
	}
	m, err := ours(parent, metrics.Config{Descriptors: 20 * (cgroups + 100), CgroupRoot: root})
	if err != nil {
		return meter{}, errors.Join(err, os.RemoveAll(root))
	}
	stop := m.close
	m.close = func() error { return errors.Join(stop(), os.RemoveAll(root)) }
	return m, nil
}

// keptFiles finds the open files of cgroups below a parent, in the order in
// which they were opened.
func keptFiles(parent string, needed bool) ([]int, error) {
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	var files []int
	for _, e := range entries {
		path, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil {
			continue // that of the directory
		}
		at := slices.IndexFunc(all, func(h hierarchy) bool { return strings.HasPrefix(path, h.path+parent+"/") })
		if at < 0 || needed && !all[at].v2 && slices.Contains([]string{
			"cpuacct.stat", "cpu.stat", "blkio.throttle.io_service_bytes_recursive"}, filepath.Base(path)) {
			continue
		}
		file, err := strconv.Atoi(e.Name())
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	slices.Sort(files)
	return files, nil
}
