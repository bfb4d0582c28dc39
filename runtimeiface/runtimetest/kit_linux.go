package runtimetest

import (
	"fmt"
	"syscall"
)

// mountOn puts a tmpfs on a directory of the node.
func mountOn(dir string) error { return syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m") }

// propagates makes mounts below a mount point known to its copies, or not.
func propagates(dir string, shared bool) error {
	how := uintptr(syscall.MS_PRIVATE)
	if shared {
		how = syscall.MS_SHARED
	}
	return syscall.Mount("", dir, "", how, "")
}

func unmount(dir string) error { return syscall.Unmount(dir, syscall.MNT_DETACH) }

// deviceNumber tells a device's major and minor number.
func deviceNumber(path string) (major, minor int64, err error) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return 0, 0, fmt.Errorf("stat %s: %w", path, err)
	}
	return int64(st.Rdev >> 8 & 0xfff), int64(st.Rdev & 0xff), nil
}

// owner tells who owns a file.
func owner(path string) (string, error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return "", fmt.Errorf("stat %s: %w", path, err)
	}
	return fmt.Sprintf("%d %d", st.Uid, st.Gid), nil
}
