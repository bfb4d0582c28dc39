package shim

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// pauseArg makes the shim's program the first process of a PID namespace that
// the containers of a pod share.
const pauseArg = "pause"

// pause lets the kernel reap what containers orphan, and lasts as long as the
// shim holds the other end of its standard input.
func pause() int {
	signal.Ignore(syscall.SIGCHLD)
	var b [1]byte
	for {
		n, err := unix.Read(0, b[:])
		if err != unix.EINTR && n <= 0 {
			return 0
		}
	}
}

// pausePID gives the first process of the pod's shared PID namespace, made at
// the first call.
func (s *server) pausePID() (int, error) {
	s.pauseMu.Lock()
	defer s.pauseMu.Unlock()
	if s.paused != 0 {
		return s.paused, nil
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(p[0]) }()
	null := uintptr(s.null)
	pid, _, err := s.reaper.forkIn(unix.CLONE_NEWPID, "/proc/self/exe", []string{"nodekit-shim", pauseArg},
		[]string{"GOMAXPROCS=1"}, []uintptr{uintptr(p[0]), null, null})
	if err != nil {
		_ = unix.Close(p[1])
		return 0, os.NewSyscallError("fork", err)
	}
	faultPoint("pause started")
	// p[1] stays open: its end is pause's end.
	s.paused = pid
	return pid, nil
}
