package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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

// maxProcs bounds what is read of one cgroup.procs.
const maxProcs = 4 << 20

// hierarchies gives the mount points, v1's and v2's, each once. A link such as
// cpu to cpu,cpuacct is no mount, and so is not among them.
func hierarchies() (v1, v2 []string, err error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, nil, err
	}
	for _, mount := range mounts {
		if mount.FSType == "cgroup2" {
			v2 = append(v2, mount.Mountpoint)
		} else {
			v1 = append(v1, mount.Mountpoint)
		}
	}
	if len(v1)+len(v2) == 0 {
		return nil, nil, fmt.Errorf("no cgroup hierarchy is mounted: %w", ErrNotSupported)
	}
	return v1, v2, nil
}

func ensure(path string, resources *specs.LinuxResources) error {
	_, v2, err := hierarchies()
	if err != nil {
		return err
	}
	if cgroups.Mode() == cgroups.Unified {
		_, err := cgroup2.NewManager(v2[0], path, cgroup2.ToResources(resources))
		return err
	}
	// On a hybrid machine v2 has no controllers but tells pressure.
	for _, root := range v2 {
		if err := os.MkdirAll(filepath.Join(root, path), 0o755); err != nil {
			return err
		}
	}
	_, err = cgroup1.New(cgroup1.StaticPath(path), resources)
	return err
}

func remove(ctx context.Context, path string) error {
	v1, v2, err := hierarchies()
	if err != nil {
		return err
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		var left error
		for _, root := range slices.Concat(v2, v1) {
			left = errors.Join(left, removeTree(filepath.Join(root, path)))
		}
		if left == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), left)
		case <-time.After(wait):
		}
	}
}

// removeTree kills what is in a cgroup and those below it, and removes them,
// the lowest first. An error says that something is still there.
func removeTree(root string) error {
	// cgroup.kill (Linux 5.14, v2) ends the whole tree at once.
	_ = os.WriteFile(filepath.Join(root, "cgroup.kill"), []byte("1"), 0)
	var below []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case entry.IsDir():
			below = append(below, path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, path := range slices.Backward(below) {
		if err := kill(path); err != nil {
			return err
		}
		if err := unix.Rmdir(path); err != nil && !errors.Is(err, unix.ENOENT) {
			return &fs.PathError{Op: "rmdir", Path: path, Err: err}
		}
	}
	return nil
}

// kill ends the processes of one cgroup. They stay in it until they are reaped.
func kill(path string) error {
	file, err := os.Open(filepath.Join(path, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	text := make([]byte, maxProcs)
	n, err := file.Read(text)
	if n == 0 { // empty, or the cgroup went meanwhile
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text[:n])) {
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil || pid <= 1 || pid == os.Getpid() {
			continue // 0 is a process of another PID namespace
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill %d: %w", pid, err)
		}
	}
	return nil
}

func list(path string) ([]string, error) {
	v1, v2, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var children []string
	for _, root := range slices.Concat(v1, v2) {
		entries, err := os.ReadDir(filepath.Join(root, path))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, entry := range entries {
			if entry.IsDir() {
				children = append(children, filepath.Join(path, entry.Name()))
			}
		}
	}
	slices.Sort(children)
	return slices.Compact(children), nil
}
