package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	unifiedRoot = "/sys/fs/cgroup"
	// Waits of Remove between attempts, and for all of them if ctx has no deadline.
	firstWait, longestWait, removeAtMost = time.Millisecond, 50 * time.Millisecond, 10 * time.Second
)

// Ensure makes the cgroup at path, absolute from each hierarchy's root, in every
// hierarchy, with the parents that are missing, and sets
// resources; nil sets none. It may be called again to change limits. A failed
// call may leave a part, which Remove removes. The error may be ErrInvalid or
// ErrNotSupported.
func (m *Manager) Ensure(ctx context.Context, path string, resources *specs.LinuxResources) error {
	if err := check(path); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if resources == nil {
		resources = &specs.LinuxResources{}
	}
	var err error
	switch cgroups.Mode() {
	case cgroups.Unavailable:
		return ErrNotSupported
	case cgroups.Unified:
		err = ensureV2(unifiedRoot, path, resources)
	case cgroups.Hybrid:
		// Without controllers, but it tells pressure.
		if err = os.MkdirAll(filepath.Join(unifiedRoot, "unified", path), 0o755); err == nil {
			err = ensureV1(path, resources)
		}
	default:
		err = ensureV1(path, resources)
	}
	if err != nil {
		return fmt.Errorf("make cgroup %s: %w", path, err)
	}
	return nil
}

func ensureV1(path string, resources *specs.LinuxResources) error {
	_, err := cgroup1.Load(cgroup1.StaticPath(path))
	exists := err == nil
	// Makes what is missing in any hierarchy; what is there stays.
	control, err := cgroup1.New(cgroup1.StaticPath(path), withoutLimits(resources, exists))
	if err != nil || !exists {
		return err
	}
	// Update knows in which order memory and swap may change.
	return control.Update(resources)
}

func withoutLimits(resources *specs.LinuxResources, without bool) *specs.LinuxResources {
	if without {
		return &specs.LinuxResources{}
	}
	return resources
}

func ensureV2(root, path string, resources *specs.LinuxResources) error {
	if _, err := cgroup2.NewManager(root, path, cgroup2.ToResources(resources)); err != nil {
		return err
	}
	for _, file := range slices.Sorted(maps.Keys(resources.Unified)) {
		if filepath.Base(file) != file {
			return fmt.Errorf("unified %q: %w", file, ErrInvalid)
		}
		if err := os.WriteFile(filepath.Join(root, path, file), []byte(resources.Unified[file]), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Remove kills what runs in the cgroup and below, and removes all of it from
// every hierarchy. It waits until that is done, at most until ctx ends, or 10 s
// if ctx has no deadline. No such cgroup: nil.
func (m *Manager) Remove(ctx context.Context, path string) error {
	if err := check(path); err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, removeAtMost)
		defer cancel()
	}
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		var left error
		var pids []int
		for _, root := range roots {
			dir := filepath.Join(root, path)
			inside, err := processes(dir)
			if err != nil {
				return fmt.Errorf("remove cgroup %s: %w", path, err)
			}
			pids = append(pids, inside...)
		}
		if slices.Contains(pids, os.Getpid()) {
			return fmt.Errorf("remove cgroup %s: %w", path, ErrOwn)
		}
		if len(pids) > 0 {
			kill(roots, path, pids)
		}
		for _, root := range roots {
			if err := removeTree(filepath.Join(root, path)); err != nil {
				left = err
			}
		}
		if left == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup %s: %w: %w", path, ctx.Err(), left)
		case <-time.After(wait):
		}
	}
}

// MemoryUsage gives the bytes that what is in the cgroup and below uses, file
// cache included, as memory.current (v2) or memory.usage_in_bytes (v1) has it.
// The error may be ErrInvalid, fs.ErrNotExist or ErrNotSupported: no memory
// controller.
func (m *Manager) MemoryUsage(_ context.Context, path string) (int64, error) {
	if err := check(path); err != nil {
		return 0, fmt.Errorf("memory usage: %w", err)
	}
	roots, err := hierarchies()
	if err != nil {
		return 0, err
	}
	there := false
	for _, root := range roots {
		dir := filepath.Join(root, path)
		for _, name := range []string{"memory.current", "memory.usage_in_bytes"} {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if gone(err) {
				continue
			}
			if err != nil {
				return 0, fmt.Errorf("memory usage: %w", err)
			}
			return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		}
		if _, err := os.Stat(dir); err == nil {
			there = true
		}
	}
	if there {
		return 0, fmt.Errorf("memory usage of %s: %w", path, ErrNotSupported)
	}
	return 0, fmt.Errorf("memory usage of %s: %w", path, fs.ErrNotExist)
}

// hierarchies gives the mount point of each, once.
func hierarchies() ([]string, error) {
	infos, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	var roots []string
	for _, info := range infos {
		if !slices.Contains(roots, info.Mountpoint) {
			roots = append(roots, info.Mountpoint)
		}
	}
	if len(roots) == 0 {
		return nil, ErrNotSupported
	}
	return roots, nil
}

// kill ends all processes; frozen meanwhile, where that can be, so that none
// can fork away.
func kill(roots []string, path string, pids []int) {
	var thaw []string
	for _, root := range roots {
		dir := filepath.Join(root, path)
		// Linux 5.14 on v2 kills the whole tree at once.
		if err := writeExisting(filepath.Join(dir, "cgroup.kill"), "1"); err == nil {
			continue
		}
		state := filepath.Join(dir, "freezer.state")
		if writeExisting(state, "FROZEN") == nil {
			thaw = append(thaw, state)
		}
	}
	for _, pid := range pids {
		// Errors: gone already.
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	for _, state := range thaw {
		_ = writeExisting(state, "THAWED")
	}
}

func writeExisting(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// processes lists what runs in dir and below. None for a directory that is not there.
func processes(dir string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if gone(err) || err == nil && !entry.IsDir() {
			return nil
		}
		if err != nil {
			return err
		}
		data, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if gone(err) || errors.Is(err, unix.EOPNOTSUPP) { // a threaded cgroup of v2
			return nil
		}
		if err != nil {
			return err
		}
		for _, field := range strings.Fields(string(data)) {
			// 0 is a process of another PID namespace, and to kill 0 is to kill
			// one's own group.
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids, err
}

// gone: a cgroup may go away between any two calls.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// removeTree removes cgroups, the deepest first. Their files go with them.
func removeTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if gone(err) {
			return nil
		}
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, path := range slices.Backward(dirs) {
		if err := unix.Rmdir(path); err != nil && !gone(err) {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// List gives the paths of the direct children of path in any hierarchy, sorted.
// No such cgroup: nil.
func (m *Manager) List(path string) ([]string, error) {
	if err := check(path); err != nil {
		return nil, fmt.Errorf("list cgroup: %w", err)
	}
	roots, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var result []string
	for _, root := range roots {
		entries, err := os.ReadDir(filepath.Join(root, path))
		if err != nil && !gone(err) {
			return nil, err
		}
		for _, entry := range entries {
			if entry.IsDir() {
				result = append(result, filepath.Join(path, entry.Name()))
			}
		}
	}
	slices.Sort(result)
	return slices.Compact(result), nil
}
