package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/containerd/cgroups/v3"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/metrics"
)

// alone is the limit of every meter: the descriptors that a Meter keeps, each
// read once a round in the same order, and nothing done with the text. With
// needed it leaves out what a Meter leaves out of cgroups that sleep.
func alone(parent string, number int, needed bool) (meter, error) {
	spared, err := sparedFiles()
	if err != nil {
		return meter{}, err
	}
	spared["blkio.throttle.io_service_bytes_recursive"] = true
	m, files, err := whatIsRead(parent, metrics.Config{Descriptors: 20 * (number + 100)}, func(f file) bool { return needed && spared[f.name] }, needed)
	if err != nil {
		return meter{}, err
	}
	text := make([]byte, 64<<10)
	return eachFile(files, func(f *file) error {
		_, err := unix.Pread(f.fd, text, 0)
		return err
	}, m.close), nil
}

// aloneOpenAt is alone without kept descriptors: each file is opened below its
// hierarchy, read and closed.
func aloneOpenAt(parent string, number int) (meter, error) {
	// A Meter that keeps none does not show what it reads, so one that does is
	// asked, and ends: an open file makes the next opening of it cheaper.
	spared, err := sparedFiles()
	if err != nil {
		return meter{}, err
	}
	spared["io.stat"] = true
	m, files, err := whatIsRead(parent, metrics.Config{Descriptors: 20 * (number + 100)}, func(f file) bool { return spared[f.name] }, false)
	if err != nil {
		return meter{}, err
	}
	if err := m.close(); err != nil {
		return meter{}, err
	}
	roots := map[string]int{}
	stop := func() (err error) {
		for _, fd := range roots {
			err = errors.Join(err, unix.Close(fd))
		}
		return err
	}
	for i := range files {
		f := &files[i]
		fd, ok := roots[f.root]
		if !ok {
			if fd, err = unix.Open(f.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
				return meter{}, errors.Join(err, stop())
			}
			roots[f.root] = fd
		}
		f.fd = fd
	}
	text := make([]byte, 64<<10)
	return eachFile(files, func(f *file) error {
		// x/sys would copy the path.
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(f.fd), uintptr(unsafe.Pointer(&f.below[0])), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
		if errno != 0 {
			return errno
		}
		_, err := unix.Pread(int(fd), text, 0)
		return errors.Join(err, unix.Close(int(fd)))
	}, stop), nil
}

// sparedFiles are those that a Meter does not read of cgroups that sleep, with
// kept descriptors or with openat.
func sparedFiles() (map[string]bool, error) {
	if cgroups.Mode() != cgroups.Unified {
		return map[string]bool{"cpuacct.stat": true, "cpu.stat": true}, nil
	}
	memory, err := os.ReadFile("/proc/meminfo")
	none := regexp.MustCompile(`(?m)^SwapTotal: +0 kB$`).Match(memory)
	return map[string]bool{"memory.events": true, "memory.swap.current": none}, err
}

func eachFile(files []file, do func(*file) error, stop func() error) meter {
	count := uint64(0)
	return meter{
		reads: func() uint64 { return count },
		round: func() error {
			for i := range files {
				if err := do(&files[i]); err != nil {
					return fmt.Errorf("%s: %w", files[i].below, err)
				}
			}
			count += uint64(len(files))
			return nil
		},
		close: stop,
	}
}

// whatIsRead runs a Meter that keeps all it reads open, and gives those files
// that are not left out; with exact they are as many as it reads in a round.
func whatIsRead(parent string, cfg metrics.Config, leaveOut func(file) bool, exact bool) (meter, []file, error) {
	m, err := ours(parent, cfg)
	if err != nil {
		return meter{}, nil, err
	}
	// Some may not sleep yet, and a Meter reads the node's CPU too, of which no
	// file is below the parent.
	files, err := poll(time.Minute, func() ([]file, error) {
		before := m.reads()
		if err := m.round(); err != nil {
			return nil, err
		}
		want := m.reads() - before
		files, err := keptFiles(parent)
		if err != nil {
			return nil, err
		}
		files = slices.DeleteFunc(files, leaveOut)
		if n := uint64(len(files)); exact && (want < n || want > n+3) {
			err = fmt.Errorf("a meter reads %d files and not %d", want, n)
		}
		return files, err
	})
	if err != nil {
		return meter{}, nil, errors.Join(err, m.close())
	}
	return m, files, nil
}

// withoutPressure meters v1 alone: pressure is told by the v2 tree of a hybrid
// machine, which is not among the hierarchies that this Meter is shown.
func withoutPressure(parent string, descriptors int) (meter, error) {
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
	m, err := ours(parent, metrics.Config{Descriptors: descriptors, CgroupRoot: root})
	if err != nil {
		return meter{}, errors.Join(err, os.RemoveAll(root))
	}
	stop := m.close
	m.close = func() error { return errors.Join(stop(), os.RemoveAll(root)) }
	return m, nil
}

// file is an open one of a cgroup: below is its path from the root of the
// hierarchy, with a zero byte at its end.
type file struct {
	fd    int
	root  string
	below []byte
	name  string
}

// keptFiles finds the open files of cgroups below a parent, in the order in
// which they were opened.
func keptFiles(parent string) ([]file, error) {
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	var files []file
	for _, e := range entries {
		path, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil {
			continue // that of the directory
		}
		at := slices.IndexFunc(all, func(h hierarchy) bool { return strings.HasPrefix(path, h.path+parent+"/") })
		if at < 0 {
			continue
		}
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			return nil, err
		}
		h := all[at]
		files = append(files, file{fd, h.path, append([]byte(path[len(h.path)+1:]), 0), filepath.Base(path)})
	}
	slices.SortFunc(files, func(a, b file) int { return a.fd - b.fd })
	return files, nil
}
