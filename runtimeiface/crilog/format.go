package crilog

import (
	"bytes"
	"fmt"
	"time"
)

// The streams of a record.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

// TimeFormat is how times are written: RFC 3339 with nine digits of a second,
// so that records sort as text.
const TimeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// MaxPart is the most text that a well-behaved writer puts in one record;
// longer lines are split into records with the tag P. It is the value of
// containerd and CRI-O.
const MaxPart = 16 << 10

// AppendLine appends one record to dst and returns the longer slice. The stream
// is Stdout or Stderr; partial says that the line goes on in the next record of
// that stream. data must hold no newline; one at its end is dropped.
func AppendLine(dst []byte, t time.Time, stream string, partial bool, data []byte) []byte {
	dst = t.AppendFormat(dst, TimeFormat)
	dst = append(dst, ' ')
	dst = append(dst, stream...)
	if partial {
		dst = append(dst, " P "...)
	} else {
		dst = append(dst, " F "...)
	}
	dst = append(dst, bytes.TrimSuffix(data, []byte{'\n'})...)
	return append(dst, '\n')
}

// A Record is one record of a log file.
type Record struct {
	Time    time.Time
	Stream  string // Stdout or Stderr
	Partial bool   // the line goes on in the next record of the stream
	Data    []byte // aliases what was parsed; without the newline
}

// ParseLine reads one record, with or without its newline. Tags after the
// first are ignored, as the format asks of readers. The error wraps
// ErrMalformed.
func ParseLine(line []byte) (Record, error) {
	line = bytes.TrimSuffix(line, []byte{'\n'})
	stamp, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok {
		return Record{}, fmt.Errorf("%w: no time", ErrMalformed)
	}
	t, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return Record{}, fmt.Errorf("%w: time %q", ErrMalformed, clip(stamp))
	}
	name, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return Record{}, fmt.Errorf("%w: no stream", ErrMalformed)
	}
	var stream string
	switch string(name) {
	case Stdout:
		stream = Stdout
	case Stderr:
		stream = Stderr
	default:
		return Record{}, fmt.Errorf("%w: stream %q", ErrMalformed, clip(name))
	}
	tags, data, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return Record{}, fmt.Errorf("%w: no tag", ErrMalformed)
	}
	first, _, _ := bytes.Cut(tags, []byte{':'})
	return Record{Time: t, Stream: stream, Partial: string(first) == "P", Data: data}, nil
}

func clip(b []byte) []byte {
	return b[:min(len(b), 40)]
}
