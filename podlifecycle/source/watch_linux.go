package source

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// What of a directory is watched. A file that was opened to be written says so
// when it is made or changed, and again when it is closed.
const (
	watched = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
		unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	ownEnd = unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_IGNORED | unix.IN_UNMOUNT
)

// watch follows what happens in a directory, by inotify. It tells what the kernel
// queued before the call, not what a goroutine has come to read of it.
type watch struct {
	file *os.File
	raw  syscall.RawConn
	wake chan struct{}
	over chan struct{} // the goroutine has ended

	mu      sync.Mutex
	path    string
	wd      int // of the directory, -1: none
	count   uint64
	writing map[string]bool
	buffer  [64 << 10]byte
}

// newWatch fails when the user has as many watches as he may.
func newWatch() (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	w := &watch{file: os.NewFile(uintptr(fd), "inotify"), wake: make(chan struct{}, 1), over: make(chan struct{}), wd: -1, writing: map[string]bool{}}
	if w.raw, err = w.file.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("watch: %w", err), w.file.Close())
	}
	go func() {
		defer close(w.over)
		for w.raw.Read(w.drain) == nil {
			w.poke()
		}
	}()
	return w, nil
}

func (w *watch) close() {
	_ = w.file.Close()
	<-w.over
}

// woken has something when something happened.
func (w *watch) woken() <-chan struct{} { return w.wake }

// poke has woken tell that something happened.
func (w *watch) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// add watches the directory that is at path now, and no other.
func (w *watch) add(path string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	wd := -1
	err := w.raw.Control(func(fd uintptr) {
		var err error
		if wd, err = unix.InotifyAddWatch(int(fd), path, watched); err != nil {
			wd = -1
		}
		if w.wd >= 0 && w.wd != wd {
			_, _ = unix.InotifyRmWatch(int(fd), uint32(w.wd)) // it may have gone by itself
			clear(w.writing)
		}
	})
	if err != nil {
		wd = -1
	}
	w.path, w.wd = path, wd
	return wd >= 0
}

// seen gives how often something has happened so far, and whether a file is
// being written.
func (w *watch) seen() (count uint64, writing bool) {
	_ = w.raw.Control(func(fd uintptr) { w.drain(fd) })
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count, len(w.writing) > 0
}

// settled takes every file for written.
func (w *watch) settled() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.writing)
}

// lost tells that the directory is not watched any more.
func (w *watch) lost() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wd < 0
}

// drain takes in what the kernel has queued, and tells whether there was anything.
func (w *watch) drain(fd uintptr) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.count
	for {
		n, err := unix.Read(int(fd), w.buffer[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return w.count != before
		}
		eachEvent(w.buffer[:n], w.event)
	}
}

// eachEvent reads struct inotify_event, one after the other, each with a name
// that is filled up with zeros. Source: Linux v6.18 include/uapi/linux/inotify.h.
//
//	int32 wd; uint32 mask; uint32 cookie; uint32 len; char name[len]
func eachEvent(data []byte, do func(wd int, mask uint32, name string)) {
	for len(data) >= unix.SizeofInotifyEvent {
		wd := int(int32(binary.NativeEndian.Uint32(data)))
		mask, size := binary.NativeEndian.Uint32(data[4:]), uint64(binary.NativeEndian.Uint32(data[12:]))
		data = data[unix.SizeofInotifyEvent:]
		if size > uint64(len(data)) {
			return
		}
		name, _, _ := bytes.Cut(data[:size], []byte{0})
		do(wd, mask, string(name))
		data = data[size:]
	}
}

// event takes in one; mu is held.
func (w *watch) event(wd int, mask uint32, name string) {
	switch {
	case mask&unix.IN_Q_OVERFLOW != 0:
		clear(w.writing) // nobody knows
	case wd != w.wd:
		return // of a directory that was at this path before
	case mask&ownEnd != 0:
		w.wd = -1
		clear(w.writing)
	case mask&(unix.IN_CREATE|unix.IN_MODIFY|unix.IN_CLOSE_WRITE) != 0:
		// What a name that is no manifest's comes to is told when it is moved.
		if mask&unix.IN_ISDIR != 0 || !manifestName(name) {
			return
		}
		if mask&unix.IN_CLOSE_WRITE != 0 || mask&unix.IN_CREATE != 0 && w.link(name) {
			delete(w.writing, name)
		} else {
			w.writing[name] = true
		}
	default:
		delete(w.writing, name)
	}
	w.count++
}

// link tells whether a name that is new is one more of a file that was there, or
// of another's: nobody will close it. That a file has content does not tell: the
// kernel shows what is written before it says so.
func (w *watch) link(name string) bool {
	info, err := os.Lstat(filepath.Join(w.path, name))
	if err != nil || info.Mode().Type() == fs.ModeSymlink {
		return true
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Nlink > 1
}
