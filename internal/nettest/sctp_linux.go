package nettest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
)

// The kernel may translate SCTP and have no sockets of it, so these speak as
// much of it as a first packet and its answer need (RFC 9260): INIT and INIT
// ACK, with the answer's text as state cookie.
const (
	sctpInit    = 1
	sctpInitAck = 2
	sctpCookie  = 7
)

func sctpPacket(kind byte, from, to uint16, tag uint32, cookie string) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint32(b, tag)
	b = append(b, 0, 0, 0, 0) // checksum
	chunk := []byte{kind, 0, 0, 0}
	chunk = binary.BigEndian.AppendUint32(chunk, 77)    // the tag to use in answers
	chunk = binary.BigEndian.AppendUint32(chunk, 65536) // window
	chunk = append(chunk, 0, 1, 0, 1, 0, 0, 0, 1)       // streams out and in, first number
	if cookie != "" {
		chunk = binary.BigEndian.AppendUint16(chunk, sctpCookie)
		chunk = binary.BigEndian.AppendUint16(chunk, uint16(4+len(cookie)))
		chunk = append(chunk, cookie...)
		chunk = append(chunk, make([]byte, -len(chunk)&3)...)
	}
	binary.BigEndian.PutUint16(chunk[2:], uint16(len(chunk)))
	b = append(b, chunk...)
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func rawSCTP(v4 bool) (int, error) {
	family := unix.AF_INET6
	if v4 {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return -1, err
	}
	timeout := unix.NsecToTimeval(int64(100 * time.Millisecond))
	return fd, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
}

func sockaddr(addr netip.Addr) unix.Sockaddr {
	if addr.Is4() {
		return &unix.SockaddrInet4{Addr: addr.As4()}
	}
	return &unix.SockaddrInet6{Addr: addr.As16()}
}

// receiveSCTP gives the sender and the packet without its IP header.
func receiveSCTP(fd int, buf []byte) (netip.Addr, []byte, error) {
	n, from, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return netip.Addr{}, nil, err
	}
	b := buf[:n]
	var sender netip.Addr
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		sender = netip.AddrFrom4(a.Addr)
		b = b[min(int(b[0]&15)*4, n):]
	case *unix.SockaddrInet6:
		sender = netip.AddrFrom16(a.Addr)
	}
	if len(b) < 20 {
		return sender, nil, errors.New("short packet")
	}
	return sender, b, nil
}

// ServeSCTP answers each INIT to a port of an address with a text for its sender,
// until the test ends.
func ServeSCTP(tb kerneltest.TB, ns *kerneltest.NetNS, at netip.AddrPort, answer func(peer netip.Addr) string) {
	tb.Helper()
	var fd int
	err := ns.Do(func() (err error) {
		if fd, err = rawSCTP(at.Addr().Is4()); err != nil {
			return err
		}
		return unix.Bind(fd, sockaddr(at.Addr()))
	})
	if err != nil {
		tb.Fatalf("serve SCTP at %s: %v", at, err)
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 2000)
		for !stop.Load() {
			from, b, err := receiveSCTP(fd, buf)
			if err != nil || binary.BigEndian.Uint16(b[2:]) != at.Port() || b[12] != sctpInit {
				continue
			}
			peer := binary.BigEndian.Uint16(b)
			_ = unix.Sendto(fd, sctpPacket(sctpInitAck, at.Port(), peer, binary.BigEndian.Uint32(b[16:]), answer(from)), 0, sockaddr(from))
		}
	})
	tb.Cleanup(func() {
		stop.Store(true)
		wg.Wait()
		_ = unix.Close(fd)
	})
}

var sctpPort atomic.Uint32

// AskSCTP sends an INIT from a new port and waits for an answer from where it
// was sent to; a deadline that passes is unix.EAGAIN.
func AskSCTP(ns *kerneltest.NetNS, to netip.AddrPort) (string, error) {
	var fd int
	err := ns.Do(func() (err error) {
		if fd, err = rawSCTP(to.Addr().Is4()); err != nil {
			return err
		}
		return unix.Connect(fd, sockaddr(to.Addr()))
	})
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(fd) }()
	own := uint16(20000 + sctpPort.Add(1)%20000)
	if _, err := unix.Write(fd, sctpPacket(sctpInit, own, to.Port(), 0, "")); err != nil {
		return "", err
	}
	buf := make([]byte, 2000)
	for range 60 {
		from, b, err := receiveSCTP(fd, buf)
		switch {
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return "", err
		case from != to.Addr() || binary.BigEndian.Uint16(b) != to.Port() || binary.BigEndian.Uint16(b[2:]) != own || b[12] != sctpInitAck:
			continue
		}
		if len(b) < 36 {
			return "", fmt.Errorf("answer without cookie: %x", b)
		}
		length := int(binary.BigEndian.Uint16(b[34:]))
		if length < 4 || 32+length > len(b) {
			return "", fmt.Errorf("bad cookie: %x", b)
		}
		return string(bytes.TrimRight(b[36:32+length], "\x00")), nil
	}
	return "", unix.EAGAIN
}
