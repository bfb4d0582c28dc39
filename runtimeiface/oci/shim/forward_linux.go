package shim

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dialTime is how long a program in the pod may take to accept a connection.
const dialTime = 5 * time.Second

// forward connects to a port on the loopback of the pod and hands the connection
// over: the bytes pass through nobody else, and the agent enters no namespace.
func (s *server) forward(port string, gone <-chan struct{}, give func(fd int) error) error {
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return ErrMessage
	}
	v4 := &unix.SockaddrInet4{Port: int(number), Addr: [4]byte{127, 0, 0, 1}}
	v6 := &unix.SockaddrInet6{Port: int(number), Addr: [16]byte{15: 1}}
	errs := []error{s.dial(unix.AF_INET, v4, gone, give)}
	if errs[0] != nil {
		errs = append(errs, s.dial(unix.AF_INET6, v6, gone, give))
	}
	if len(errs) == 2 && errs[1] == nil {
		return nil
	}
	return errors.Join(errs...)
}

// dial makes a TCP connection and gives it away.
func (s *server) dial(family int, to unix.Sockaddr, gone <-chan struct{}, give func(fd int) error) error {
	fd, err := s.socket(family)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	switch err = unix.Connect(fd, to); err {
	case nil, unix.EINPROGRESS:
	default:
		_ = unix.Close(fd)
		return os.NewSyscallError("connect", err)
	}
	f := os.NewFile(uintptr(fd), "pod")
	defer func() { _ = f.Close() }()
	_ = f.SetWriteDeadline(time.Now().Add(dialTime))
	connected := make(chan struct{})
	defer close(connected)
	go func() {
		select {
		case <-gone:
			_ = f.Close()
		case <-connected:
		}
	}()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	waited, code := false, 0
	err = raw.Write(func(fd uintptr) bool {
		if _, perr := unix.Getpeername(int(fd)); perr == nil {
			return true
		}
		code, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		again := !waited && code == 0
		waited = true
		return !again
	})
	switch {
	case err != nil:
		return err
	case code != 0:
		return os.NewSyscallError("connect", syscall.Errno(code))
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	cerr := raw.Control(func(fd uintptr) { err = give(int(fd)) })
	return errors.Join(cerr, err)
}

// socket makes one in the pod's network, which is the shim's unless the pod has
// a user namespace.
func (s *server) socket(family int) (int, error) {
	const kind = unix.SOCK_STREAM | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	s.pauseMu.Lock()
	holder := s.netHolder
	s.pauseMu.Unlock()
	if holder == 0 {
		return unix.Socket(family, kind, 0)
	}
	own, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return -1, err
	}
	defer func() { _ = own.Close() }()
	pod, err := s.namespace(holder, "net")
	if err != nil {
		return -1, err
	}
	defer func() { _ = pod.Close() }()
	runtime.LockOSThread()
	if err := unix.Setns(int(pod.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return -1, err
	}
	fd, err := unix.Socket(family, kind, 0)
	if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread() // else the thread ends with this goroutine
	}
	return fd, err
}
