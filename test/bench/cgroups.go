package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hierarchy is a mounted tree of cgroups.
type hierarchy struct {
	path    string
	options []string // controllers among them, with version 1
	v2      bool
}

// hierarchies reads what is mounted below /sys/fs/cgroup.
//
//	31 24 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
func hierarchies() ([]hierarchy, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var out []hierarchy
	for line := range strings.Lines(string(data)) {
		head, tail, found := strings.Cut(line, " - ")
		place, kind := strings.Fields(head), strings.Fields(tail)
		if !found || len(place) < 5 || len(kind) < 3 || !strings.HasPrefix(place[4], "/sys/fs/cgroup") {
			continue
		}
		if kind[0] == "cgroup" || kind[0] == "cgroup2" {
			out = append(out, hierarchy{place[4], strings.Split(kind[2], ","), kind[0] == "cgroup2"})
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no cgroups are mounted below /sys/fs/cgroup")
	}
	return out, nil
}

// makeCgroup makes a cgroup in every hierarchy: the kubelet wants its own to be there.
func makeCgroup(path string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		if err := os.Mkdir(filepath.Join(h.path, path), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// removeCgroup removes it with all below it. The kernel lets go of a cgroup some
// time after its last process.
func removeCgroup(path string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	_, err = poll(10*time.Second, func() (struct{}, error) {
		var errs []error
		for _, h := range all {
			errs = append(errs, removeTree(filepath.Join(h.path, path)))
		}
		return struct{}{}, errors.Join(errs...)
	})
	return err
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		if e.IsDir() {
			errs = append(errs, removeTree(filepath.Join(dir, e.Name())))
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		errs = append(errs, fmt.Errorf("remove %s: %w", dir, err))
	}
	return errors.Join(errs...)
}

// members gives the processes of a cgroup and of all below it.
func members(path string) ([]int, error) {
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(all, func(h hierarchy) bool { return slices.Contains(h.options, "memory") })
	if at < 0 { // pure version 2
		at = slices.IndexFunc(all, func(h hierarchy) bool { return h.v2 })
	}
	if at < 0 {
		return nil, errors.New("neither a memory controller nor cgroup v2 is mounted")
	}
	var pids []int
	err = filepath.WalkDir(filepath.Join(all[at].path, path), func(dir string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile
		}
		if err != nil || !entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return err
		}
		for _, field := range strings.Fields(string(data)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return err
			}
			pids = append(pids, pid)
		}
		return nil
	})
	return pids, err
}
