package oci

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// streams are pipes for a program's standard input, output and error, as far as
// they are wanted, or the master of its terminal.
type streams struct {
	ours, theirs [3]*os.File
	terminal     bool

	wg     sync.WaitGroup
	copied atomic.Int64
	fed    chan struct{} // closed at the end of the input
	ended  chan struct{} // closed by finish
	failed chan struct{} // closed when err is set
	mu     sync.Mutex
	err    error
}

// newStreams makes pipes for those wanted: input, output, error.
func newStreams(wanted ...bool) (*streams, error) {
	x := &streams{fed: make(chan struct{}), ended: make(chan struct{}), failed: make(chan struct{})}
	for i, want := range wanted {
		if !want {
			continue
		}
		if err := x.pipe(i); err != nil {
			x.close()
			return nil, err
		}
	}
	return x, nil
}

// pipe makes our end only non-blocking: programs expect theirs to block.
func (x *streams) pipe(i int) error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	our, their := p[0], p[1]
	if i == 0 {
		our, their = p[1], p[0]
	}
	_ = unix.SetNonblock(our, true)
	x.ours[i], x.theirs[i] = os.NewFile(uintptr(our), "pipe"), os.NewFile(uintptr(their), "pipe")
	return nil
}

// endInput says that there is no input.
func (x *streams) endInput() {
	_ = x.ours[0].Close()
	x.ours[0] = nil
}

// rights are the ends for the other side.
func (x *streams) rights() []int {
	var fds []int
	for _, f := range x.theirs {
		if f != nil {
			fds = append(fds, int(f.Fd()))
		}
	}
	return fds
}

// setTerminal puts the master of a terminal in the place of all pipes.
func (x *streams) setTerminal(fds []int) error {
	if len(fds) != 1 {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		return errors.New("the shim sent no terminal")
	}
	x.closeOurs()
	_ = unix.SetNonblock(fds[0], true)
	x.terminal = true
	x.ours = [3]*os.File{1: os.NewFile(uintptr(fds[0]), "terminal")}
	return nil
}

// follow sets the terminal's sizes until ended is closed.
func (x *streams) follow(sizes <-chan runtimeiface.TerminalSize, ended <-chan struct{}) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			raw, err := x.ours[1].SyscallConn()
			if err != nil {
				return
			}
			_ = raw.Control(func(fd uintptr) {
				_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
			})
		case <-ended:
			return
		}
	}
}

// copy begins to carry data, once the program runs.
func (x *streams) copy(stdin io.Reader, stdout, stderr io.Writer) {
	to := x.ours[0]
	if x.terminal {
		to = x.ours[1]
	}
	if to != nil && stdin != nil {
		// Not waited for: the reader may never end. The pipe does.
		go x.feed(to, stdin)
	}
	for i, to := range []io.Writer{stdout, stderr} {
		if to == nil {
			to = io.Discard
		}
		if from := x.ours[i+1]; from != nil {
			x.wg.Go(func() { x.carry(from, to) })
		}
	}
}

// feed gives the program its input to the end. A terminal's has none.
func (x *streams) feed(to *os.File, stdin io.Reader) {
	_, err := io.Copy(to, stdin)
	if !x.terminal {
		_ = to.Close()
	}
	if !errors.Is(err, unix.EPIPE) && !errors.Is(err, os.ErrClosed) {
		close(x.fed)
	}
}

// hangupTime is how long to wait before looking again at a terminal that no
// process has open: the program may open it again, and nobody tells.
const hangupTime = 100 * time.Millisecond

// carry reads until the end. A terminal gives EIO while no process has it open.
func (x *streams) carry(from *os.File, to io.Writer) {
	buf := make([]byte, 32<<10)
	for over := false; ; {
		n, err := from.Read(buf)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				x.fail(werr)
				to = io.Discard // the program shall not hang for it
			}
			x.copied.Add(int64(n))
		}
		switch {
		case err == nil:
			continue
		case !x.terminal || over || !errors.Is(err, unix.EIO):
			return
		}
		select {
		case <-x.ended:
			over = true // once more, for what was said until then
		case <-time.After(hangupTime):
		}
	}
}

func (x *streams) fail(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err == nil {
		close(x.failed)
	}
	x.err = errors.Join(x.err, err)
}

func (x *streams) failure() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.err
}

// finish waits for the rest of the output of a program that has ended. What a
// process left behind may still say is cut off when nothing comes for a while.
func (x *streams) finish(ctx context.Context) error {
	close(x.ended)
	done := make(chan struct{})
	go func() { x.wg.Wait(); close(done) }()
	idle := time.NewTicker(250 * time.Millisecond)
	defer idle.Stop()
	last := int64(-1)
	for {
		select {
		case <-done:
			return x.failure()
		case <-ctx.Done():
			return ctx.Err()
		case <-idle.C:
			now := x.copied.Load()
			if now == last && shim.Empty(x.ours[1:]...) {
				x.closeOurs()
			}
			last = now
		}
	}
}

func (x *streams) closeTheirs() {
	for i, f := range x.theirs {
		if f != nil {
			_ = f.Close()
			x.theirs[i] = nil
		}
	}
}

func (x *streams) closeOurs() {
	for _, f := range x.ours {
		if f != nil {
			_ = f.Close()
		}
	}
}

func (x *streams) close() {
	x.closeTheirs()
	x.closeOurs()
}
