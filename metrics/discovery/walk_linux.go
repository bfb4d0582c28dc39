package discovery

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// walk calls f with each cgroup below the cgroup from, parents first. What goes
// away meanwhile is left out; a from that is not there has none below it.
func walk(ctx context.Context, root, from string, f func(cgroup string)) error {
	if _, err := os.Stat(root); err != nil {
		return err
	}
	return walkFrom(ctx, root, from, f)
}

func walkFrom(ctx context.Context, root, cgroup string, f func(string)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	dir := filepath.Join(root, cgroup)
	var st unix.Stat_t
	// Two links are . and .., so there is no directory in it; reading it would
	// have the kernel list some fifty files.
	if unix.Stat(dir, &st) == nil && st.Nlink == 2 {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !gone(err) {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		child := path.Join(cgroup, e.Name())
		f(child)
		if err := walkFrom(ctx, root, child, f); err != nil {
			return err
		}
	}
	return nil
}

func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOTDIR)
}
