package runtimetest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"
)

// syncBuffer may be written by a runtime's goroutines.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// logLine is one line of the CRI's log format:
//
//	2016-10-06T00:17:09.669794202Z stdout F text
type logLine struct {
	time    time.Time
	stream  string
	partial bool
	text    string
}

func parseLog(data []byte) ([]logLine, error) {
	var lines []logLine
	for i, raw := range strings.SplitAfter(string(data), "\n") {
		if raw == "" {
			continue
		}
		text, whole := strings.CutSuffix(raw, "\n")
		if !whole {
			break // being written
		}
		parts := strings.SplitN(text, " ", 4)
		if len(parts) != 4 {
			return nil, fmt.Errorf("log line %d: %.80q has not four parts", i+1, text)
		}
		at, err := time.Parse(time.RFC3339Nano, parts[0])
		if err != nil {
			return nil, fmt.Errorf("log line %d: %w", i+1, err)
		}
		if parts[1] != "stdout" && parts[1] != "stderr" {
			return nil, fmt.Errorf("log line %d: stream %q", i+1, parts[1])
		}
		if parts[2] != "F" && parts[2] != "P" {
			return nil, fmt.Errorf("log line %d: tag %q", i+1, parts[2])
		}
		lines = append(lines, logLine{time: at, stream: parts[1], partial: parts[2] == "P", text: parts[3]})
	}
	return lines, nil
}

// logLines reads a log as it is now; one that is not there is empty.
func (k *kit) logLines(path string) []logLine {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	k.ok(err, "read log")
	lines, err := parseLog(data)
	k.ok(err, "read log %s", path)
	return lines
}

// logText is what was written to both streams, as the log has it.
func (k *kit) logText(path string) string { return joinLog(k.logLines(path), "") }

func joinLog(lines []logLine, stream string) string {
	var b strings.Builder
	for _, l := range lines {
		if stream != "" && l.stream != stream {
			continue
		}
		b.WriteString(l.text)
		if !l.partial {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// logHas waits for a text in a log.
func (k *kit) logHas(path, text string) {
	k.eventually("log "+path, func() error {
		if got := k.logText(path); !strings.Contains(got, text) {
			return fmt.Errorf("it has no %.100q but %.200q", text, got)
		}
		return nil
	})
}
