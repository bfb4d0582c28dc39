package nodeusage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/podlifecycle/eviction"
)

// longest file of the kernel that is read.
const longest = 1 << 20

// Read takes a reading of every signal. The error joins what could not be read;
// what could is in the reading all the same.
func (n *Node) Read(ctx context.Context) (eviction.Reading, error) {
	if err := ctx.Err(); err != nil {
		return eviction.Reading{}, err
	}
	r := eviction.Reading{Signals: map[eviction.Signal]eviction.Observation{}}
	var errs []error
	put := func(signal eviction.Signal, available, capacity int64, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", signal, err))
			return
		}
		r.Signals[signal] = eviction.Observation{Available: max(0, available), Capacity: capacity, Time: n.config.Clock.Now()}
	}
	available, capacity, err := n.memory()
	put(eviction.MemoryAvailable, available, capacity, err)
	available, capacity, err = n.processes()
	put(eviction.PIDAvailable, available, capacity, err)

	nodeFS, err := statfs(n.config.NodeFS)
	put(eviction.NodeFSAvailable, nodeFS.available, nodeFS.capacity, err)
	if nodeFS.inodes > 0 { // some file systems have no fixed number
		put(eviction.NodeFSInodes, nodeFS.free, nodeFS.inodes, err)
	}
	imageFS, err := statfs(n.config.ImageFS)
	put(eviction.ImageFSAvailable, imageFS.available, imageFS.capacity, err)
	if imageFS.inodes > 0 {
		put(eviction.ImageFSInodes, imageFS.free, imageFS.inodes, err)
	}
	r.DedicatedImageFS = nodeFS.device != imageFS.device
	return r, errors.Join(errs...)
}

// memory gives the machine's memory, and what of it is no working set.
func (n *Node) memory() (available, capacity int64, err error) {
	text, err := read(filepath.Join(n.config.Proc, "meminfo"))
	if err != nil {
		return 0, 0, err
	}
	info, err := fields(text, "MemTotal", "MemFree", "Inactive(file)")
	if err != nil {
		return 0, 0, fmt.Errorf("meminfo: %w", err)
	}
	capacity = info["MemTotal"]
	used, err := n.rootWorkingSet()
	if errors.Is(err, ErrNoCgroup) {
		used, err = max(0, capacity-info["MemFree"]-info["Inactive(file)"]), nil
	}
	return capacity - used, capacity, err
}

func (n *Node) rootWorkingSet() (int64, error) {
	root, err := n.hierarchy("memory")
	if err != nil {
		return 0, err
	}
	used, err := workingSet(root)
	if !errors.Is(err, ErrNoCgroup) {
		return used, err
	}
	// The root of v2 has statistics, but no usage.
	text, err := read(filepath.Join(root, "memory.stat"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("%s: %w", root, ErrNoCgroup)
	}
	if err != nil {
		return 0, err
	}
	stat, err := fields(text, "anon", "file", "inactive_file")
	if err != nil {
		return 0, fmt.Errorf("%s: %w", filepath.Join(root, "memory.stat"), err)
	}
	return max(0, stat["anon"]+stat["file"]-stat["inactive_file"]), nil
}

// workingSet of a cgroup: its usage less inactive file pages.
func workingSet(dir string) (int64, error) {
	for _, version := range []struct{ usage, inactive string }{
		{"memory.usage_in_bytes", "total_inactive_file"}, {"memory.current", "inactive_file"},
	} {
		text, err := read(filepath.Join(dir, version.usage))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		usage, err := number(text)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", filepath.Join(dir, version.usage), err)
		}
		if text, err = read(filepath.Join(dir, "memory.stat")); err != nil {
			return 0, err
		}
		stat, err := fields(text, version.inactive)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", filepath.Join(dir, "memory.stat"), err)
		}
		return max(0, usage-stat[version.inactive]), nil
	}
	return 0, fmt.Errorf("memory of %s: %w", dir, ErrNoCgroup)
}

// processes gives how many tasks there may be, and how many more.
func (n *Node) processes() (available, capacity int64, err error) {
	for _, name := range []string{"sys/kernel/pid_max", "sys/kernel/threads-max"} {
		text, err := read(filepath.Join(n.config.Proc, name))
		if err != nil {
			return 0, 0, err
		}
		limit, err := number(text)
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", name, err)
		}
		if capacity == 0 || limit < capacity {
			capacity = limit
		}
	}
	text, err := read(filepath.Join(n.config.Proc, "loadavg"))
	if err != nil {
		return 0, 0, err
	}
	used, err := tasks(text)
	return capacity - used, capacity, err
}

// Cgroup gives the working set in bytes and the number of tasks of a cgroup, by
// its path from each hierarchy's root. ErrNoCgroup: it is not there.
func (n *Node) Cgroup(ctx context.Context, cgroup string) (memory, processes int64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, 0, err
	}
	cgroup = path.Clean("/" + cgroup)
	root, err := n.hierarchy("memory")
	if err != nil {
		return 0, 0, err
	}
	if memory, err = workingSet(filepath.Join(root, cgroup)); err != nil {
		return 0, 0, err
	}
	if root, err = n.hierarchy("pids"); err != nil {
		return 0, 0, err
	}
	text, err := read(filepath.Join(root, cgroup, "pids.current"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, fmt.Errorf("processes of %s: %w", cgroup, ErrNoCgroup)
	}
	if err != nil {
		return 0, 0, err
	}
	processes, err = number(text)
	return memory, processes, err
}

// hierarchy finds where the controller's root is mounted.
func (n *Node) hierarchy(controller string) (string, error) {
	given := n.config.MemoryCgroup
	if controller == "pids" {
		given = n.config.PIDsCgroup
	}
	if given != "" {
		return given, nil
	}
	file, err := os.Open(filepath.Join(n.config.Proc, "self", "mountinfo"))
	if err != nil {
		return "", err
	}
	defer file.Close()
	mounts, err := mountinfo.GetMountsFromReader(file, mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return "", fmt.Errorf("mountinfo: %w", err)
	}
	v2 := ""
	for _, m := range mounts {
		if m.FSType == "cgroup" && slices.Contains(strings.Split(m.VFSOptions, ","), controller) {
			return m.Mountpoint, nil
		}
		if m.FSType == "cgroup2" && v2 == "" {
			v2 = m.Mountpoint
		}
	}
	if v2 == "" {
		return "", fmt.Errorf("hierarchy of %s: %w", controller, ErrNoCgroup)
	}
	return v2, nil
}

type fileSystem struct {
	available, capacity int64
	free, inodes        int64
	device              uint64
}

func statfs(path string) (fileSystem, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return fileSystem{}, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	var of unix.Stat_t
	if err := unix.Stat(path, &of); err != nil {
		return fileSystem{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return fileSystem{available: int64(s.Bavail) * int64(s.Bsize), capacity: int64(s.Blocks) * int64(s.Bsize),
		free: int64(s.Ffree), inodes: int64(s.Files), device: uint64(of.Dev)}, nil
}

func read(name string) (string, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, longest))
	return string(text), err
}
