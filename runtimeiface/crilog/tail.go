package crilog

import (
	"bytes"
	"errors"
	"io"
)

const (
	tailBlock = 32 << 10
	// headerSize holds time, stream and tags of any sane record.
	headerSize = 96
)

// tailStart gives the offset at which the last n lines of the first size bytes
// begin. It reads backwards and so touches only what it must. A line is what
// the program wrote, however many records it takes; stream "" counts both.
//
// The parts of a line that stand before the last record of another stream's
// line are found only if they follow on one another.
func tailStart(file io.ReaderAt, size, n int64, stream string) (int64, error) {
	if n <= 0 {
		return size, nil
	}
	t := tailer{file: file, want: n, stream: stream, start: size}
	lineEnd := size // past the end of the record being looked for
	block := make([]byte, tailBlock)
	for pos := size; pos > 0; {
		length := min(pos, int64(len(block)))
		pos -= length
		part := block[:length]
		if _, err := file.ReadAt(part, pos); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		for {
			i := bytes.LastIndexByte(part, '\n')
			if i < 0 {
				break
			}
			begin := pos + int64(i) + 1
			if begin < lineEnd {
				done, err := t.record(begin, lineEnd)
				if err != nil || done {
					return t.start, err
				}
				lineEnd = begin
			}
			part = part[:i]
		}
	}
	if lineEnd > 0 {
		if _, err := t.record(0, lineEnd); err != nil {
			return 0, err
		}
	}
	return t.start, nil
}

// tailer counts lines while it is shown records from the last to the first.
type tailer struct {
	file   io.ReaderAt
	stream string
	want   int64
	seen   int64
	start  int64 // of the earliest record that belongs to the wanted lines
	any    bool  // a record of a wanted stream was seen
}

// record looks at the record in [begin, end) and reports whether enough has
// been seen. Damaged records and those of other streams count for nothing.
func (t *tailer) record(begin, end int64) (bool, error) {
	header := make([]byte, min(headerSize, end-begin))
	if _, err := t.file.ReadAt(header, begin); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	r, err := ParseLine(header)
	if err != nil || (t.stream != "" && r.Stream != t.stream) {
		return false, nil
	}
	// A full record ends a line; so does a partial one with nothing after it.
	if !r.Partial || !t.any {
		if t.seen == t.want {
			return true, nil
		}
		t.seen++
	}
	t.any = true
	t.start = begin
	return false, nil
}
