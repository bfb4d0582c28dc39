package image

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// opaqueXattr makes overlay show nothing of lower layers in a directory.
const opaqueXattr = "trusted.overlay.opaque"

// maxLinks is how many symlinks a parent path may go through, as in the kernel.
const maxLinks = 40

// tree is a directory that paths are resolved below, by the kernel: openat2
// with RESOLVE_IN_ROOT (Linux 5.6) takes absolute symlinks and ".." as chroot
// would, without a moment at which a path can be swapped. Everything else
// works on one base name in a directory's descriptor and follows nothing.
type tree struct {
	root   int
	budget *budget
	// The last directory used: archives come directory by directory.
	lastPath string
	lastFD   int
	// implied holds the directories that no entry has described so far.
	implied map[string]bool
	// whites holds the paths that this layer hides.
	whites map[string]bool
}

// newTree makes dir, mode 0755 until the archive says otherwise.
func newTree(dir string, b *budget) (*tree, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the umask had its say
		return nil, err
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	return &tree{root: fd, budget: b, lastFD: -1, implied: map[string]bool{".": true}, whites: map[string]bool{}}, nil
}

func (t *tree) close() {
	t.forget()
	_ = unix.Close(t.root)
}

func (t *tree) forget() {
	if t.lastFD >= 0 {
		_ = unix.Close(t.lastFD)
		t.lastFD = -1
	}
}

// open opens a directory for *at calls. Close it.
func (t *tree) open(dir string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(t.root, dir, &how)
		switch err {
		case unix.EINTR, unix.EAGAIN:
			continue
		case unix.ENOSYS:
			return -1, fmt.Errorf("%w: openat2 needs Linux 5.6", ErrNotSupported)
		}
		return fd, err
	}
}

// dir gives the descriptor of a directory, made with its parents if absent. It
// is the tree's own, good until the next call.
func (t *tree) dir(dir string) (int, error) {
	if t.lastFD >= 0 && t.lastPath == dir {
		return t.lastFD, nil
	}
	fd, err := t.openMaking(dir, maxLinks)
	switch {
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG):
		return -1, fmt.Errorf("%w: parent %q: %w", ErrRefused, shorten(dir), err)
	case err != nil:
		return -1, err
	}
	t.forget()
	t.lastPath, t.lastFD = dir, fd
	return fd, nil
}

func (t *tree) openMaking(dir string, links int) (int, error) {
	fd, err := t.open(dir)
	if err != unix.ENOENT && err != unix.ENOTDIR || dir == "." {
		return fd, err
	}
	if links == 0 {
		return -1, unix.ELOOP
	}
	up, base := path.Split(dir)
	parent, err := t.openMaking(path.Clean(up), links)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	if err := t.imply(parent, dir, base); err != unix.EEXIST {
		if err != nil {
			return -1, err
		}
		return t.open(dir)
	}
	// A symlink to what is not there yet: make that, inside the root.
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(parent, base, target)
	if err != nil {
		return -1, unix.ENOTDIR
	}
	to := string(target[:n])
	if !strings.HasPrefix(to, "/") {
		to = up + to
	}
	to = path.Join("/", to)[1:]
	if to == "" {
		to = "."
	}
	made, err := t.openMaking(to, links-1)
	if err != nil {
		return -1, err
	}
	_ = unix.Close(made)
	return t.open(dir)
}

// imply makes a directory that has no entry, or not yet. Where this layer hides
// what is lower, it goes on doing so.
func (t *tree) imply(parent int, dir, base string) error {
	err := unix.Mkdirat(parent, base, 0o755)
	if err == unix.EEXIST && t.whites[dir] {
		if st, statErr := t.stat(parent, base); statErr != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
			return err
		}
		if err = unix.Unlinkat(parent, base, 0); err == nil {
			err = unix.Mkdirat(parent, base, 0o755)
		}
	}
	if err != nil {
		return err
	}
	t.implied[dir] = true
	if err := errors.Join(t.budget.entry(len(dir)), unix.Fchmodat(parent, base, 0o755, 0)); err != nil {
		return err
	}
	if t.whites[dir] {
		return unix.Setxattr(fdPath(parent)+"/"+base, opaqueXattr, []byte("y"), 0)
	}
	return nil
}

// replace runs f, which makes base; if base is there already, that is removed
// first.
func (t *tree) replace(at int, base string, f func() error) error {
	err := f()
	if err != unix.EEXIST {
		return err
	}
	if err := t.remove(at, base); err != nil {
		return fmt.Errorf("replace: %w", err)
	}
	return f()
}

// remove removes base, and all in it, following nothing. The cached directory
// may have been in it or behind it: no path matches it from now on, but it
// stays open, as at may be it.
func (t *tree) remove(at int, base string) error {
	t.lastPath = "\x00"
	err := unix.Unlinkat(at, base, 0)
	if err != unix.EISDIR {
		return err
	}
	root, err := os.OpenRoot(fdPath(at))
	if err != nil {
		return err
	}
	defer root.Close()
	return root.RemoveAll(base)
}

func (t *tree) stat(at int, base string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(at, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, wrap("stat", err)
}

// stamp sets the times of a directory.
func (t *tree) stamp(p string, times [2]unix.Timespec) error {
	dir, base := path.Split(p)
	if base == "" {
		base = "."
	}
	fd, err := t.open(path.Clean(dir))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.UtimesNanoAt(fd, base, times[:], unix.AT_SYMLINK_NOFOLLOW)
}

// fdPath names what a descriptor is open on, for calls that take no O_PATH
// descriptor.
func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
