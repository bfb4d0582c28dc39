package nftables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/nodekit/nodekit/proxyrules"
	"golang.org/x/sys/unix"
)

const (
	groupNftables = 7 // NFNLGRP_NFTABLES
	msgNewGen     = subsystem | 15
	// A transaction of more bytes is made with the watch off: the kernel would
	// tell us of each element of ours.
	quietBytes = 8 << 10
)

// watcher hears of all transactions in the namespace. Its methods may be called
// at the same time.
type watcher struct {
	file  *os.File
	raw   syscall.RawConn // of file
	table string

	mu      sync.Mutex
	notice  func(proxyrules.Drift) // nil: nobody watches
	own     uint32                 // port of the socket that our transactions come from
	last    uint32                 // generation heard of last; 0: none yet
	touched bool                   // our tables, since they were read
	deaf    bool                   // something may not have been heard since then
}

func openWatcher(netNS int, table string, own uint32) (*watcher, error) {
	s, err := openSocket(netNS)
	if err != nil {
		return nil, err
	}
	if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20) != nil {
		// In a user namespace: as far as net.core.rmem_max goes.
		_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	}
	if err := unix.SetNonblock(s.fd, true); err != nil {
		_ = s.close()
		return nil, os.NewSyscallError("netlink socket", err)
	}
	w := &watcher{file: os.NewFile(uintptr(s.fd), "nf_tables notices"), table: table, own: own, deaf: true}
	if w.raw, err = w.file.SyscallConn(); err != nil {
		_ = w.file.Close()
		return nil, err
	}
	return w, nil
}

// Watch tells of transactions of other programs that touch the tables, with
// their names as the kernel knows them, until ctx ends; then it returns nil. It
// is meant for proxyrules.Config.Watch, and for one caller at a time. Own
// transactions are not told of. Lost says that the kernel had more to tell than
// the socket could hold (ENOBUFS).
func (d *Dialect) Watch(ctx context.Context, notice func(proxyrules.Drift)) error {
	w := d.watch
	if err := w.begin(notice); err != nil {
		return err
	}
	defer w.end()
	// A deadline that is over wakes the reader. It must not strike the next one.
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_ = w.file.SetReadDeadline(time.Unix(1, 0))
	})
	defer func() {
		if !stop() {
			<-woken
		}
	}()
	in := make([]byte, 64<<10)
	for ctx.Err() == nil {
		var n int
		var got error
		err := w.raw.Read(func(fd uintptr) bool {
			n, _, got = unix.Recvfrom(int(fd), in, 0)
			return !errors.Is(got, unix.EAGAIN)
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("watch rules: %w", err)
		case errors.Is(got, unix.EINTR):
			continue
		case errors.Is(got, unix.ENOBUFS):
			w.lost()
			continue
		case got != nil:
			return fmt.Errorf("watch rules: %w", os.NewSyscallError("netlink receive", got))
		}
		if messages(in[:n], w.hear) != nil {
			w.lost()
		}
	}
	return nil
}

func (w *watcher) begin(notice func(proxyrules.Drift)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.notice != nil {
		return errors.New("watch rules: watched already")
	}
	if err := w.join(true); err != nil {
		return fmt.Errorf("watch rules: %w", err)
	}
	if err := w.file.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("watch rules: %w", err)
	}
	w.notice, w.deaf = notice, true
	return nil
}

func (w *watcher) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.join(false)
	w.notice, w.deaf = nil, true
}

func (w *watcher) join(join bool) error {
	option := unix.NETLINK_DROP_MEMBERSHIP
	if join {
		option = unix.NETLINK_ADD_MEMBERSHIP
	}
	var refused error
	err := w.raw.Control(func(fd uintptr) {
		refused = os.NewSyscallError("netlink group", unix.SetsockoptInt(int(fd), unix.SOL_NETLINK, option, groupNftables))
	})
	return errors.Join(err, refused)
}

// hear takes one message of the kernel. Those of a transaction end with a
// message of its generation and who made it.
func (w *watcher) hear(m message) error {
	if m.kind&0xff00 != subsystem || len(m.data) < 4 {
		return nil
	}
	family, attrs := m.data[0], m.data[4:]
	w.mu.Lock()
	own := m.port == w.own
	if m.kind != msgNewGen {
		defer w.mu.Unlock()
		if own || family != families[0].number && family != families[1].number {
			return nil
		}
		return attributes(attrs, func(kind uint16, data []byte) error {
			// The first attribute of each kind of message is its table.
			w.touched = w.touched || kind == 1 && readText(data) == w.table
			return nil
		})
	}
	var generation uint32
	var drift proxyrules.Drift
	err := attributes(attrs, func(kind uint16, data []byte) error {
		switch kind {
		case 1:
			generation = readU32(data)
		case 2:
			drift.PID = readU32(data)
		case 3:
			drift.Program = readText(data)
		}
		return nil
	})
	if w.last == 0 || int32(generation-w.last) > 0 {
		w.deaf = w.deaf || w.last != 0 && generation != following(w.last)
		w.last = generation
	}
	notice := w.notice
	tell := w.touched && !own
	w.mu.Unlock()
	if tell && notice != nil {
		notice(drift)
	}
	return err
}

func following(generation uint32) uint32 { return max(generation+1, 1) } // the kernel never uses 0

// lost tells that something may have happened that was not heard of.
func (w *watcher) lost() {
	w.mu.Lock()
	w.deaf = true
	notice := w.notice
	w.mu.Unlock()
	if notice != nil {
		notice(proxyrules.Drift{Lost: true})
	}
}

// reading says that all rules will be read now: what was heard before is old.
func (w *watcher) reading() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.deaf {
		w.last = 0
	}
	w.touched, w.deaf = false, w.notice == nil
}

// catchUp gives the generation up to which nobody but us has touched our
// tables, given one for which that is known.
func (w *watcher) catchUp(known uint32) uint32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.notice == nil || w.deaf || w.touched || w.last == 0 || int32(w.last-known) < 0 {
		return known
	}
	return w.last
}

// commit makes a transaction. The watch is off during a large one; whether
// another came between, the generation tells.
func (d *Dialect) commit(b *batch) error {
	w := d.watch
	w.mu.Lock()
	quiet := len(b.b) > quietBytes && w.notice != nil && w.join(false) == nil
	w.mu.Unlock()
	err := d.socket.commit(b)
	if !quiet {
		return err
	}
	w.mu.Lock()
	joined := w.notice == nil || w.join(true) == nil
	w.mu.Unlock()
	generation, failed := d.socket.generation()
	expected := b.generation
	if err == nil {
		expected = following(expected)
	}
	if !joined || failed != nil || generation != expected {
		w.lost()
		return err
	}
	w.mu.Lock()
	w.last = generation
	w.mu.Unlock()
	return err
}
