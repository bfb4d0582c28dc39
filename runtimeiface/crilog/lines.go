package crilog

import (
	"bytes"
	"io"
)

// bufferSize holds a record of MaxPart with its header four times over.
const bufferSize = 64 << 10

// lineReader cuts a file into records without holding more than its buffer of
// any of them.
type lineReader struct {
	file   io.ReaderAt
	offset int64 // of buf[end]: where the next read begins
	buf    []byte
	start  int
	end    int
	long   *Record // a record longer than the buffer, whose rest is still to come
	skip   bool    // the rest of a damaged long line is to be skipped
}

func newLineReader(file io.ReaderAt, offset int64) *lineReader {
	return &lineReader{file: file, offset: offset, buf: make([]byte, bufferSize)}
}

// next gives the next record, whose Data is valid until the following call.
// A record too long for the buffer comes as several, all but the last partial.
// At the end of the file it gives io.EOF and keeps what an incomplete record
// has so far, to go on when the file has grown.
func (l *lineReader) next() (Record, error) {
	for {
		held := l.buf[l.start:l.end]
		if i := bytes.IndexByte(held, '\n'); i >= 0 {
			l.start += i + 1
			if record, ok := l.parse(held[:i], true); ok {
				return record, nil
			}
			continue
		}
		if len(held) == len(l.buf) {
			l.start = l.end
			if record, ok := l.parse(held, false); ok {
				return record, nil
			}
			continue
		}
		if err := l.fill(); err != nil {
			return Record{}, err
		}
	}
}

// rest parses what follows the last newline, for files that will not grow.
func (l *lineReader) rest() (Record, bool) {
	held := l.buf[l.start:l.end]
	l.start = l.end
	if len(held) == 0 {
		return Record{}, false
	}
	return l.parse(held, true)
}

// parse reads a piece of a line; last says that the line ends with it.
func (l *lineReader) parse(piece []byte, last bool) (Record, bool) {
	if l.skip {
		l.skip = !last
		return Record{}, false
	}
	if l.long != nil {
		record := *l.long
		record.Data = piece
		if last {
			l.long = nil
		} else {
			record.Partial = true
		}
		return record, true
	}
	record, err := ParseLine(piece)
	if err != nil {
		l.skip = !last
		return Record{}, false
	}
	if !last {
		l.long = &Record{Time: record.Time, Stream: record.Stream, Partial: record.Partial}
		record.Partial = true
	}
	return record, true
}

func (l *lineReader) fill() error {
	if l.start > 0 {
		l.end = copy(l.buf, l.buf[l.start:l.end])
		l.start = 0
	}
	n, err := l.file.ReadAt(l.buf[l.end:], l.offset)
	l.end += n
	l.offset += int64(n)
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}
