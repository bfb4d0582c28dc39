package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

var (
	errChanged     = errors.New("rules were changed by another program")
	errInterrupted = errors.New("rules changed while they were read")
)

// socket is a netlink socket to nf_tables. It is for one goroutine at a time.
type socket struct {
	fd     int
	port   uint32 // its address
	seq    uint32
	sndbuf int
	in     []byte
	broken bool // answers of an exchange may still come
}

// openSocket makes the socket in the namespace of descriptor netNS, or in the
// current one if that is 0.
func openSocket(netNS int) (*socket, error) {
	type made struct {
		fd  int
		err error
	}
	result := make(chan made, 1)
	go func() {
		if netNS > 0 {
			// Never unlocked: the thread ends with the goroutine.
			runtime.LockOSThread()
			if err := unix.Setns(netNS, unix.CLONE_NEWNET); err != nil {
				result <- made{-1, os.NewSyscallError("setns", err)}
				return
			}
		}
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		result <- made{fd, os.NewSyscallError("netlink socket", err)}
	}()
	m := <-result
	if m.err != nil {
		return nil, m.err
	}
	timeout := unix.NsecToTimeval(int64(10 * time.Second))
	err := unix.SetsockoptTimeval(m.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
	if err == nil {
		// Do not send a whole transaction back with each refusal.
		err = unix.SetsockoptInt(m.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	}
	if err == nil {
		err = unix.Bind(m.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err != nil {
		_ = unix.Close(m.fd)
		return nil, os.NewSyscallError("netlink socket", err)
	}
	s := &socket{fd: m.fd, sndbuf: 200 << 10, in: make([]byte, 256<<10)}
	own, err := unix.Getsockname(m.fd)
	if addr, ok := own.(*unix.SockaddrNetlink); ok && err == nil {
		s.port = addr.Pid
		return s, nil
	}
	_ = unix.Close(m.fd)
	return nil, os.NewSyscallError("netlink socket", err)
}

func (s *socket) close() error { return unix.Close(s.fd) }

// room makes sure that n bytes can be sent at once.
func (s *socket) room(n int) {
	if n <= s.sndbuf {
		return
	}
	if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, n) != nil {
		// In a user namespace: as far as net.core.wmem_max goes.
		_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, n)
	}
	s.sndbuf = n
}

func (s *socket) send(b []byte) error {
	for {
		err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("netlink send", err)
		}
	}
}

func (s *socket) receive(flags int) ([]byte, error) {
	for {
		n, from, err := unix.Recvfrom(s.fd, s.in, flags)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("netlink receive", err)
		}
		if addr, ok := from.(*unix.SockaddrNetlink); ok && addr.Pid != 0 {
			continue // not from the kernel
		}
		return s.in[:n], nil
	}
}

// begin throws away what an earlier, broken exchange left.
func (s *socket) begin() {
	broken := s.broken
	s.broken = true // until it has ended
	for broken {
		if _, err := s.receive(unix.MSG_DONTWAIT); err != nil {
			if errors.Is(err, unix.ENOBUFS) {
				continue
			}
			return
		}
	}
}

type message struct {
	kind, flags uint16
	seq         uint32
	port        uint32 // of the socket whose request it follows from
	data        []byte // after nlmsghdr
}

func messages(b []byte, f func(m message) error) error {
	for len(b) > 0 {
		if len(b) < 16 {
			return errAttribute
		}
		length := int(binary.NativeEndian.Uint32(b))
		if length < 16 || length > len(b) {
			return errAttribute
		}
		m := message{
			kind: binary.NativeEndian.Uint16(b[4:]), flags: binary.NativeEndian.Uint16(b[6:]),
			seq: binary.NativeEndian.Uint32(b[8:]), port: binary.NativeEndian.Uint32(b[12:]), data: b[16:length],
		}
		if err := f(m); err != nil {
			return err
		}
		b = b[min((length+3)&^3, len(b)):]
	}
	return nil
}

// errno of an NLMSG_ERROR, 0 for an acknowledgement.
func (m message) errno() unix.Errno {
	if len(m.data) < 4 {
		return unix.EBADMSG
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(m.data)))
}

// commit sends a closed batch. The kernel does it, or refuses all of it with
// a *TransactionError, before the call that sends returns; so its answers are
// there at once. errChanged means that the generation was not the batch's.
func (s *socket) commit(b *batch) error {
	s.begin()
	s.room(len(b.b) + 1024)
	if err := s.send(b.b); err != nil {
		return err
	}
	// That of the last message comes last: the kernel tells of all in their order,
	// but before them why the end failed.
	acked := b.seq - 2
	seen := false
	refused := &TransactionError{}
	for !seen {
		in, err := s.receive(unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			return err // ENOBUFS: too many refusals to be told
		}
		err = messages(in, func(m message) error {
			if m.kind != unix.NLMSG_ERROR {
				return nil
			}
			seen = seen || m.seq == acked
			errno := m.errno()
			if errno == 0 {
				return nil
			}
			if refused.Errno == nil {
				refused.Errno = errno
			}
			if what := b.describe(m.seq); len(refused.What) < 10 && !slices.Contains(refused.What, what) {
				refused.What = append(refused.What, what)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	s.broken = false
	switch {
	case refused.Errno == unix.ERESTART:
		return errChanged
	case refused.Errno != nil:
		return refused
	case !seen:
		return errors.New("netlink: the kernel did not acknowledge the transaction")
	}
	return nil
}

func (b *batch) describe(seq uint32) string {
	if int(seq) < len(b.what) {
		return b.what[seq]
	}
	return fmt.Sprintf("message %d", seq)
}

// request asks one question and calls f for each answer.
func (s *socket) request(kind, flags uint16, family uint8, fill func(w *buffer), f func(m message) error) error {
	s.begin()
	s.seq++
	w := &buffer{b: appendHeader(nil, kind, flags|flagRequest, s.seq, family, 0)}
	if fill != nil {
		fill(w)
	}
	binary.NativeEndian.PutUint32(w.b, uint32(len(w.b)))
	if err := s.send(w.b); err != nil {
		return err
	}
	done := false
	for !done {
		in, err := s.receive(0)
		if err != nil {
			return err
		}
		err = messages(in, func(m message) error {
			if m.seq != s.seq {
				return nil
			}
			if m.flags&unix.NLM_F_DUMP_INTR != 0 {
				return errInterrupted
			}
			switch m.kind {
			case unix.NLMSG_DONE:
				done = true
				if errno := m.errno(); errno != 0 && len(m.data) >= 4 {
					return errno
				}
				return nil
			case unix.NLMSG_ERROR:
				done = true
				if errno := m.errno(); errno != 0 {
					return errno
				}
				return nil
			}
			if flags&flagDump == 0 {
				done = true
			}
			if len(m.data) < 4 {
				return errAttribute
			}
			m.data = m.data[4:]
			return f(m)
		})
		if err != nil {
			return err
		}
	}
	s.broken = false
	return nil
}

// generation is the number of the kernel's current rules in this namespace.
func (s *socket) generation() (generation uint32, err error) {
	err = s.request(msgGetGen, 0, 0, nil, func(m message) error {
		return attributes(m.data, func(kind uint16, data []byte) error {
			if kind == 1 {
				generation = readU32(data)
			}
			return nil
		})
	})
	if err != nil {
		return 0, fmt.Errorf("read rule generation: %w", err)
	}
	return generation, nil
}
