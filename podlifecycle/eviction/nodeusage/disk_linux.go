package nodeusage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/podlifecycle/eviction"
)

const (
	maxDepth = 255     // directories open at once
	maxLinks = 1 << 20 // files of several names that are remembered
	batch    = 512     // names read at once
)

// Disk measures what lies in a directory, itself included: blocks in use and
// inodes, without other file systems. No symbolic link below it is followed, and
// what goes while it is read is no error. A directory that is not there has nothing.
func (n *Node) Disk(ctx context.Context, dir string) (eviction.Disk, error) {
	n.walk.Lock()
	defer n.walk.Unlock()
	w := &walker{node: n, links: map[uint64]bool{}, since: n.config.Clock.Now()}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return eviction.Disk{}, nil
	}
	if err != nil {
		return eviction.Disk{}, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	var top unix.Stat_t
	if err := unix.Fstat(fd, &top); err != nil {
		_ = unix.Close(fd)
		return eviction.Disk{}, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	w.device = uint64(top.Dev)
	w.count(&top)
	err = w.directory(ctx, os.NewFile(uintptr(fd), dir), 1)
	return w.sum, err
}

type walker struct {
	node   *Node
	device uint64
	links  map[uint64]bool
	sum    eviction.Disk
	// The pace.
	since time.Time
	read  int
}

// directory counts what is in one, and closes it. Names are looked up in the
// open directory, so that nobody can move another tree in under them.
func (w *walker) directory(ctx context.Context, dir *os.File, depth int) error {
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(batch)
		for _, name := range names {
			if err := w.entry(ctx, dir, name, depth); err != nil {
				return err
			}
		}
		if err := w.pace(ctx, len(names)); err != nil {
			return err
		}
		if err != nil || len(names) == 0 {
			return nil // its end, or it was removed meanwhile
		}
	}
}

func (w *walker) entry(ctx context.Context, dir *os.File, name string, depth int) error {
	var s unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &s, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return fmt.Errorf("stat %s: %w", name, err)
	}
	if uint64(s.Dev) != w.device || !w.count(&s) || s.Mode&unix.S_IFMT != unix.S_IFDIR || depth >= maxDepth {
		return nil
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil // it is another thing by now
	case err != nil:
		return fmt.Errorf("open %s: %w", name, err)
	}
	return w.directory(ctx, os.NewFile(uintptr(fd), name), depth+1)
}

// count adds a file once, whatever its names.
func (w *walker) count(s *unix.Stat_t) bool {
	if s.Nlink > 1 && s.Mode&unix.S_IFMT != unix.S_IFDIR {
		if w.links[s.Ino] {
			return false
		}
		if len(w.links) < maxLinks {
			w.links[s.Ino] = true
		}
	}
	w.sum.Bytes += s.Blocks * 512
	w.sum.Inodes++
	return true
}

// pace waits until so many entries may have been read.
func (w *walker) pace(ctx context.Context, entries int) error {
	w.read += entries
	due := time.Duration(float64(w.read) / float64(w.node.config.Entries) * float64(time.Second))
	ahead := due - w.node.config.Clock.Since(w.since)
	if ahead <= 10*time.Millisecond {
		return ctx.Err()
	}
	timer := w.node.config.Clock.NewTimer(ahead)
	defer timer.Stop()
	select {
	case <-timer.C():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
