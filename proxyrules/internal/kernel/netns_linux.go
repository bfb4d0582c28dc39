package kernel

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// OpenNetNS gives a descriptor of the caller's own: of the network namespace
// that fd is open on, or of the thread's for 0.
func OpenNetNS(fd int) (*os.File, error) {
	if fd > 0 {
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, os.NewSyscallError("fcntl", err)
		}
		return os.NewFile(uintptr(own), "network namespace"), nil
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return os.Open("/proc/thread-self/ns/net")
}
