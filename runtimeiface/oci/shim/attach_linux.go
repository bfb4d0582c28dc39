package shim

import (
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxAttached is how many clients a container may have at once.
	maxAttached = 16
	// leaveTime is how long input that a client left behind may wait for the
	// program to take it.
	leaveTime = time.Second
	// outsiderTime is how long clients wait for the end of output that somebody
	// outside an ended container holds open, and goes on to write.
	outsiderTime = 5 * time.Second
)

var (
	errSlow    = errors.New("the client is too slow: output of the ended container is lost to it")
	errNoInput = errors.New("container has no standard input")
	errNoTTY   = errors.New("container has no terminal")
	errCrowded = errors.New(Crowded)
)

// stdin is the way to a program's standard input.
type stdin struct {
	mu   sync.Mutex
	file *os.File   // does not block; nil: there is none, or it has ended
	dups []*os.File // one for each client
}

// attach connects fds, a pipe's end for each stream that which names ("i", "o"
// and "e"), to the container. It says when they are, and returns when the
// container has ended and its output is delivered, or the client is gone.
func (s *server) attach(id, which string, fds []int, gone <-chan struct{}, attached func()) error {
	c := s.find(id)
	if c == nil {
		return errUnknown
	}
	if len(fds) != len(which) {
		return ErrMessage
	}
	if strings.Contains(which, "i") && !c.Stdin {
		return errNoInput
	}
	if !c.running() {
		return errExited
	}
	if !c.clients.enter() {
		return errCrowded
	}
	defer c.clients.leave()
	var sinks [2]*sink
	var input *os.File
	for i, stream := range []byte(which) {
		f, err := nonblocking(fds[i], "client")
		if err != nil {
			return err
		}
		fds[i] = -1
		switch stream {
		case 'i':
			input = f
			defer func() { _ = input.Close() }() // nil once it is fed from
		case 'o', 'e':
			k := &sink{file: f}
			defer func() { _ = k.file.Close() }()
			sinks[strings.IndexByte("oe", stream)] = k
		default:
			_ = f.Close()
			return ErrMessage
		}
	}
	c.clients.add(sinks)
	defer c.clients.remove(sinks)
	// The answer first: what comes then is what the client was promised.
	attached()
	if input != nil {
		go c.feed(input, gone)
		input = nil
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-gone:
			for _, k := range sinks {
				if k != nil {
					_ = k.file.Close()
				}
			}
		case <-ended:
		}
	}()
	select {
	case <-gone:
		return nil
	case <-c.dead:
	}
	// From now on there is nothing to slow down: the rest is kept here, so that
	// neither log nor exit wait for a client.
	for _, k := range sinks {
		if k != nil {
			_ = k.file.SetWriteDeadline(time.Unix(1, 0))
		}
	}
	select {
	case <-gone:
		return nil
	case <-c.done:
	}
	s.awaitDrain(c, gone)
	return c.deliver(sinks)
}

// awaitDrain waits until the output has ended, or has nothing in it.
func (s *server) awaitDrain(c *container, gone <-chan struct{}) {
	limit := time.After(outsiderTime)
	for {
		select {
		case <-c.drained:
			return
		case <-gone:
			return
		case <-limit:
			return
		case <-time.After(drainTime / 5):
			if s.buffers.silent(c.outs) {
				return
			}
		}
	}
}

// silent tells that no output waits to be read, or to be handed on.
func (b *buffers) silent(outs [2]*os.File) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Empty(outs[:]...)
}

// Empty tells that none of the files, pipes or terminals, has anything to be
// read. Those that are nil or closed have not.
func Empty(files ...*os.File) bool {
	for _, f := range files {
		if f == nil {
			continue
		}
		raw, err := f.SyscallConn()
		if err != nil {
			continue
		}
		n := 0
		_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
		if n > 0 {
			return false
		}
	}
	return true
}

// deliver gives clients what is left for them, however long they take.
func (c *container) deliver(sinks [2]*sink) error {
	c.clients.remove(sinks)
	var errs []error
	for _, k := range sinks {
		if k == nil {
			continue
		}
		_ = k.file.SetWriteDeadline(time.Time{})
		k.flush()
		k.mu.Lock()
		if k.err == errSlow {
			errs = append(errs, k.err)
		}
		k.mu.Unlock()
		_ = k.file.Close()
	}
	return errors.Join(errs...)
}

func (c *container) running() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.started.IsZero() && !c.exited
}

// feed carries a client's input to the program. With StdinOnce its end is that
// of the program's input, but for a terminal, whose input has none.
func (c *container) feed(from *os.File, gone <-chan struct{}) {
	defer func() { _ = from.Close() }()
	to := c.stdin.dup()
	if to == nil {
		return
	}
	fed := make(chan struct{})
	defer close(fed)
	go func() {
		select {
		case <-fed:
		case <-gone:
			// What it said before it left shall not be lost for nothing.
			_ = from.SetReadDeadline(time.Now().Add(leaveTime))
			_ = to.SetWriteDeadline(time.Now().Add(leaveTime))
		case <-c.dead:
			_ = to.Close()
			_ = from.Close()
		}
	}()
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	if c.StdinOnce && !c.TTY {
		c.stdin.close()
	}
	c.stdin.drop(to)
}

// dup gives a descriptor of one client's own, or nil if input has ended.
func (s *stdin) dup() *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	fd, err := dupOf(s.file)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), "stdin")
	s.dups = append(s.dups, f)
	return f
}

func (s *stdin) drop(f *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dups = slices.DeleteFunc(s.dups, func(d *os.File) bool { return d == f })
	_ = f.Close()
}

func (s *stdin) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range append(s.dups, s.file) {
		_ = f.Close() // of nil, too
	}
	s.file, s.dups = nil, nil
}

// dupOf gives another descriptor of an open file.
func dupOf(f *os.File) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	cerr := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3) })
	if cerr != nil {
		return -1, cerr
	}
	return fd, err
}

// nonblocking makes a file that one can wait for. On error fd is left open.
func nonblocking(fd int, name string) (*os.File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
