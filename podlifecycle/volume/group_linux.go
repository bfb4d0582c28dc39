package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// What a group gets of files and directories, beside what there is.
const (
	groupReads  = 0o440
	groupWrites = 0o660
	groupEnters = unix.S_ISGID | 0o110
	// batch is how many entries of a directory are read at once.
	batch = 256
)

// GiveToGroup gives all that lies at Dir to Group, which may read it, and write it
// unless readOnly; files that come to be in its directories are its own too. It is
// for the Mount of a plug-in whose file system has owners, once that is mounted,
// and does nothing without a Group. With the pod's fsGroupChangePolicy OnRootMismatch
// it does nothing either if Dir is the group's already. Dir comes last: what broke
// off is begun anew. No link is followed, whoever changes files there meanwhile.
// ErrNotSupported: this is not Linux.
//
// Source: Kubernetes v1.37.0 pkg/volume/volume_linux.go.
func (r PluginRequest) GiveToGroup(ctx context.Context, readOnly bool) error {
	if r.Group == nil {
		return nil
	}
	root, err := os.OpenFile(r.Dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("give volume to its group: %w", err)
	}
	defer func() { _ = root.Close() }()
	g := giver{group: int(*r.Group), gets: groupWrites}
	if readOnly {
		g.gets = groupReads
	}
	onMismatch := false
	if c := r.Pod.Spec.SecurityContext; c != nil && c.FSGroupChangePolicy != nil {
		onMismatch = *c.FSGroupChangePolicy == corev1.FSGroupChangeOnRootMismatch
	}
	if err := g.all(ctx, root, onMismatch); err != nil {
		return fmt.Errorf("give volume to group %d: %w", g.group, err)
	}
	return nil
}

type giver struct {
	group int
	gets  uint32
}

func (g giver) all(ctx context.Context, root *os.File, onMismatch bool) error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &stat); err != nil {
		return err
	}
	if onMismatch && int(stat.Gid) == g.group && stat.Mode&(g.gets|groupEnters) == g.gets|groupEnters {
		return nil
	}
	if err := g.inside(ctx, root, ""); err != nil {
		return err
	}
	return g.give(int(root.Fd()), &stat)
}

// inside gives what lies in a directory, which is at a path from the root.
func (g giver) inside(ctx context.Context, dir *os.File, at string) error {
	if len(at) > unix.PathMax { // or directories within directories would be without end
		return fmt.Errorf("%.100s...: %w", at, unix.ENAMETOOLONG)
	}
	for {
		entries, end := dir.ReadDir(batch)
		for _, entry := range entries {
			if err := ctx.Err(); err != nil {
				return err
			}
			err := g.entry(ctx, dir, entry.Name(), path.Join(at, entry.Name()))
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // others may remove files
				return err
			}
		}
		if errors.Is(end, io.EOF) {
			return nil
		}
		if end != nil {
			return end
		}
	}
}

// entry is looked at, entered and given by one descriptor: its name may become
// that of something else at any time.
func (g giver) entry(ctx context.Context, dir *os.File, name, at string) error {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	defer func() { _ = unix.Close(fd) }()
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		sub, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		open := os.NewFile(uintptr(sub), at)
		err = g.inside(ctx, open, at)
		_ = open.Close()
		if err != nil {
			return err
		}
	}
	if err := g.give(fd, &stat); err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	return nil
}

func (g giver) give(fd int, stat *unix.Stat_t) error {
	kind, mode := stat.Mode&unix.S_IFMT, stat.Mode&0o7777|g.gets
	if kind == unix.S_IFDIR {
		mode |= groupEnters
	}
	if int(stat.Gid) == g.group && (kind == unix.S_IFLNK || stat.Mode&0o7777 == mode) {
		return nil
	}
	if err := unix.Fchownat(fd, "", -1, g.group, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("change group: %w", err)
	}
	if kind == unix.S_IFLNK { // it has no mode of its own
		return nil
	}
	// After the change of the group, which takes bits away.
	if err := unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode); err != nil {
		return fmt.Errorf("change mode: %w", err)
	}
	return nil
}
