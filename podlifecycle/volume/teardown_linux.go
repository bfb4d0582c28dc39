package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

// deepest is how many descriptors removal holds at most; directories below are
// first moved up, because a pod can nest without limit.
const deepest = 64

// Teardown unmounts what Setup and Mounts mounted and removes the pod's
// directory. It never follows a link nor crosses into a mount: if something is
// still mounted, it removes nothing and gives ErrMounted. Unknown UID: nil.
func (m *Manager) Teardown(ctx context.Context, uid types.UID) error {
	if err := element(string(uid)); err != nil {
		return fmt.Errorf("UID: %w", err)
	}
	defer m.lock(uid)()
	dir := m.PodDir(uid)
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	// The kernel shows mounts without symbolic links.
	real, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		return err
	}
	real = filepath.Join(real, string(uid))
	mounts, err := mountsBelow(real)
	if err != nil {
		return err
	}
	for _, mount := range mounts {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !ours(real, mount) {
			continue
		}
		if err := unix.Unmount(mount, unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w: %w", mount, ErrMounted, err)
		}
	}
	if err := m.unplug(ctx, uid); err != nil {
		return err
	}
	if mounts, err = mountsBelow(real); err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("%s: %w", strings.Join(mounts, ", "), ErrMounted)
	}
	if err := removeTree(ctx, real); err != nil {
		return fmt.Errorf("remove %s: %w", real, err)
	}
	return nil
}

// mountsBelow lists mount points at or below dir, the later mounted first.
func mountsBelow(dir string) ([]string, error) {
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	var result []string
	for _, info := range infos {
		result = append(result, info.Mountpoint)
	}
	slices.Reverse(result)
	return result, nil
}

// ours tells whether this package mounts at such a place: UID/volumes/KIND/NAME
// and UID/volume-subpaths/VOLUME/CONTAINER/INDEX.
func ours(podDir, mount string) bool {
	rel, err := filepath.Rel(podDir, mount)
	if err != nil {
		return false
	}
	parts := strings.Split(rel, "/")
	switch {
	case len(parts) == 3 && parts[0] == "volumes":
		return slices.Contains([]string{emptyDirKind, secretKind, downwardKind, projectedKind}, parts[1])
	case len(parts) == 4 && parts[0] == "volume-subpaths":
		return true
	}
	return false
}

// RemoveTree removes a directory and all below. It never follows a link nor
// crosses into a mount: if something is mounted there, it removes nothing and gives
// ErrMounted. Not there: nil.
func RemoveTree(ctx context.Context, path string) error {
	if info, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err == nil && !info.IsDir() {
		return fmt.Errorf("remove %s: %w", path, unix.ENOTDIR)
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	mounts, err := mountsBelow(real)
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("%s: %w", strings.Join(mounts, ", "), ErrMounted)
	}
	return removeTree(ctx, real)
}

// removeTree removes path and all below, on one mount only.
func removeTree(ctx context.Context, path string) error {
	parent, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(parent) }()
	top, err := openDir(parent, filepath.Base(path))
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(top) }()
	r := remover{ctx: ctx, top: top}
	// Again while directories were moved up.
	for moved := -1; moved != r.moved; {
		moved = r.moved
		if err := r.empty(top, 0); err != nil {
			return err
		}
	}
	return unix.Unlinkat(parent, filepath.Base(path), unix.AT_REMOVEDIR)
}

type remover struct {
	ctx   context.Context
	top   int
	moved int
}

// openDir opens a directory without leaving its parent's mount; ErrMounted.
func openDir(parent int, name string) (int, error) {
	for {
		fd, err := unix.Openat2(parent, name, &unix.OpenHow{
			Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
		})
		switch {
		case err == nil:
			return fd, nil
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EXDEV):
			return -1, fmt.Errorf("%s: %w", name, ErrMounted)
		}
		return -1, fmt.Errorf("open %s: %w", name, err)
	}
}

// empty removes what is in the directory dir.
func (r *remover) empty(dir, depth int) error {
	names, err := list(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		err := unix.Unlinkat(dir, name, 0)
		if err == nil || errors.Is(err, unix.ENOENT) {
			continue
		}
		if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
			return removeError(name, err)
		}
		if depth >= deepest {
			if err := r.moveUp(dir, name); err != nil {
				return err
			}
			continue
		}
		child, err := openDir(dir, name)
		if err != nil {
			return err
		}
		err = r.empty(child, depth+1)
		_ = unix.Close(child)
		if err != nil {
			return err
		}
		if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
			return removeError(name, err)
		}
	}
	return nil
}

// moveUp moves a directory to the top, under a name that an interrupted call
// did not leave there.
func (r *remover) moveUp(dir int, name string) error {
	for {
		r.moved++
		err := unix.Renameat2(dir, name, r.top, "..removing-"+strconv.Itoa(r.moved), unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		if err != nil {
			return removeError(name, err)
		}
		return nil
	}
}

func removeError(name string, err error) error {
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%s: %w", name, ErrMounted)
	}
	return fmt.Errorf("remove %s: %w", name, err)
}

func list(dir int) ([]string, error) {
	// A descriptor of its own, because os.File closes what it is given.
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), ".")
	defer func() { _ = f.Close() }()
	return f.Readdirnames(-1)
}
