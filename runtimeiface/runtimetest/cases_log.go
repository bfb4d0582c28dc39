package runtimetest

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

func logCases() []Case {
	return []Case{
		newCase("log/both streams", "each line has its time, its stream and a tag, in order", logStreams),
		newCase("log/long line", "a line above 16 KiB comes in parts of at most 16 KiB, all but the last tagged P", logLongLine),
		newCase("log/bytes", "bytes that are no text arrive as they are, also after the last newline", logBytes),
		newCase("log/many lines", "no line of many is lost, doubled or moved", logManyLines),
		newCase("log/none", "without LogPath there is no log", logNone),
		newCase("log/reopen", "after ReopenLog lines go to a new file, and none is lost or written twice", logReopen),
		newCase("log/64 MiB line", "a line of 64 MiB arrives whole and in order", logHugeLine),
		newCase("log/reopen under load", "ReopenLog while much is written loses and doubles nothing", logReopenLoad),
		newCase("log/partial lines at rest", "a long part of a line is in the log while the program goes on", logPartial),
		newCase("log/two writers", "lines of both streams come whole, whoever writes", logTwoWriters),
		newCase("log/reopen exited", "ReopenLog of a container that does not run is ErrNotRunning", logReopenExited),
	}
}

func logStreams(k *kit) {
	before := time.Now().Add(-time.Second)
	sb := k.pod()
	c := k.exited(k.prog(sb, "print", "to stdout", ";", "sleep", "20ms", ";", "eprint", "to stderr", ";",
		"print", "", ";", "sleep", "20ms", ";", "print", endMark))
	k.untilEndOf(c.LogPath, "stdout")
	lines := k.logLines(c.LogPath)
	k.same(joinLog(lines, "stdout"), "to stdout\n\n"+endMark+"\n", "standard output")
	k.same(joinLog(lines, "stderr"), "to stderr\n", "standard error")
	last := before
	for _, l := range lines {
		k.that(!l.partial, "short line %q is tagged P", l.text)
		k.that(!l.time.Before(last), "line %q of %v comes after one of %v", l.text, l.time, last)
		last = l.time
	}
	k.that(last.Before(time.Now().Add(time.Second)), "line of %v, now is %v", last, time.Now())
}

// untilEndOf waits until one stream has the mark.
func (k *kit) untilEndOf(path, stream string) {
	k.eventually("end of "+path, func() error {
		if text := joinLog(k.logLines(path), stream); !strings.HasSuffix(text, endMark+"\n") {
			return fmt.Errorf("it is %.200q", text)
		}
		return nil
	})
}

func logLongLine(k *kit) {
	sb := k.pod()
	for _, n := range []int{maxLogLine - 1, maxLogLine, maxLogLine + 1, 3*maxLogLine + 100} {
		id := k.prog(sb, "fill", fmt.Sprint(n), ";", "print", "", ";", "print", endMark)
		path := k.exited(id).LogPath
		want := strings.Repeat("x", n) + "\n"
		k.that(k.untilEnd(path) == want, "a line of %d bytes came as %d bytes", n, len(k.logText(path))-len(endMark)-1)
		lines := k.logLines(path)
		for i, l := range lines {
			k.that(len(l.text) <= maxLogLine, "line of %d bytes: part %d has %d", n, i, len(l.text))
		}
		if n < maxLogLine {
			k.same(len(lines), 2, "log lines of a line of %d bytes and the end", n)
		}
	}
}

func logBytes(k *kit) {
	data := make([]byte, 0, 256)
	for b := range 256 {
		if b != '\n' {
			data = append(data, byte(b))
		}
	}
	sb := k.pod()
	// The sleep keeps what has no newline apart from the program's end.
	id := k.prog(sb, "bytes", hex.EncodeToString(data)+"0a", ";", "bytes", hex.EncodeToString([]byte("no newline")), ";", "sleep", "100ms")
	path := k.exited(id).LogPath
	want := string(data) + "\nno newline"
	k.eventually("log of bytes", func() error {
		if got := k.logText(path); got != want {
			return fmt.Errorf("it is %q, want %q", got, want)
		}
		return nil
	})
}

func logManyLines(k *kit) {
	const n = 20000
	path := k.exited(k.prog(k.pod(), "lines", fmt.Sprint(n), ";", "print", endMark)).LogPath
	k.counted(strings.Split(k.untilEnd(path), "\n"), n)
}

// counted wants "line 0" to "line n-1", and nothing.
func (k *kit) counted(lines []string, n int) {
	k.same(len(lines), n+1, "number of lines")
	for i, got := range lines[:n] {
		if want := "line " + strconv.Itoa(i); got != want {
			k.fail("line %d is %.100q", i, got)
		}
	}
}

func logNone(k *kit) {
	sb, pod := k.podSpec()
	spec := k.container("print", "lost")
	spec.LogPath = ""
	k.exited(k.start(sb, spec))
	entries, err := os.ReadDir(pod.LogDirectory)
	k.ok(err, "read log directory")
	k.same(len(entries), 0, "files in the log directory")
}

func logReopen(k *kit) {
	const n = 100
	id := k.prog(k.pod(), "lines", fmt.Sprint(n), "5ms", ";", "print", endMark)
	path := k.status(id).LogPath
	var moved []string
	for i := range 3 {
		k.eventually("lines before reopening", func() error {
			if len(k.logLines(path)) < 3 {
				return errors.New("too few")
			}
			return nil
		})
		to := fmt.Sprintf("%s.%d", path, i)
		k.ok(os.Rename(path, to), "move the log away")
		k.ok(k.rt.ReopenLog(k.ctx, id), "reopen log")
		_, err := os.Stat(path)
		k.ok(err, "the new log on return")
		moved = append(moved, to)
	}
	k.exited(id)
	k.logHas(path, endMark+"\n")
	text := ""
	for _, p := range append(moved, path) {
		text += k.logText(p)
	}
	k.counted(strings.Split(strings.TrimSuffix(text, endMark+"\n"), "\n"), n)
}

func logHugeLine(k *kit) {
	const n = 64 << 20
	path := k.exited(k.prog(k.pod(), "line", fmt.Sprint(n), ";", "print", endMark)).LogPath
	k.eventually("end of the log", func() error { return endsWithMark(path) })
	lines, want, at := k.logLines(path), pattern(n), 0
	for i, l := range lines[:len(lines)-1] {
		k.that(len(l.text) <= maxLogLine, "part %d has %d bytes", i, len(l.text))
		piece := want[at:min(n, at+len(l.text))]
		k.that(l.text == piece, "part %d, from byte %d, is alike up to %d of %d bytes", i, at, alike(l.text, piece), len(l.text))
		at += len(l.text)
		k.same(l.partial, at < n, "whether the part that ends at byte %d is partial", at)
	}
	k.same(at, n, "bytes of the line")
}

// endsWithMark looks at no more than the end of a log.
func endsWithMark(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	end := make([]byte, min(int64(len(endMark)+1), info.Size()))
	if _, err := f.ReadAt(end, info.Size()-int64(len(end))); err != nil {
		return err
	}
	if string(end) != endMark+"\n" {
		return fmt.Errorf("it ends with %q", end)
	}
	return nil
}

func logReopenLoad(k *kit) {
	const n = 200_000
	id := k.prog(k.pod(), "lines", fmt.Sprint(n), ";", "sleep", "1s", ";", "print", endMark)
	path := k.status(id).LogPath
	var moved []string
	for i := range 20 {
		to := fmt.Sprintf("%s.%d", path, i)
		if os.Rename(path, to) != nil {
			continue
		}
		moved = append(moved, to)
		if err := k.rt.ReopenLog(k.ctx, id); errors.Is(err, runtimeiface.ErrNotRunning) {
			break // it was quicker
		} else {
			k.ok(err, "reopen log")
		}
		k.pause(10 * time.Millisecond)
	}
	k.exited(id)
	k.that(len(moved) > 0, "the log was never moved")
	k.eventually("end of the log", func() error { return endsWithMark(path) })
	var lines []logLine
	for _, p := range append(moved, path) {
		lines = append(lines, k.logLines(p)...)
	}
	text := joinLog(lines, "")
	k.counted(strings.Split(strings.TrimSuffix(text, endMark+"\n"), "\n"), n)
}

func logPartial(k *kit) {
	const n = 2*maxLogLine + 100
	id := k.prog(k.pod(), "fill", fmt.Sprint(n), ";", "forever")
	path := k.status(id).LogPath
	k.eventually("long parts of the line in the log", func() error {
		if got := len(k.logText(path)); got < maxLogLine {
			return fmt.Errorf("it has %d bytes of %d", got, n)
		}
		return nil
	})
	k.that(k.logLines(path)[0].partial, "the first part is not tagged P")
	k.stop(id, 0)
	k.eventually("the rest in the log", func() error {
		if got := strings.TrimSuffix(k.logText(path), "\n"); got != strings.Repeat("x", n) {
			return fmt.Errorf("it has %d bytes of %d", len(got), n)
		}
		return nil
	})
}

func logTwoWriters(k *kit) {
	const n = 2000
	path := k.exited(k.prog(k.pod(), "lines", fmt.Sprint(n), ";", "eprint", strings.Repeat("e", 3000), ";",
		"lines", fmt.Sprint(n), ";", "print", endMark)).LogPath
	k.untilEndOf(path, "stdout")
	lines := k.logLines(path)
	out := strings.Split(strings.TrimSuffix(joinLog(lines, "stdout"), endMark+"\n"), "\n")
	k.same(len(out), 2*n+1, "lines of standard output")
	k.counted(append(out[:n:n], ""), n)
	k.counted(out[n:], n)
	k.same(joinLog(lines, "stderr"), strings.Repeat("e", 3000)+"\n", "standard error")
}

func logReopenExited(k *kit) {
	sb := k.pod()
	k.is(k.rt.ReopenLog(k.ctx, k.create(sb, k.container())), runtimeiface.ErrNotRunning, "reopen log of a created container")
	c := k.exited(k.prog(sb, "exit", "0"))
	k.is(k.rt.ReopenLog(k.ctx, c.ID), runtimeiface.ErrNotRunning, "reopen log of an exited container")
}
