package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// mapStack mounts each layer of stack anew, with its IDs as userns has them,
// and gives these in its place. Overlay takes such mounts as layers since Linux
// 5.19, but wants them in the mount namespace: so they lie on a tmpfs, with
// which they all go at once.
func mapStack(dir string, stack []lower, userns *os.File) ([]lower, error) {
	if err := admit(dir, userns); err != nil {
		return nil, err
	}
	if len(stack) == 0 { // an image without layers: its root is ID 0's too
		empty := filepath.Join(dir, "empty")
		if err := mkdir(empty); err != nil {
			return nil, err
		}
		if err := os.Chmod(empty, 0o755); err != nil {
			return nil, err
		}
		stack = []lower{{dir: empty}}
	}
	base := filepath.Join(dir, mappedDir)
	if err := mkdir(base); err != nil {
		return nil, err
	}
	if err := detach(base); err != nil { // of a mount that was cut off
		return nil, err
	}
	if err := unix.Mount("tmpfs", base, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700,size=4m"); err != nil {
		return nil, fmt.Errorf("mount %s: %w", base, err)
	}
	out := make([]lower, len(stack))
	for i, l := range stack {
		to := filepath.Join(base, strconv.Itoa(i))
		if err := mkdir(to); err != nil {
			return nil, err
		}
		if err := attachMapped(l.dir, to, userns); err != nil {
			return nil, err
		}
		out[i] = lower{to, l.implied}
	}
	return out, nil
}

func dropMapped(dir string) error {
	base := filepath.Join(dir, mappedDir)
	if err := detach(base); err != nil {
		return err
	}
	return os.Remove(base)
}

// admit lets ID 0 of the user namespace pass through dir to the root file
// system, and nobody else: other users of the node could run the setuid
// programs in there.
func admit(dir string, userns *os.File) error {
	fd, err := cloneMapped(dir, userns)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return wrap("stat", err)
	}
	if err := os.Chown(dir, 0, int(st.Gid)); err != nil {
		return err
	}
	return os.Chmod(dir, 0o710)
}

func attachMapped(from, to string, userns *os.File) error {
	fd, err := cloneMapped(from, userns)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach %s: %w", from, err)
	}
	return nil
}

// cloneMapped gives a mount of dir that is nowhere attached, with IDs mapped.
func cloneMapped(dir string, userns *os.File) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return -1, unmappable(dir, err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		_ = unix.Close(fd)
		return -1, unmappable(dir, err)
	}
	return fd, nil
}

func unmappable(dir string, err error) error {
	err = fmt.Errorf("mount %s with mapped IDs: %w", dir, err)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w: the kernel or the file system cannot: %w", ErrNotSupported, err)
	}
	return err
}
