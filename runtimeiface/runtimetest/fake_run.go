package runtimetest

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

// run is a program at work: a container's own, or a command beside it. The fake's
// mu guards it, input aside, which keeps calls of the program's own functions apart.
type run struct {
	program Program
	log     *logFile
	readers map[*reader]struct{}
	gone    bool
	code    int32
	// end is called once, when the program ends by itself.
	end func(at time.Time, how exit)
	// ended is closed after the last output.
	ended chan struct{}

	input  sync.Mutex
	closed bool // standard input is; guarded by input
}

func newRun(p Program, end func(time.Time, exit)) *run {
	return &run{program: p, readers: map[*reader]struct{}{}, end: end, ended: make(chan struct{})}
}

// reader is somebody who gets a program's output. The fake's mu guards it.
type reader struct {
	pending []Output
	wake    chan struct{} // of capacity 1
}

func (r *run) reader() *reader {
	to := &reader{wake: make(chan struct{}, 1)}
	r.readers[to] = struct{}{}
	return to
}

func (r *run) write(out Output, at time.Time) {
	if r.gone {
		return
	}
	if r.log != nil {
		stream := 0
		if out.Stderr {
			stream = 1
		}
		r.log.write(stream, out.Data, at)
	}
	for to := range r.readers {
		to.pending = append(to.pending, out)
		select {
		case to.wake <- struct{}{}:
		default:
		}
	}
}

// over ends it, whoever wanted that.
func (r *run) over(at time.Time) {
	if r.gone {
		return
	}
	r.gone = true
	if r.log != nil {
		r.log.close(at)
	}
	close(r.ended)
}

// react plans what the program does.
func (f *Fake) react(r *run, now time.Time, what Reaction) {
	for _, out := range what.Output {
		f.plan(now.Add(out.After), func(at time.Time) { r.write(out, at) })
	}
	if e := what.Exit; e != nil {
		how := exited(e.Code)
		if e.OOM {
			how = outOfMemory
		}
		f.plan(now.Add(e.After), func(at time.Time) {
			if !r.gone {
				r.end(at, how)
			}
		})
	}
}

// input tells the program of data, or by nil of the end of its standard input.
func (f *Fake) input(r *run, data []byte) {
	r.input.Lock()
	defer r.input.Unlock()
	if r.closed || r.program.Stdin == nil {
		return
	}
	r.closed = data == nil
	f.perceive(r, r.program.Stdin(data))
}

func (f *Fake) resize(r *run, size runtimeiface.TerminalSize) {
	r.input.Lock()
	defer r.input.Unlock()
	if r.program.Resized != nil {
		f.perceive(r, r.program.Resized(size))
	}
}

func (f *Fake) perceive(r *run, what Reaction) {
	now := f.lock()
	defer f.unlock()
	f.react(r, now, what)
}

// streams are one side of a connection to a program.
type streams struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	resize         <-chan runtimeiface.TerminalSize
	// stdinEnds is called at the end of stdin. If it gives true, that is the end of
	// the connection too.
	stdinEnds func() bool
}

// connect carries until the program has ended and its output is delivered, or the
// connection ends otherwise.
func (f *Fake) connect(ctx context.Context, r *run, from *reader, s streams) error {
	over, left := make(chan struct{}), make(chan struct{})
	defer close(over)
	defer func() {
		f.lock()
		delete(r.readers, from)
		f.unlock()
	}()
	if s.stdin != nil {
		go f.carry(r, s, over, left)
	}
	for {
		out, some, ended := f.said(r, from)
		switch {
		case some:
			to := s.stdout
			if out.Stderr {
				to = s.stderr
			}
			if to == nil {
				continue
			}
			if _, err := to.Write(out.Data); err != nil {
				return fmt.Errorf("write output: %w", err)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			continue
		case ended:
			return nil
		}
		select {
		case <-from.wake:
		case <-r.ended:
		case <-left:
			return nil
		case size, open := <-s.resize:
			if !open {
				s.resize = nil
				continue
			}
			f.resize(r, size)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// carry brings standard input to the program, until over.
func (f *Fake) carry(r *run, s streams, over <-chan struct{}, left chan<- struct{}) {
	buf := make([]byte, 32<<10)
	for {
		n, err := s.stdin.Read(buf)
		if isClosed(over) {
			return
		}
		if n > 0 {
			f.input(r, append([]byte{}, buf[:n]...))
		}
		if err != nil {
			if s.stdinEnds() {
				close(left)
			}
			return
		}
	}
}

func (f *Fake) said(r *run, from *reader) (out Output, some, ended bool) {
	f.lock()
	defer f.unlock()
	if len(from.pending) == 0 {
		return Output{}, false, r.gone
	}
	out = from.pending[0]
	from.pending = from.pending[1:]
	return out, true, false
}
