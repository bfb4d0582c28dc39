package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// paxXattr begins the PAX records that hold extended attributes.
const paxXattr = "SCHILY.xattr."

// freeCheckEvery is how many bytes are written between looks at the free space.
const freeCheckEvery = 32 << 20

// extraction is one layer on its way to a directory.
type extraction struct {
	store   *Store
	tree    *tree
	budget  *budget
	tar     *tar.Reader
	buf     []byte
	dirs    []stamped // directories get their times when nothing is added any more
	layer   layer
	logical int64 // sum of the sizes that entries claim
	written int64 // bytes since the last look at the free space
}

type stamped struct {
	path  string
	times [2]unix.Timespec
}

// extract unpacks a layer to the new directory dir and gives its digest and
// size. Whatever the archive says, nothing outside dir is touched: every path
// is resolved by the kernel with dir as its root.
func (s *Store) extract(ctx context.Context, blob io.Reader, size int64, dir string) (layer, error) {
	b := s.newBudget(ctx, size)
	from, release, err := b.open(blob)
	if err != nil {
		return layer{}, err
	}
	defer release()
	t, err := newTree(dir, b)
	if err != nil {
		return layer{}, err
	}
	defer t.close()
	x := &extraction{
		store: s, tree: t, budget: b, tar: tar.NewReader(from),
		buf: make([]byte, 256<<10),
	}
	if err := x.run(); err != nil {
		return layer{}, err
	}
	if x.layer.DiffID, err = from.diffID(); err != nil {
		return layer{}, corrupt(err)
	}
	used, err := diskUsage(ctx, dir)
	x.layer.Bytes, x.layer.Inodes = used.Bytes, used.Inodes
	return x.layer, err
}

func (x *extraction) run() error {
	for {
		hdr, err := nextEntry(x.tar)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := x.entry(hdr); err != nil {
			return fmt.Errorf("entry %q: %w", shorten(hdr.Name), err)
		}
	}
	x.layer.Implied = slices.Sorted(maps.Keys(x.tree.implied))
	for _, d := range slices.Backward(x.dirs) {
		// A directory that a later entry replaced has no times to set.
		_ = x.tree.stamp(d.path, d.times)
	}
	return nil
}

// shorten keeps errors readable.
func shorten(name string) string {
	if len(name) > 200 {
		return name[:200] + "..."
	}
	return name
}

func (x *extraction) entry(hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if err := x.budget.entry(len(hdr.Name) + len(hdr.Linkname)); err != nil {
		return err
	}
	// Sparse files are larger than what is read for them.
	if x.logical += hdr.Size; hdr.Size < 0 || x.logical < 0 {
		return fmt.Errorf("%w: size %d", ErrRefused, hdr.Size)
	}
	if err := x.budget.check(x.logical); err != nil {
		return err
	}
	p, err := entryPath(hdr.Name)
	if err != nil {
		return err
	}
	if p == "." && hdr.Typeflag != tar.TypeDir {
		return fmt.Errorf("%w: the root is no directory", ErrRefused)
	}
	dir, base := path.Split(p)
	dir = path.Clean(dir)
	if base == opaqueMarker {
		return x.opaque(dir)
	}
	hidden, isWhiteout, err := whiteout(base)
	switch {
	case err != nil:
		return err
	case isWhiteout && hidden != "":
		return x.hide(dir, hidden)
	case isWhiteout:
		return nil
	}
	if err := x.make(hdr, p, dir, base); err != nil {
		return err
	}
	return x.dress(hdr, p)
}

// hide makes an overlay whiteout. What this same layer holds of that name is
// seen instead, in whichever order the two come; a directory then hides what
// lower layers have in it.
func (x *extraction) hide(dir, base string) error {
	p := path.Join(dir, base)
	x.tree.whites[p] = true
	at, err := x.tree.dir(dir)
	if err != nil {
		return err
	}
	err = unix.Mknodat(at, base, unix.S_IFCHR, 0)
	if err != unix.EEXIST {
		return wrap("whiteout", err)
	}
	st, err := x.tree.stat(at, base)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return x.opaque(p)
	}
	return err
}

// opaque hides what lower layers have in dir.
func (x *extraction) opaque(dir string) error {
	at, err := x.tree.dir(dir)
	if err != nil {
		return err
	}
	if dir == "." {
		x.layer.OpaqueRoot = true
		return nil
	}
	return wrap("opaque", unix.Setxattr(fdPath(at), opaqueXattr, []byte("y"), 0))
}

// make makes the object itself, in place of what the archive had there before.
func (x *extraction) make(hdr *tar.Header, p, dir, base string) error {
	if p == "." {
		return nil
	}
	at, err := x.tree.dir(dir)
	if err != nil {
		return err
	}
	put := func(f func() error) error { return x.tree.replace(at, base, f) }
	mode := uint32(hdr.Mode & 0o7777)
	switch hdr.Typeflag {
	case tar.TypeDir:
		return x.makeDir(at, p, base)
	case tar.TypeReg, tar.TypeGNUSparse, '\x00', '7':
		return x.makeFile(at, base)
	case tar.TypeSymlink:
		return put(func() error { return unix.Symlinkat(hdr.Linkname, at, base) })
	case tar.TypeLink:
		return x.makeLink(hdr.Linkname, p, at, base)
	case tar.TypeFifo:
		return put(func() error { return unix.Mknodat(at, base, unix.S_IFIFO|mode, 0) })
	case tar.TypeChar, tar.TypeBlock:
		return put(func() error { return mknod(at, base, hdr, mode) })
	}
	return fmt.Errorf("%w: unknown type %q", ErrRefused, hdr.Typeflag)
}

func mknod(at int, base string, hdr *tar.Header, mode uint32) error {
	kind := uint32(unix.S_IFCHR)
	if hdr.Typeflag == tar.TypeBlock {
		kind = unix.S_IFBLK
	}
	if hdr.Devmajor < 0 || hdr.Devmajor > 0xfff || hdr.Devminor < 0 || hdr.Devminor > 0xfffff {
		return fmt.Errorf("%w: device %d:%d", ErrRefused, hdr.Devmajor, hdr.Devminor)
	}
	dev := unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
	return unix.Mknodat(at, base, kind|mode, int(dev))
}

func (x *extraction) makeDir(at int, p, base string) error {
	err := unix.Mkdirat(at, base, 0o755)
	if err == unix.EEXIST {
		st, statErr := x.tree.stat(at, base)
		if statErr != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return statErr
		}
		err = x.tree.replace(at, base, func() error { return unix.Mkdirat(at, base, 0o755) })
	}
	if err == nil && x.tree.whites[p] {
		return x.opaque(p)
	}
	return wrap("make directory", err)
}

func (x *extraction) makeFile(at int, base string) error {
	var fd int
	err := x.tree.replace(at, base, func() (err error) {
		fd, err = unix.Openat(at, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return wrap("make file", err)
	}
	f := os.NewFile(uintptr(fd), base)
	_, err = io.CopyBuffer(onlyWriter{f, x}, onlyReader{x.tar}, x.buf)
	return errors.Join(err, f.Close())
}

// onlyWriter hides os.File.ReadFrom, and looks after the free space.
type onlyWriter struct {
	f *os.File
	x *extraction
}

func (w onlyWriter) Write(p []byte) (int, error) {
	if w.x.written += int64(len(p)); w.x.written >= freeCheckEvery {
		w.x.written = 0
		if err := w.x.store.needSpace(0); err != nil {
			return 0, err
		}
	}
	return w.f.Write(p)
}

// onlyReader marks errors of the archive, and hides WriteTo.
type onlyReader struct{ r io.Reader }

func (r onlyReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		err = corrupt(err)
	}
	return n, err
}

// makeLink makes a hard link to an entry of the same layer.
func (x *extraction) makeLink(target, p string, at int, base string) error {
	to, err := entryPath(target)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", shorten(target), err)
	}
	if to == p {
		return nil
	}
	toDir, toBase := path.Split(to)
	from, err := x.tree.open(path.Clean(toDir))
	if err != nil {
		return fmt.Errorf("%w: hard link to %q: %w", ErrCorrupt, shorten(target), err)
	}
	defer unix.Close(from)
	err = x.tree.replace(at, base, func() error { return unix.Linkat(from, toBase, at, base, 0) })
	switch err {
	case unix.ENOENT, unix.EPERM, unix.ENOTDIR, unix.EEXIST:
		return fmt.Errorf("%w: hard link to %q: %w", ErrCorrupt, shorten(target), err)
	}
	return wrap("hard link", err)
}

// dress gives owner, attributes, mode and times, in the order in which they do
// not undo each other: chown clears setuid bits and capabilities.
func (x *extraction) dress(hdr *tar.Header, p string) error {
	if hdr.Typeflag == tar.TypeLink {
		return nil
	}
	dir, base := path.Split(p)
	at, err := x.tree.dir(path.Clean(dir))
	if err != nil {
		return err
	}
	if base == "" || base == "." {
		base = "."
	}
	if hdr.Uid < 0 || hdr.Gid < 0 || int64(hdr.Uid) > 1<<32-2 || int64(hdr.Gid) > 1<<32-2 {
		return fmt.Errorf("%w: owner %d:%d", ErrRefused, hdr.Uid, hdr.Gid)
	}
	if err := unix.Fchownat(at, base, hdr.Uid, hdr.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return wrap("chown", err)
	}
	if err := setXattrs(at, base, hdr); err != nil {
		return err
	}
	if hdr.Typeflag != tar.TypeSymlink {
		// Not a symlink: this program has just made it, and nobody else is here.
		if err := unix.Fchmodat(at, base, uint32(hdr.Mode&0o7777), 0); err != nil {
			return wrap("chmod", err)
		}
	}
	times := [2]unix.Timespec{timespec(hdr.AccessTime, hdr.ModTime), timespec(hdr.ModTime, hdr.ModTime)}
	if hdr.Typeflag == tar.TypeDir {
		delete(x.tree.implied, p)
		x.dirs = append(x.dirs, stamped{p, times})
		return nil
	}
	return wrap("set times", unix.UtimesNanoAt(at, base, times[:], unix.AT_SYMLINK_NOFOLLOW))
}

func timespec(t, fallback time.Time) unix.Timespec {
	if t.IsZero() {
		t = fallback
	}
	if t.IsZero() || t.Year() < 1902 || t.Year() > 2400 {
		t = time.Unix(0, 0)
	}
	return unix.NsecToTimespec(t.UnixNano())
}

func setXattrs(at int, base string, hdr *tar.Header) error {
	for key, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok || !keepXattr(name) {
			continue
		}
		if hdr.Typeflag == tar.TypeSymlink && name != "security.capability" {
			continue // the kernel has none of these on symlinks
		}
		err := unix.Lsetxattr(fdPath(at)+"/"+base, name, []byte(value), 0)
		switch err {
		case nil:
		case unix.ENOTSUP, unix.EPERM:
			// The file system, or the kind of file, has none.
		case unix.EINVAL, unix.ERANGE, unix.E2BIG:
			return fmt.Errorf("%w: attribute %q: %w", ErrCorrupt, shorten(name), err)
		default:
			return wrap("set attribute", err)
		}
	}
	return nil
}

func wrap(act string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", act, err)
}
