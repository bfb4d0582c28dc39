package crilog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// quickPoll is the first wait after new text; it doubles up to Options.Poll.
const quickPoll = 20 * time.Millisecond

// Read writes the log at path to stdout and stderr, which may be one and the
// same, as Options ask. Each line is one call of Write, unless it is longer
// than Options.MaxLine.
//
// It returns nil at the end of the file, when LimitBytes is reached, or, while
// following, when Done said so. It returns the error of ctx when that ends
// first, one that wraps fs.ErrNotExist when there is no file, and errors of the
// writers as they are. Safe for concurrent use: each call has its own file.
func Read(ctx context.Context, path string, opts Options, stdout, stderr io.Writer) error {
	opts = opts.withDefaults()
	if opts.LimitBytes != nil && *opts.LimitBytes == 0 {
		return nil
	}
	file, err := openLog(path)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	f := &follower{path: path, opts: opts, out: newJoiner(opts, stdout, stderr), file: file}
	defer func() { _ = f.file.Close() }()
	var start int64
	if opts.TailLines != nil && *opts.TailLines >= 0 {
		info, err := file.Stat()
		if err != nil {
			return fmt.Errorf("look at log: %w", err)
		}
		if start, err = tailStart(file, info.Size(), *opts.TailLines, opts.Stream); err != nil {
			return fmt.Errorf("find last lines of log: %w", err)
		}
	}
	f.lines = newLineReader(file, start)
	if err := f.run(ctx); err != nil && !errors.Is(err, errLimit) {
		return err
	}
	return nil
}

type follower struct {
	path  string
	opts  Options
	out   *joiner
	file  *os.File
	lines *lineReader
}

func (f *follower) run(ctx context.Context) error {
	if err := f.drain(ctx); err != nil {
		return err
	}
	if !f.opts.Follow {
		return f.finish()
	}
	wait := quickPoll
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		// Asked before the file is read again: what was written before the
		// exit is then surely read.
		done := f.opts.Done != nil && f.opts.Done()
		before := f.lines.offset
		if err := f.drain(ctx); err != nil {
			return err
		}
		if err := f.turn(ctx, done); err != nil {
			return err
		}
		if done {
			return f.finish()
		}
		if f.lines.offset != before {
			wait = quickPoll
		}
		timer.Reset(min(wait, f.opts.Poll))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			wait = min(2*wait, f.opts.Poll)
		}
	}
}

// drain writes all records up to the end of the file.
func (f *follower) drain(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		record, err := f.lines.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		if err := f.out.add(record); err != nil {
			return err
		}
	}
}

// finish writes what has no newline yet.
func (f *follower) finish() error {
	if record, ok := f.lines.rest(); ok {
		if err := f.out.add(record); err != nil {
			return err
		}
	}
	return f.out.flush()
}

// turn looks whether the file at path is still the one that is open and as long
// as it was, and goes on with the new one when it is not.
func (f *follower) turn(ctx context.Context, done bool) error {
	info, err := f.file.Stat()
	if err != nil {
		return fmt.Errorf("look at log: %w", err)
	}
	if info.Size() < f.lines.offset {
		// Truncated in place: what it holds now is all new.
		f.lines = newLineReader(f.file, 0)
		return f.drain(ctx)
	}
	next, err := os.Stat(f.path)
	if err != nil || os.SameFile(info, next) {
		// Renamed and not made anew yet: the writer still has the old one.
		return nil
	}
	file, err := openLog(f.path)
	if err != nil {
		return nil // between two renames; the next look finds it
	}
	// The writer may have written to the old file between making the new one
	// and turning to it. A pause that no one notices covers that.
	if !done {
		select {
		case <-ctx.Done():
			_ = file.Close()
			return ctx.Err()
		case <-time.After(quickPoll):
		}
	}
	if err := f.drain(ctx); err != nil {
		_ = file.Close()
		return err
	}
	if record, ok := f.lines.rest(); ok {
		if err := f.out.add(record); err != nil {
			_ = file.Close()
			return err
		}
	}
	_ = f.file.Close()
	f.file = file
	f.lines = newLineReader(file, 0)
	return f.drain(ctx)
}

// openLog opens a regular file and nothing else: a pipe or device at path would
// block or never end.
func openLog(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &os.PathError{Op: "open", Path: path, Err: errors.New("not a regular file")}
	}
	return os.Open(path)
}
