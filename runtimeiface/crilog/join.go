package crilog

import (
	"errors"
	"io"
	"time"
)

// errLimit ends a read whose LimitBytes is used up.
var errLimit = errors.New("limit of bytes reached")

// joiner puts the parts of lines together and writes them out.
type joiner struct {
	opts    Options
	out     map[string]io.Writer
	pending map[string]*partialLine
	remain  int64 // negative: no limit
}

// partialLine is what is known of a line whose end has not come yet.
type partialLine struct {
	started bool // some part came: time and wanted are valid
	wanted  bool
	flushed bool // a piece was written already
	time    time.Time
	text    []byte
}

func newJoiner(opts Options, stdout, stderr io.Writer) *joiner {
	j := &joiner{
		opts:    opts,
		out:     map[string]io.Writer{Stdout: stdout, Stderr: stderr},
		pending: map[string]*partialLine{Stdout: {}, Stderr: {}},
		remain:  -1,
	}
	if opts.LimitBytes != nil && *opts.LimitBytes >= 0 {
		j.remain = *opts.LimitBytes
	}
	return j
}

// add takes one record. Full lines are written at once.
func (j *joiner) add(r Record) error {
	line := j.pending[r.Stream]
	if !line.started {
		line.started = true
		line.time = r.Time
		line.wanted = !r.Time.Before(j.opts.Since) && (j.opts.Stream == "" || j.opts.Stream == r.Stream)
	}
	if line.wanted {
		line.text = append(line.text, r.Data...)
		if !r.Partial {
			line.text = append(line.text, '\n')
		}
		if !r.Partial || len(line.text) >= j.opts.MaxLine {
			if err := j.write(r.Stream, line); err != nil {
				return err
			}
		}
	}
	if !r.Partial {
		*line = partialLine{text: line.text[:0]}
	}
	return nil
}

// flush writes lines whose end will not come.
func (j *joiner) flush() error {
	for _, stream := range []string{Stdout, Stderr} {
		line := j.pending[stream]
		if len(line.text) > 0 {
			if err := j.write(stream, line); err != nil {
				return err
			}
		}
		*line = partialLine{}
	}
	return nil
}

func (j *joiner) write(stream string, line *partialLine) error {
	text := line.text
	if j.opts.Timestamps && !line.flushed {
		stamped := make([]byte, 0, len(TimeFormat)+1+len(text))
		stamped = line.time.AppendFormat(stamped, TimeFormat)
		stamped = append(stamped, ' ')
		text = append(stamped, text...)
	}
	line.flushed = true
	line.text = line.text[:0]
	if cap(line.text) > 2*j.opts.MaxLine {
		line.text = nil
	}
	if j.remain >= 0 && int64(len(text)) > j.remain {
		text = text[:j.remain]
	}
	n, err := j.out[stream].Write(text)
	if err != nil {
		return err
	}
	if n < len(text) {
		return io.ErrShortWrite
	}
	if j.remain >= 0 {
		j.remain -= int64(n)
		if j.remain == 0 {
			return errLimit
		}
	}
	return nil
}
