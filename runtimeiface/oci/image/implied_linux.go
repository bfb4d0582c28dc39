package image

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A layer may put /tmp/x without an entry for /tmp. Overlay shows a directory
// as the highest layer that has it says, which then would be 0755 and root's
// instead of what a lower layer says. dressImplied makes those directories in
// upper, above all layers, as the highest layer that describes them does.
func dressImplied(stack []lower, upper string) error {
	if err := os.Chmod(upper, 0o755); err != nil { // the root of an image without layers
		return err
	}
	paths := []string{"."}
	for _, l := range stack {
		paths = append(paths, l.implied...)
	}
	slices.Sort(paths)
	for _, p := range slices.Compact(paths) {
		if from, ok := describes(stack, p); ok {
			if err := dressUpper(stack, upper, p, from); err != nil {
				return wrap("directory "+shorten(p), err)
			}
		}
	}
	return nil
}

// dressUpper makes p in upper like from, with its parents.
func dressUpper(stack []lower, upper, p, from string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return err
	}
	to := filepath.Join(upper, p)
	err := os.Mkdir(to, 0o755)
	if errors.Is(err, fs.ErrNotExist) {
		// p comes after its parents, so this one is no implied directory: as
		// overlay would show it.
		parent := path.Dir(p)
		shown, ok := describes(stack, parent)
		if !ok {
			return err
		}
		if err := dressUpper(stack, upper, parent, shown); err != nil {
			return err
		}
		err = os.Mkdir(to, 0o755)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := unix.Chown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{st.Atim, st.Mtim}, 0)
}

// describes gives the directory p of the highest layer that describes p, or of
// the highest that has it if none does; false if p is no directory of the
// whole. Nothing is followed: each parent is seen to be a directory first.
func describes(stack []lower, p string) (string, bool) {
	highest := ""
	for _, l := range stack {
		here, last := presence(l.dir, p)
		if here {
			at := filepath.Join(l.dir, p)
			if _, implied := slices.BinarySearch(l.implied, p); !implied {
				return at, true
			}
			if highest == "" {
				highest = at
			}
		}
		if last {
			break
		}
	}
	return highest, highest != ""
}

// presence tells whether a layer has the directory p, and whether it hides
// what lower layers have there.
func presence(layer, p string) (here, last bool) {
	at := layer
	for _, part := range strings.Split(p, "/") {
		at = filepath.Join(at, part)
		var st unix.Stat_t
		if err := unix.Lstat(at, &st); err != nil {
			return false, last
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return false, true
		}
		opaque := make([]byte, 1)
		if n, err := unix.Lgetxattr(at, opaqueXattr, opaque); err == nil && n == 1 && opaque[0] == 'y' {
			last = true
		}
	}
	return true, last
}
