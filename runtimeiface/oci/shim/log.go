package shim

import (
	"bytes"
	"os"
	"sync"
	"time"

	"github.com/nodekit/nodekit/runtimeiface/crilog"
)

// A logFile writes the output of one container in the format of CRI. It holds
// memory only for the unfinished last line of each stream.
type logFile struct {
	dir, path string

	mu      sync.Mutex
	file    *os.File // nil keeps no log
	pending [2][]byte
}

var streams = [2]string{crilog.Stdout, crilog.Stderr}

// openLog opens path below dir without leaving dir, and makes what is missing.
func openLog(dir, path string) (*logFile, error) {
	l := &logFile{dir: dir, path: path}
	if path == "" {
		return l, nil
	}
	file, err := openBeneath(dir, path)
	if err != nil {
		return nil, err
	}
	l.file = file
	return l, nil
}

// reopen goes on in a new file at the same path. On error the old one stays.
func (l *logFile) reopen() error {
	if l.path == "" {
		return nil
	}
	file, err := openBeneath(l.dir, l.path)
	if err != nil {
		return err
	}
	l.mu.Lock()
	old := l.file
	if old != nil {
		l.file = file
	}
	l.mu.Unlock()
	if old == nil {
		_ = file.Close()
		return os.ErrClosed
	}
	return old.Close()
}

// write takes what a stream said. scratch is reused space; the longer of it
// and what was needed is given back. All records of one call go to the file in
// one write.
func (l *logFile) write(stream int, data, scratch []byte, now time.Time) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return scratch
	}
	out, rest := records(scratch[:0], l.pending[stream], data, streams[stream], now)
	if len(rest) == 0 {
		rest = nil
	}
	l.pending[stream] = rest
	l.put(out)
	return out
}

// records appends to out what rest, the beginning of a line, and data make, and
// gives the beginning of the next line.
func records(out, rest, data []byte, stream string, now time.Time) (_, next []byte) {
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n')
		whole := end >= 0
		if !whole {
			end = len(data)
		}
		if room := crilog.MaxPart - len(rest); end > room {
			// More than a part without a newline.
			rest = append(rest, data[:room]...)
			out = crilog.AppendLine(out, now, stream, true, rest)
			rest, data = rest[:0], data[room:]
			continue
		}
		if !whole {
			return out, append(rest, data...)
		}
		if len(rest) == 0 {
			out = crilog.AppendLine(out, now, stream, false, data[:end])
		} else {
			rest = append(rest, data[:end]...)
			out = crilog.AppendLine(out, now, stream, false, rest)
			rest = rest[:0]
		}
		data = data[end+1:]
	}
	return out, rest
}

// finish writes what a stream ends with and has no newline, as a part: so the log
// has the bytes that the program wrote and no more.
func (l *logFile) finish(stream int, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rest := l.pending[stream]; len(rest) > 0 && l.file != nil {
		l.put(crilog.AppendLine(nil, now, streams[stream], true, rest))
	}
	l.pending[stream] = nil
}

// put writes all of b. What a full disk does not take is lost: the program
// that writes the log must not hang for it.
func (l *logFile) put(b []byte) {
	if len(b) > 0 {
		_, _ = l.file.Write(b)
	}
}

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
}
