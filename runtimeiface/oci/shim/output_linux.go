package shim

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const readSize = 32 << 10

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

// pump copies a stream to the log until its end. It holds no buffer while it
// waits.
func (b *buffers) pump(from *os.File, stream int, log *logFile, active func()) {
	defer func() { log.finish(stream, time.Now()) }()
	raw, err := from.SyscallConn()
	if err != nil {
		return
	}
	for ended := false; !ended; {
		err := raw.Read(func(fd uintptr) bool {
			var again bool
			ended, again = b.readOnce(int(fd), stream, log)
			return !again
		})
		if err != nil {
			return
		}
		active()
	}
}

func (b *buffers) readOnce(fd, stream int, log *logFile) (ended, again bool) {
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
	case err != nil || n == 0:
		return true, false
	}
	b.out = log.write(stream, b.read[:n], b.out, time.Now())
	return false, false
}
