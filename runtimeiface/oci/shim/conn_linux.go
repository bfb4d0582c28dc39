package shim

import (
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// tellTime is how long the other side may take to take a message.
const tellTime = 2 * time.Second

// maxRights is how many descriptors one message may bring.
const maxRights = 8

// A Conn is a connection between agent and shim: messages, and descriptors
// with them. Send may be called concurrently, the rest not.
type Conn struct {
	*net.UnixConn
	mu   sync.Mutex
	fds  []int
	turn uint64 // of the shim's connections, the first has 0
}

// Read takes descriptors along.
func (c *Conn) Read(p []byte) (int, error) {
	var oob [64]byte
	n, oobn, _, _, err := c.ReadMsgUnix(p, oob[:])
	if oobn > 0 {
		messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
		for _, m := range messages {
			fds, _ := unix.ParseUnixRights(&m)
			c.fds = append(c.fds, fds...)
		}
	}
	if len(c.fds) > maxRights {
		return 0, ErrMessage
	}
	if n == 0 && err == nil && len(p) > 0 {
		return 0, net.ErrClosed
	}
	return n, err
}

// Rights gives the descriptors that came with the message just read. They are
// the caller's to close.
func (c *Conn) Rights() []int {
	fds := c.fds
	c.fds = nil
	return fds
}

// Send writes a message with descriptors, which stay the caller's.
func (c *Conn) Send(m Message, fds ...int) error {
	b, err := m.Append(nil)
	if err != nil {
		return err
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.SetWriteDeadline(time.Now().Add(tellTime))
	if len(fds) == 0 {
		_, err = c.Write(b)
		return err
	}
	n, _, err := c.WriteMsgUnix(b, oob, nil)
	if err == nil && n < len(b) {
		_, err = c.Write(b[n:])
	}
	return err
}

// CloseRights closes the connection and what came with no message that was read.
func (c *Conn) CloseRights() {
	_ = c.Close()
	closeAll(c.Rights())
}

// closeAll closes descriptors; those that somebody took are -1.
func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}
