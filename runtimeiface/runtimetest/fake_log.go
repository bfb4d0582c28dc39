package runtimetest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// maxLogLine is where the CRI's log format splits a line.
const maxLogLine = 16 << 10

// logFile writes the CRI's log format. An error of the file loses lines, as a
// full disk does to a real runtime.
type logFile struct {
	path    string
	file    *os.File
	pending [2][]byte // the beginning of a line, of stdout and stderr
}

func openLog(path string) (*logFile, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make log directory: %w", err)
	}
	l := &logFile{path: path}
	return l, l.reopen()
}

func (l *logFile) reopen() error {
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	if l.file != nil {
		_ = l.file.Close()
	}
	l.file = file
	return nil
}

func (l *logFile) write(stream int, data []byte, at time.Time) {
	data = append(l.pending[stream], data...)
	for {
		end := bytes.IndexByte(data[:min(len(data), maxLogLine+1)], '\n')
		if end < 0 && len(data) > maxLogLine {
			l.line(stream, "P", data[:maxLogLine], at)
			data = data[maxLogLine:]
			continue
		}
		if end < 0 {
			break
		}
		l.line(stream, "F", data[:end], at)
		data = data[end+1:]
	}
	l.pending[stream] = bytes.Clone(data)
}

func (l *logFile) line(stream int, tag string, text []byte, at time.Time) {
	name := [2]string{"stdout", "stderr"}[stream]
	stamp := at.Format("2006-01-02T15:04:05.000000000Z07:00")
	_, _ = fmt.Fprintf(l.file, "%s %s %s %s\n", stamp, name, tag, text)
}

// close writes what has no newline as a part of a line.
func (l *logFile) close(at time.Time) {
	for stream, text := range l.pending {
		if len(text) > 0 {
			l.line(stream, "P", text, at)
		}
	}
	_ = l.file.Close()
}
