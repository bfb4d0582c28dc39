package metrics

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const supported = true

// The calls below take paths that end in a zero byte and lie on the heap, so
// that a read allocates nothing; x/sys copies a Go string for each call.

// translate turns what the kernel says of cgroup files into our errors.
func translate(errno unix.Errno) error {
	switch errno {
	case unix.ENOENT, unix.ENOTDIR, unix.ESRCH, unix.EOPNOTSUPP:
		// ESRCH: a process that is gone. EOPNOTSUPP: pressure switched off.
		return ErrAbsent
	case unix.ENODEV:
		return ErrGone
	default:
		return errno
	}
}

// sysOpen opens a file to read.
func sysOpen(path []byte) (int32, error) {
	for {
		cwd := unix.AT_FDCWD
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(cwd),
			uintptr(unsafe.Pointer(&path[0])), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
		if errno == 0 {
			return int32(fd), nil
		}
		if errno != unix.EINTR {
			return -1, translate(errno)
		}
	}
}

func sysRead(fd int32, into []byte, offset int64) (int, error) {
	for {
		n, err := unix.Pread(int(fd), into, offset)
		if err == nil {
			return n, nil
		}
		errno, ok := err.(unix.Errno)
		if !ok {
			return 0, err
		}
		if errno != unix.EINTR {
			return 0, translate(errno)
		}
	}
}

func sysClose(fd int32) { _ = unix.Close(int(fd)) }

// status is room for the answer of sysInode; keep one on the heap.
type status struct{ statx unix.Statx_t }

// sysInode returns the inode number of what path leads to, links followed.
func sysInode(path []byte, room *status) (uint64, error) {
	cwd := unix.AT_FDCWD
	_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(cwd),
		uintptr(unsafe.Pointer(&path[0])), 0, unix.STATX_INO, uintptr(unsafe.Pointer(&room.statx)), 0)
	if errno != 0 {
		return 0, translate(errno)
	}
	return room.statx.Ino, nil
}
