package discovery

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// inotify watches each directory of each hierarchy.
type inotify struct {
	*os.File
	fd    int // of File, whose Fd may make it block
	d     *Discovery
	paths map[int32]place // by watch
	watch map[place]int32
	buf   []byte
}

type place struct {
	root   int
	cgroup string
}

func (d *Discovery) inotify(ctx context.Context) ([]watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &inotify{File: os.NewFile(uintptr(fd), "inotify"), fd: fd, d: d, paths: map[int32]place{}, watch: map[place]int32{}, buf: make([]byte, 64<<10)}
	return []watcher{w}, w.addAll(ctx)
}

// addAll watches every directory that is not watched.
func (w *inotify) addAll(ctx context.Context) error {
	for i, root := range w.d.roots {
		var errs []error
		one := func(cgroup string) {
			if err := w.add(i, cgroup); err != nil && !gone(err) && len(errs) == 0 {
				errs = append(errs, err)
			}
		}
		one(w.d.cfg.Below)
		errs = append(errs, walk(ctx, root, w.d.cfg.Below, one))
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return nil
}

func (w *inotify) interrupt() { _ = w.SetReadDeadline(time.Unix(1, 0)) }

// Close ends the watches.
func (w *inotify) Close() error {
	w.d.mu.Lock()
	w.d.stats.Watches = 0
	w.d.mu.Unlock()
	return w.File.Close()
}

// add watches a directory.
func (w *inotify) add(root int, cgroup string) error {
	dir := filepath.Join(w.d.roots[root], cgroup)
	mask := uint32(unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVE | unix.IN_ONLYDIR)
	if w.d.roots[root] == w.d.unified {
		mask |= unix.IN_MODIFY
		listenTo(dir)
	}
	wd, err := unix.InotifyAddWatch(w.fd, dir, mask)
	if err != nil {
		return os.NewSyscallError("inotify_add_watch", err)
	}
	w.paths[int32(wd)] = place{root, cgroup}
	w.watch[place{root, cgroup}] = int32(wd)
	w.d.mu.Lock()
	w.d.stats.Watches = len(w.paths)
	w.d.mu.Unlock()
	return nil
}

func (w *inotify) next() (events []event, lost bool, err error) {
	n, err := w.Read(w.buf)
	if err != nil {
		return nil, false, err
	}
	again := false
	lost, err = parseInotify(w.buf[:n], func(wd int32, mask uint32, name string) {
		at, known := w.paths[wd]
		switch {
		case !known:
		case mask&unix.IN_IGNORED != 0:
			w.forget(wd)
		case mask&unix.IN_ISDIR == 0:
			if name == "cgroup.events" && ended(filepath.Join(w.d.roots[at.root], at.cgroup)) {
				events = append(events, event{root: at.root, cgroup: at.cgroup, kind: emptied})
			}
		case mask&unix.IN_MOVE != 0:
			again = true
		case mask&unix.IN_DELETE != 0:
			// The kernel keeps the watch of a cgroup that is removed.
			if old, ok := w.watch[place{at.root, filepath.Join(at.cgroup, name)}]; ok {
				_, _ = unix.InotifyRmWatch(w.fd, uint32(old))
				w.forget(old)
			}
			events = append(events, event{root: at.root, cgroup: filepath.Join(at.cgroup, name), kind: removed})
		case mask&unix.IN_CREATE != 0:
			made, full := w.enter(at.root, filepath.Join(at.cgroup, name))
			events = append(events, made...)
			again = again || full
		}
	})
	if lost && err == nil {
		err = w.addAll(context.Background())
	}
	w.d.mu.Lock()
	w.d.stats.Watches = len(w.paths)
	w.d.mu.Unlock()
	return events, lost || again, err
}

func (w *inotify) forget(wd int32) {
	if at, ok := w.paths[wd]; ok {
		delete(w.paths, wd)
		if w.watch[at] == wd {
			delete(w.watch, at)
		}
	}
}

// enter watches a new directory and all that was made in it before it was
// watched. full says that there is no room for a watch.
func (w *inotify) enter(root int, cgroup string) (events []event, full bool) {
	one := func(cgroup string) {
		switch err := w.add(root, cgroup); {
		case err == nil:
			events = append(events, event{root: root, cgroup: cgroup, kind: made})
		case !gone(err):
			full = true
			w.d.cfg.Logger.V(4).Info("no watch", "path", cgroup, "reason", err.Error())
		}
	}
	one(cgroup)
	if err := walk(context.Background(), w.d.roots[root], cgroup, one); err != nil {
		full = true
	}
	return events, full
}

// parseInotify reads what inotify(7) gives:
//
//	wd s32, mask u32, cookie u32, len u32, name with zeros up to len
func parseInotify(b []byte, f func(wd int32, mask uint32, name string)) (lost bool, err error) {
	const head = 16
	order := binary.NativeEndian
	for len(b) > 0 {
		if len(b) < head {
			return lost, errNotice
		}
		n := order.Uint32(b[12:])
		if uint64(head)+uint64(n) > uint64(len(b)) {
			return lost, errNotice
		}
		name, _, _ := bytes.Cut(b[head:head+int(n)], []byte{0})
		mask := order.Uint32(b[4:])
		if mask&unix.IN_Q_OVERFLOW != 0 {
			lost = true
		} else if bytes.IndexByte(name, '/') >= 0 {
			return lost, errNotice
		} else {
			f(int32(order.Uint32(b)), mask, string(name))
		}
		b = b[head+int(n):]
	}
	return lost, nil
}
