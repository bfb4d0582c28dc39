package volume

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// memory is how a file system in memory shall be.
type memory struct {
	mode   uint32
	size   int64 // bytes, 0 for the kernel's default
	group  *int64
	noSwap bool
}

// mountMemory mounts a file system in memory at dir, if nothing is there yet.
func mountMemory(dir string, m memory) error {
	mounted, err := mountinfo.Mounted(dir)
	if err != nil || mounted {
		return err
	}
	options := fmt.Sprintf("mode=%o", m.mode)
	if m.size > 0 {
		options += fmt.Sprintf(",size=%d", m.size)
	}
	if m.group != nil {
		options += fmt.Sprintf(",gid=%d", *m.group)
	}
	if m.noSwap {
		// Linux 6.3; older kernels give EINVAL.
		err = unix.Mount("tmpfs", dir, "tmpfs", 0, options+",noswap")
		if err == nil || !errors.Is(err, unix.EINVAL) {
			return mountError(dir, err)
		}
	}
	return mountError(dir, unix.Mount("tmpfs", dir, "tmpfs", 0, options))
}

func mountError(dir string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("mount tmpfs at %s: %w", dir, err)
}

// bindSubPath mounts sub of the volume at target, following no link out of the
// volume. A mount that is there of the same file is used again.
func bindSubPath(volume, sub, target string, makeMissing bool) error {
	if makeMissing {
		if err := makeSubPath(volume, sub); err != nil {
			return err
		}
	}
	fd, err := openBeneath(volume, sub)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	var want unix.Stat_t
	if err := unix.Fstat(fd, &want); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	isDir := want.Mode&unix.S_IFMT == unix.S_IFDIR
	mounted, err := mountinfo.Mounted(target)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if mounted {
		var have unix.Stat_t
		if err := unix.Lstat(target, &have); err == nil && have.Dev == want.Dev && have.Ino == want.Ino {
			return nil
		}
		// Containers that run hold copies of their own.
		if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
	if err := makeTarget(target, isDir); err != nil {
		return err
	}
	// The descriptor, not a path that may have changed since.
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind at %s: %w", target, err)
	}
	return nil
}

// makeSubPath makes directories with the mode of the volume.
func makeSubPath(volume, sub string) error {
	root, err := os.OpenRoot(volume)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	if _, err := root.Stat(sub); !errors.Is(err, fs.ErrNotExist) {
		// There, or a way out, which openBeneath names.
		return nil
	}
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	if err := root.MkdirAll(sub, info.Mode().Perm()); err != nil {
		return err
	}
	// In spite of the umask, for the last element as the kubelet does for each.
	return root.Chmod(sub, info.Mode())
}

// readBeneath reads a regular file of the volume that is no larger than most.
func readBeneath(volume, sub string, most int64) ([]byte, error) {
	fd, err := openBeneath(volume, sub)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	var info unix.Stat_t
	if err := unix.Fstat(fd, &info); err != nil {
		return nil, fmt.Errorf("stat: %w", err)
	}
	// A pipe of the pod's would keep us for ever.
	if info.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("is no regular file: %w", ErrInvalid)
	}
	file, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.LimitReader(file, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("is larger than %d bytes: %w", most, ErrInvalid)
	}
	return text, err
}

func openBeneath(volume, sub string) (int, error) {
	base, err := unix.Open(volume, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", volume, err)
	}
	defer func() { _ = unix.Close(base) }()
	for {
		fd, err := unix.Openat2(base, sub, &unix.OpenHow{
			Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
		})
		switch {
		case err == nil:
			return fd, nil
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			// Something was renamed meanwhile.
			continue
		case errors.Is(err, unix.EXDEV), errors.Is(err, unix.ELOOP):
			return -1, ErrEscape
		case errors.Is(err, unix.ENOENT):
			return -1, ErrMissing
		case errors.Is(err, unix.ENOSYS):
			return -1, fmt.Errorf("subPath without openat2 (Linux 5.6): %w", ErrNotSupported)
		}
		return -1, fmt.Errorf("open: %w", err)
	}
}

// makeTarget makes the file or directory to mount on.
func makeTarget(target string, isDir bool) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	if info, err := os.Lstat(target); err == nil && info.IsDir() != isDir {
		if err := os.Remove(target); err != nil {
			return err
		}
	}
	if isDir {
		err := os.Mkdir(target, 0o750)
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}

// canRecursiveReadOnly tells whether the kernel has mount_setattr (Linux 5.12).
var canRecursiveReadOnly = sync.OnceValue(func() bool {
	err := unix.MountSetattr(-1, "", 0, &unix.MountAttr{})
	return !errors.Is(err, unix.ENOSYS)
})
