package shim

import (
	"os"

	"golang.org/x/sys/unix"
)

// streams gives the program's ends of its standard streams, and where the OCI
// runtime's complaints come: with a terminal a pipe of its own, which the caller
// closes, else the program's standard error.
func (s *server) streams(c *container) (files []uintptr, said *os.File, err error) {
	defer func() {
		if err != nil {
			for _, fd := range files {
				if fd != uintptr(s.null) {
					_ = unix.Close(int(fd))
				}
			}
		}
	}()
	null := uintptr(s.null)
	if c.TTY {
		said, theirs, err := pipe()
		if err != nil {
			return nil, nil, err
		}
		return []uintptr{null, null, theirs}, said, nil
	}
	// Without input the program has a pipe at its end, and not the node's
	// /dev/null: some runtimes give what they are given to the container's user,
	// who could change its owner and mode for all.
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, err
	}
	files = []uintptr{uintptr(p[0])}
	if !c.Stdin {
		_ = unix.Close(p[1])
	} else if c.stdin.file, err = nonblocking(p[1], "stdin"); err != nil {
		_ = unix.Close(p[1])
		return files, nil, err
	}
	for i := range c.outs {
		ours, theirs, err := pipe()
		if err != nil {
			return files, nil, err
		}
		c.outs[i], files = ours, append(files, theirs)
	}
	return files, c.outs[1], nil
}

// pipe gives an end to read from, which one can wait for, and one for a program.
func pipe() (*os.File, uintptr, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, 0, err
	}
	ours, err := nonblocking(p[0], "pipe")
	if err != nil {
		_, _ = unix.Close(p[0]), unix.Close(p[1])
		return nil, 0, err
	}
	return ours, uintptr(p[1]), nil
}
