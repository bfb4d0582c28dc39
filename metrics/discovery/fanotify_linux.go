package discovery

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fanotify marks each hierarchy, with a group of its own, so that each event is
// of a known one.
func (d *Discovery) fanotify() ([]watcher, error) {
	var all []watcher
	mark := func(root int, dir string, mask uint64) error {
		fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_REPORT_DFID_NAME|unix.FAN_NONBLOCK|unix.FAN_CLOEXEC, unix.O_RDONLY)
		if err != nil {
			return os.NewSyscallError("fanotify_init", err)
		}
		f := &fanotify{File: os.NewFile(uintptr(fd), "fanotify"), root: root, dir: dir, buf: make([]byte, 64<<10), mount: -1}
		all = append(all, f)
		if f.mount, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return os.NewSyscallError("open", err)
		}
		if err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, mask, unix.AT_FDCWD, dir); err != nil {
			return os.NewSyscallError("fanotify_mark", err)
		}
		return f.try()
	}
	const tree = unix.FAN_CREATE | unix.FAN_DELETE | moved | unix.FAN_ONDIR
	for i, root := range d.roots {
		mask := uint64(tree)
		if root == d.unified {
			mask |= unix.FAN_MODIFY
		}
		if err := mark(i, root, mask); err != nil {
			return all, err
		}
	}
	if d.unified != "" && d.unified != d.roots[0] {
		if err := mark(-1, d.unified, unix.FAN_MODIFY|unix.FAN_CREATE|unix.FAN_ONDIR); err != nil {
			return all, err
		}
	}
	return all, nil
}

// fanotify is a mark on a hierarchy.
type fanotify struct {
	*os.File
	root  int // -1 for one that only tells of cgroups that empty
	dir   string
	mount int
	buf   []byte
}

// try finds out whether handles can be turned into paths here.
func (f *fanotify) try() error {
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, f.dir, 0)
	if err != nil {
		return os.NewSyscallError("name_to_handle_at", err)
	}
	_, err = f.path(handle)
	return err
}

func (f *fanotify) Close() error {
	err := f.File.Close()
	if f.mount >= 0 {
		err = errors.Join(err, unix.Close(f.mount))
	}
	return err
}

func (f *fanotify) interrupt() { _ = f.SetReadDeadline(time.Unix(1, 0)) }

func (f *fanotify) next() (events []event, lost bool, err error) {
	n, err := f.Read(f.buf)
	if err != nil {
		return nil, false, err
	}
	renamed := false
	lost, err = parseFanotify(f.buf[:n], func(e notice) {
		if e.mask&unix.FAN_ONDIR == 0 && e.name != "cgroup.events" {
			return // somebody wrote to a file
		}
		renamed = renamed || e.mask&moved != 0 // v1 allows it; what lies below has moved too
		parent, err := f.path(unix.NewFileHandle(e.handleType, e.handle))
		switch {
		case err != nil:
			events = append(events, event{root: f.root, kind: orphan})
		case e.mask&unix.FAN_ONDIR == 0:
			if ended(filepath.Join(f.dir, parent)) {
				events = append(events, event{root: f.root, cgroup: parent, kind: emptied})
			}
		case f.root < 0:
			listenTo(filepath.Join(f.dir, parent, e.name))
		default:
			// One notice may tell of both, if they came one right after the other.
			cgroup := filepath.Join(parent, e.name)
			if e.mask&unix.FAN_DELETE != 0 {
				events = append(events, event{root: f.root, cgroup: cgroup, kind: removed})
			}
			if dir := filepath.Join(f.dir, cgroup); e.mask&unix.FAN_CREATE != 0 && exists(dir) {
				listenTo(dir)
				events = append(events, event{root: f.root, cgroup: cgroup, kind: made})
			}
		}
	})
	return events, lost || renamed, err
}

const moved = unix.FAN_MOVED_FROM | unix.FAN_MOVED_TO

// path is where the directory of a handle is below the root.
func (f *fanotify) path(handle unix.FileHandle) (string, error) {
	fd, err := unix.OpenByHandleAt(f.mount, handle, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", os.NewSyscallError("open_by_handle_at", err)
	}
	defer unix.Close(fd)
	text, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return "", err
	}
	rel, ok := strings.CutPrefix(text, f.dir)
	if !ok || strings.HasSuffix(text, " (deleted)") || rel != "" && rel[0] != '/' {
		return "", os.ErrNotExist
	}
	return "/" + strings.TrimPrefix(rel, "/"), nil
}

// listenTo has the kernel make an inode of a cgroup's cgroup.events, without
// which it tells nobody that the file has changed. On v1 there is none.
func listenTo(dir string) { _ = exists(filepath.Join(dir, "cgroup.events")) }

func exists(dir string) bool {
	var st unix.Stat_t
	return unix.Stat(dir, &st) == nil
}

// ended reads cgroup.events:
//
//	populated 0
//	frozen 0
func ended(dir string) bool {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
	return err == nil && strings.Contains("\n"+string(text), "\npopulated 0\n")
}
