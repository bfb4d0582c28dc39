package shim

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	readSize = 32 << 10
	// maxRest is what may wait for a client once the program has ended: as much
	// as a pipe of an unprivileged program holds at most, Linux 6.18 pipe(7).
	maxRest = 1<<20 + readSize
	// hangupTime is how long to wait before looking again at a terminal that no
	// process has open: the program may open it again, and nobody tells.
	hangupTime = 100 * time.Millisecond
)

// buffers are the space that all streams of the shim read into, one at a time.
// trim gives it back.
type buffers struct {
	mu        sync.Mutex
	read, out []byte
}

func (b *buffers) trim() {
	b.mu.Lock()
	b.read, b.out = nil, nil
	b.mu.Unlock()
}

// pump copies a stream to the log and to clients until its end. It holds no
// buffer while it waits.
func (s *server) pump(c *container, stream int) {
	defer func() { c.log.finish(stream, time.Now()) }()
	raw, err := c.outs[stream].SyscallConn()
	if err != nil {
		return
	}
	for dead := false; ; {
		ended := false
		err := raw.Read(func(fd uintptr) bool {
			var again bool
			ended, again = s.buffers.readOnce(int(fd), stream, c)
			return !again
		})
		switch {
		case err != nil:
			return
		case !ended:
			c.clients.flush(stream)
			s.logged()
			continue
		case !c.TTY || dead:
			return
		}
		select {
		case <-c.dead:
			dead = true // once more, for what was said until then
		case <-time.After(hangupTime):
		}
	}
}

func (b *buffers) readOnce(fd, stream int, c *container) (ended, again bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.read == nil {
		b.read = make([]byte, readSize)
	}
	n, err := unix.Read(fd, b.read)
	switch {
	case err == unix.EINTR:
		return false, false
	case err == unix.EAGAIN:
		return false, true
	case err != nil || n == 0: // a terminal that nobody has open gives EIO
		return true, false
	}
	b.out = c.log.write(stream, b.read[:n], b.out, time.Now())
	c.clients.offer(stream, b.read[:n])
	return false, false
}

// clients are those attached to the output of a container.
type clients struct {
	mu    sync.Mutex
	count int
	list  [2][]*sink
}

func (c *clients) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count >= maxAttached {
		return false
	}
	c.count++
	return true
}

func (c *clients) leave() {
	c.mu.Lock()
	c.count--
	c.mu.Unlock()
}

// offer gives a piece of a stream to all clients and never waits.
func (c *clients) offer(stream int, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.list[stream] {
		k.offer(data)
	}
}

// flush waits until all clients have taken all of a stream. So a slow one slows
// the program: what it says waits in its pipe.
func (c *clients) flush(stream int) {
	c.mu.Lock()
	list := c.list[stream]
	c.mu.Unlock()
	for _, k := range list {
		k.flush()
	}
}

// add and remove make new lists: flush goes through the old one.
func (c *clients) add(sinks [2]*sink) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, k := range sinks {
		if k != nil {
			c.list[i] = append(c.list[i][:len(c.list[i]):len(c.list[i])], k)
		}
	}
}

func (c *clients) remove(sinks [2]*sink) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, gone := range sinks {
		var kept []*sink
		for _, k := range c.list[i] {
			if k != gone {
				kept = append(kept, k)
			}
		}
		c.list[i] = kept
	}
}

// A sink is a client's pipe for one stream. Beside the pipe's own buffer there
// is one piece at most that waits for the client, while the program lives.
type sink struct {
	file *os.File // does not block

	mu   sync.Mutex
	rest []byte
	err  error
}

func (k *sink) offer(data []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		return
	}
	if len(k.rest) == 0 {
		data = data[k.try(data):]
	}
	switch {
	case len(data) == 0 || k.err != nil:
	case len(k.rest)+len(data) > maxRest:
		k.rest, k.err = nil, errSlow
	default:
		k.rest = append(k.rest, data...)
	}
}

// try writes what there is room for.
func (k *sink) try(data []byte) int {
	raw, err := k.file.SyscallConn()
	if err != nil {
		k.err = err
		return 0
	}
	n := 0
	var werr error
	err = raw.Write(func(fd uintptr) bool {
		n, werr = unix.Write(int(fd), data)
		return true
	})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded): // the program is dead: all is kept
	case err != nil:
		k.err = err
	case werr != nil && werr != unix.EAGAIN && werr != unix.EINTR:
		k.err = werr
	}
	return max(n, 0)
}

// flush waits for the client, or for the deadline that the program's end sets.
func (k *sink) flush() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.rest) == 0 || k.err != nil {
		return
	}
	n, err := k.file.Write(k.rest)
	if k.rest = k.rest[n:]; len(k.rest) == 0 {
		k.rest = nil
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		k.rest, k.err = nil, err
	}
}
