package metrics

import (
	"bytes"
	"errors"
	"io"
	"os"
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

// atCwd is the directory of paths that have none of their own.
const atCwd = int32(unix.AT_FDCWD)

// sysOpen opens a file to read; a relative path is below dir.
func sysOpen(dir int32, path []byte) (int32, error) {
	return openAt(dir, path, unix.O_RDONLY|unix.O_CLOEXEC)
}

// sysOpenDir opens a directory for sysOpen to begin from.
func sysOpenDir(dir int32, path []byte) (int32, error) {
	return openAt(dir, path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)
}

func openAt(dir int32, path []byte, flags uintptr) (int32, error) {
	for {
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(&path[0])), flags, 0, 0, 0)
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

// status is room for the answers of statx; keep one on the heap.
type status struct {
	statx unix.Statx_t
	empty [1]byte // a path
}

// sysInode returns the inode number of what path leads to, links followed.
func sysInode(path []byte, room *status) (uint64, error) {
	if err := sysStat(atCwd, path, 0, unix.STATX_INO, room); err != nil {
		return 0, err
	}
	return room.statx.Ino, nil
}

// sysSize returns the size of what path leads to.
func sysSize(path []byte, room *status) (uint64, error) {
	if err := sysStat(atCwd, path, 0, unix.STATX_SIZE, room); err != nil {
		return 0, err
	}
	return room.statx.Size, nil
}

// sysDir returns the inode number and the number of links of an open directory.
func sysDir(dir int32, room *status) (inode uint64, links uint32, err error) {
	if err := sysStat(dir, room.empty[:], unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_NLINK, room); err != nil {
		return 0, 0, err
	}
	return room.statx.Ino, room.statx.Nlink, nil
}

func sysStat(dir int32, path []byte, flags, mask uintptr, room *status) error {
	_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(dir),
		uintptr(unsafe.Pointer(&path[0])), flags, mask, uintptr(unsafe.Pointer(&room.statx)), 0)
	if errno != 0 {
		return translate(errno)
	}
	return nil
}

// sysSockets counts the links in a directory that name sockets, and takes the
// number of all from left; ErrTooMany when that is used up.
//
//	socket:[12345]
func sysSockets(dir string, left *int) (n uint64, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return 0, untangle(err)
	}
	defer f.Close()
	link := make([]byte, len("socket:"))
	for {
		names, err := f.Readdirnames(256)
		for _, name := range names {
			if *left--; *left < 0 {
				return 0, ErrTooMany
			}
			// One that was closed meanwhile is none.
			got, err := unix.Readlinkat(int(f.Fd()), name, link)
			if err == nil && bytes.HasPrefix(link[:got], []byte("socket:")) {
				n++
			} else if err != nil && err != unix.ENOENT {
				return 0, untangle(err)
			}
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return 0, untangle(err)
		}
	}
}

// untangle translates the errno in an error.
func untangle(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return translate(errno)
	}
	return err
}

// sysStatfs fills in the sizes of what is mounted at its Path.
func sysStatfs(f *Filesystem) error {
	var st unix.Statfs_t
	if err := unix.Statfs(f.Path, &st); err != nil {
		return err
	}
	block := uint64(st.Frsize)
	f.Capacity, f.Available, f.Used = st.Blocks*block, st.Bavail*block, (st.Blocks-min(st.Blocks, st.Bfree))*block
	f.Inodes, f.InodesFree = st.Files, st.Ffree
	return nil
}
