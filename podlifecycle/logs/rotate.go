package logs

import (
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// What a zero Policy field stands for, as in the kubelet (containerLogMaxSize,
// containerLogMaxFiles).
const (
	DefaultMaxSize  = 10 << 20
	DefaultMaxFiles = 5
)

const (
	stamp      = "20060102-150405"
	compressed = ".gz"
	unfinished = ".tmp"
)

// rotatedName is what stands after the log's own name.
var rotatedName = regexp.MustCompile(`^\.[0-9]{8}-[0-9]{6}(\.gz|\.tmp)?$`)

// Policy is how large a log may grow, and how much of it is kept.
type Policy struct {
	// MaxSize in bytes from which on a log is rotated; 0 means DefaultMaxSize,
	// negative never rotates.
	MaxSize int64
	// MaxFiles of one log, the current one and compressed ones counted, at least
	// 2; 0 means DefaultMaxFiles.
	MaxFiles int
}

// Complete fills in the defaults, and tells of bad fields.
func (p Policy) Complete() (Policy, error) {
	p.MaxSize = cmp.Or(p.MaxSize, DefaultMaxSize)
	p.MaxFiles = cmp.Or(p.MaxFiles, DefaultMaxFiles)
	if p.MaxFiles < 2 {
		return p, fmt.Errorf("MaxFiles must be at least 2: %d", p.MaxFiles)
	}
	return p, nil
}

// Rotate rotates the log at path if it is large enough, and tells whether it did.
// The container runs; reopen has it write to a new file at path. If there is no
// file at path, as after a rotation that was killed half-way, reopen is called
// alone. If reopen fails the log gets its name back. Policy has been completed.
func Rotate(ctx context.Context, path string, policy Policy, now time.Time, reopen func(context.Context) error) (rotated bool, err error) {
	if policy.MaxSize < 0 {
		return false, nil
	}
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return false, fmt.Errorf("rotate log: %w", err)
	}
	defer dir.Close()
	name := filepath.Base(path)
	info, err := dir.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := reopen(ctx); err != nil {
			return false, fmt.Errorf("reopen log %s, which is not there: %w", path, err)
		}
		return false, nil
	case err != nil:
		return false, fmt.Errorf("rotate log: %w", err)
	case !info.Mode().IsRegular() || info.Size() < policy.MaxSize:
		return false, nil
	}
	old, err := rotatedFiles(dir, name)
	if err != nil {
		return false, fmt.Errorf("rotate log %s: %w", path, err)
	}
	if old, err = tidy(ctx, dir, old, policy.MaxFiles-2); err != nil {
		return false, fmt.Errorf("rotate log %s: %w", path, err)
	}
	aside := name + "." + after(now, old, name)
	if err := dir.Rename(name, aside); err != nil {
		return false, fmt.Errorf("rotate log %s: %w", path, err)
	}
	if err := reopen(ctx); err != nil {
		err = fmt.Errorf("reopen log %s: %w", path, err)
		if _, there := dir.Lstat(name); errors.Is(there, fs.ErrNotExist) {
			err = errors.Join(err, dir.Rename(aside, name))
		}
		return false, err
	}
	return true, nil
}

// Files gives the files of the log at path, the oldest first, the current one
// last, whether it is there or not. ErrNotExist without a directory.
func Files(path string) ([]string, error) {
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("files of log: %w", err)
	}
	defer dir.Close()
	name := filepath.Base(path)
	names, err := rotatedFiles(dir, name)
	if err != nil {
		return nil, fmt.Errorf("files of log %s: %w", path, err)
	}
	var files []string
	for _, n := range slices.DeleteFunc(slices.Clone(names), func(n string) bool { return leftover(n, names) }) {
		files = append(files, filepath.Join(filepath.Dir(path), n))
	}
	return append(files, path), nil
}

// Remove removes the log at path with all its rotated files. Not there: nil.
func Remove(path string) error {
	dir, err := os.OpenRoot(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove log: %w", err)
	}
	defer dir.Close()
	name := filepath.Base(path)
	names, err := rotatedFiles(dir, name)
	if err != nil {
		return fmt.Errorf("remove log %s: %w", path, err)
	}
	var errs []error
	for _, n := range append(names, name) {
		if err := dir.Remove(n); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove log: %w", err))
		}
	}
	return errors.Join(errs...)
}

// rotatedFiles lists what lies beside a log by names of Rotate, sorted: the
// oldest first.
func rotatedFiles(dir *os.Root, name string) ([]string, error) {
	f, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range all {
		if rest, ok := strings.CutPrefix(n, name); ok && rotatedName.MatchString(rest) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names, nil
}

// leftover tells of a file that a killed process left: one half written, or one
// that has been compressed whole.
func leftover(name string, names []string) bool {
	return strings.HasSuffix(name, unfinished) || slices.Contains(names, name+compressed)
}

// tidy removes leftovers, then the oldest but keep, and compresses what stays. It
// gives the names that are there then.
func tidy(ctx context.Context, dir *os.Root, names []string, keep int) ([]string, error) {
	var whole []string
	for _, n := range names {
		if !leftover(n, names) {
			whole = append(whole, n)
		} else if err := dir.Remove(n); err != nil {
			return nil, err
		}
	}
	for ; len(whole) > keep; whole = whole[1:] {
		if err := dir.Remove(whole[0]); err != nil {
			return nil, err
		}
	}
	for i, n := range whole {
		if strings.HasSuffix(n, compressed) {
			continue
		}
		if err := compress(ctx, dir, n); err != nil {
			return nil, fmt.Errorf("compress: %w", err)
		}
		whole[i] = n + compressed
	}
	return whole, nil
}

// compress puts name.gz in the place of name. The new file is on disk before it
// gets its name, and has it before the old one goes.
func compress(ctx context.Context, dir *os.Root, name string) (err error) {
	in, err := dir.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	part := name + unfinished
	out, err := dir.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm())
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, out.Close(), dir.Remove(part))
		}
	}()
	packer := gzip.NewWriter(out)
	if _, err := io.Copy(packer, reader{ctx, in}); err != nil {
		return err
	}
	if err := errors.Join(packer.Close(), out.Sync()); err != nil {
		return err
	}
	if err := dir.Rename(part, name+compressed); err != nil {
		return err
	}
	return errors.Join(out.Close(), dir.Remove(name))
}

// reader ends with ctx.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// after is the time of day for a name behind all that are there: a clock that
// was set back must neither hide an older file nor change the order.
func after(now time.Time, names []string, log string) string {
	text := now.Format(stamp)
	if len(names) == 0 {
		return text
	}
	newest := strings.TrimPrefix(names[len(names)-1], log+".")[:len(stamp)]
	if text > newest {
		return text
	}
	last, err := time.Parse(stamp, newest)
	if err != nil {
		return text // 99 is no month: the file cannot be ours
	}
	return last.Add(time.Second).Format(stamp)
}
