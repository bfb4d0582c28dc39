package shim

import (
	"errors"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// consoleTime is how long an OCI runtime that has ended well may take to have
// sent the terminal.
const consoleTime = 2 * time.Second

// A console is the socket at which an OCI runtime hands over the master of a
// terminal that it made in the container (runc's docs/terminals.md).
type console struct {
	dir, fd    int
	name, path string
}

// newConsole listens. The path goes through a descriptor: that of the sandbox's
// directory may be longer than a socket's address can be.
func (s *server) newConsole() (*console, error) {
	dir, err := unix.Open(s.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	c := &console{dir: dir, fd: -1, name: "console-" + strconv.FormatUint(s.execs.Add(1), 10)}
	c.path = "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(dir) + "/" + c.name
	if c.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		c.close()
		return nil, os.NewSyscallError("socket", err)
	}
	_ = unix.Unlinkat(dir, c.name, 0) // of a shim before
	if err = unix.Bind(c.fd, &unix.SockaddrUnix{Name: c.path}); err == nil {
		err = unix.Listen(c.fd, 1)
	}
	if err != nil {
		c.close()
		return nil, os.NewSyscallError("bind", err)
	}
	return c, nil
}

// master is the terminal that came. Nothing else in the container can have
// connected: the socket lies outside it.
func (c *console) master() (int, error) {
	if !readable(c.fd) {
		return -1, errors.New("the OCI runtime sent no terminal")
	}
	fd, _, err := unix.Accept4(c.fd, unix.SOCK_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("accept", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if !readable(fd) {
		return -1, errors.New("the OCI runtime sent no terminal")
	}
	var text [4096]byte // its name, of no use
	var oob [64]byte
	_, n, _, _, err := unix.Recvmsg(fd, text[:], oob[:], unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("recvmsg", err)
	}
	var fds []int
	messages, _ := unix.ParseSocketControlMessage(oob[:n])
	for _, m := range messages {
		got, _ := unix.ParseUnixRights(&m)
		fds = append(fds, got...)
	}
	if len(fds) == 1 {
		if _, err = unix.IoctlGetWinsize(fds[0], unix.TIOCGWINSZ); err == nil {
			return fds[0], nil
		}
	}
	closeAll(fds)
	return -1, errors.New("the OCI runtime sent something that is no terminal")
}

func (c *console) close() {
	if c.fd >= 0 {
		_ = unix.Close(c.fd)
		_ = unix.Unlinkat(c.dir, c.name, 0)
	}
	_ = unix.Close(c.dir)
}

func readable(fd int) bool {
	deadline := time.Now().Add(consoleTime)
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(max(time.Until(deadline), 0)/time.Millisecond))
		if err != unix.EINTR {
			return n > 0 && err == nil
		}
	}
}

// resize sets the size of the container's terminal.
func (s *server) resize(id string, width, height string) error {
	c := s.find(id)
	if c == nil {
		return errUnknown
	}
	w, err := strconv.ParseUint(width, 10, 16)
	h, err2 := strconv.ParseUint(height, 10, 16)
	if err != nil || err2 != nil {
		return ErrMessage
	}
	if !c.TTY {
		return errNoTTY
	}
	c.ops.Lock() // made whole
	defer c.ops.Unlock()
	if c.outs[0] == nil {
		return errNoTTY
	}
	raw, err := c.outs[0].SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(h), Col: uint16(w)})
	})
	return errors.Join(cerr, err)
}
