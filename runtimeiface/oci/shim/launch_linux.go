package shim

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// make has the OCI runtime make the container, if it has not.
func (s *server) make(c *container) error {
	c.mu.Lock()
	c.making = c.pid == 0 && c.cannotRun == "" && c.stopBy.IsZero()
	making := c.making
	c.mu.Unlock()
	if !making {
		return nil
	}
	defer s.settle(c)
	return s.launch(c, "create")
}

// launch has the OCI runtime make the container, by a command that may also
// start it, and begins to keep it. If the program cannot be run there is no
// error, but cannotRun. After another error the OCI runtime has nothing of it.
func (s *server) launch(c *container, command ...string) error {
	pidFile := filepath.Join(c.dir, pidName)
	args := append(command, "--bundle", c.dir, "--pid-file", pidFile)
	var terminal *console
	if c.TTY {
		var err error
		if terminal, err = s.newConsole(); err != nil {
			return err
		}
		defer terminal.close()
		args = append(args, "--console-socket", terminal.path)
	}
	files, said, err := s.streams(c)
	if err != nil {
		return err
	}
	faultPoint("streams open")
	s.reaper.claim()
	defer s.reaper.unclaim()
	if c.TTY {
		defer func() { _ = said.Close() }()
	}
	s.oom.made(c.ID, c.OOMFile)
	d, err := s.run(c, files, append(args, c.ID)...)
	faultPoint("runtime returned")
	for _, fd := range files {
		if fd != uintptr(s.null) {
			_ = unix.Close(int(fd))
		}
	}
	// A runtime that says that it failed has left nothing running; of one that was
	// killed, or whose word is not followed by what it promised, nobody knows.
	ran := command[0] == "run" && err == nil && (d.code() == 0 || d.code() > 128)
	text := ""
	if err == nil && d.code() != 0 {
		text = runtimeText(said) // nothing of the program is among it, if it says anything
		err = errors.New(text)
	}
	pid := 0
	if err == nil {
		pid, err = readPid(pidFile)
	}
	if err == nil && c.TTY {
		err = c.takeTerminal(terminal)
	}
	if err != nil {
		c.closeStreams()
		s.oom.close(c.ID)
		if ran || !isStartError(text) {
			KillCgroup(c.TrackDir, killTime)
			_, _ = s.run(c, nil, "delete", "--force", c.ID)
		}
		switch {
		case ran && d.code() != 0:
			text = "the OCI runtime was killed: whether the program ran is not known"
		case ran: // it shall not run twice
			text = "the program was started, and killed: " + err.Error()
		case !isStartError(text):
			return err
		}
		c.mu.Lock()
		c.cannotRun = text
		c.mu.Unlock()
		return nil
	}
	faultPoint("pid read")
	c.mu.Lock()
	c.pid = pid
	c.mu.Unlock()
	s.keep(c)
	return nil
}

// unable tells that the program cannot be run.
func (c *container) unable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cannotRun != ""
}

// takeTerminal makes the master the container's streams.
func (c *container) takeTerminal(from *console) error {
	fd, err := from.master()
	if err != nil {
		return err
	}
	if c.outs[0], err = nonblocking(fd, "terminal"); err != nil {
		_ = unix.Close(fd)
		return err
	}
	if c.Stdin {
		if fd, err = dupOf(c.outs[0]); err == nil {
			c.stdin.file = os.NewFile(uintptr(fd), "terminal")
		}
	}
	return err
}

// keep reads the output and waits for the end.
func (s *server) keep(c *container) {
	var readers sync.WaitGroup
	for i, out := range c.outs {
		if out != nil {
			readers.Go(func() { s.pump(c, i) })
		}
	}
	go func() {
		readers.Wait()
		close(c.drained)
	}()
	death := s.reaper.adopt(c.pid)
	go func() {
		d := <-death
		close(c.dead)
		faultPoint("reaped")
		if c.Sweep {
			KillCgroup(c.TrackDir, killTime)
		}
		e := Exit{ID: c.ID, Code: d.code(), OOM: s.oom.close(c.ID) > 0, At: d.at}
		select {
		case <-c.drained:
		case <-time.After(drainTime):
		}
		faultPoint("drained")
		c.starting.Lock()
		s.exit(c, e)
		c.starting.Unlock()
		select {
		case <-c.hurried:
		case <-time.After(deleteDelay):
		}
		// Without --force, with which runc waits for 100 ms.
		if d, err := s.run(c, nil, "delete", c.ID); err != nil || d.code() != 0 {
			_, _ = s.run(c, nil, "delete", "--force", c.ID)
		}
		faultPoint("runtime deleted")
		close(c.deleted)
		s.trimSoon()
	}()
}
