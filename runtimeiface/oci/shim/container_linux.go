package shim

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// drainTime is how long an exit waits for output that somebody outside the
	// container may hold open.
	drainTime = 250 * time.Millisecond
	// killTime is how long processes may take to die of SIGKILL.
	killTime = 5 * time.Second
	// deathTime is how long a container may be dead before its reaping is seen.
	deathTime = 100 * time.Millisecond
)

var (
	errUnknown = errors.New("unknown container")
	errExited  = errors.New(Exited)
	errExists  = errors.New("container exists")
)

// container is one container of the pod.
type container struct {
	CreateRequest
	dir string
	log *logFile
	// lasting waits for the mark to be on disk.
	lasting func() error
	stdin   *os.File
	outs    [2]*os.File

	// ops is held by create, start and remove.
	ops sync.Mutex
	// starting is held until the start is told: nobody hears of an exit before.
	starting sync.Mutex

	mu        sync.Mutex
	pid       int
	cannotRun string // why the program cannot be run
	started   time.Time
	signalled bool
	killAt    time.Time
	killTimer *time.Timer
	exited    bool
	recorded  bool          // the exit is on disk, or cannot be
	dead      chan struct{} // the first process has been reaped
	drained   chan struct{} // all output is in the log
	done      chan struct{} // the exit is on disk and told
	deleted   chan struct{} // the OCI runtime has forgotten the container
}

func (s *server) create(req CreateRequest) (int, error) {
	c := &container{
		CreateRequest: req, dir: filepath.Join(s.dir, ContainersDir, req.ID),
		dead: make(chan struct{}), drained: make(chan struct{}), done: make(chan struct{}), deleted: make(chan struct{}),
	}
	c.ops.Lock()
	defer c.ops.Unlock()
	s.mu.Lock()
	if s.containers[req.ID] != nil || s.ending {
		s.mu.Unlock()
		return 0, errExists
	}
	s.containers[req.ID] = c
	s.mu.Unlock()

	faultPoint("create")
	err := s.make(c)
	if err == nil {
		faultPoint("container made")
		c.lasting, err = mark(c.dir, CreatedName)
		faultPoint("container marked")
		if err != nil && c.pid != 0 {
			s.reaper.kill(c.pid, syscall.SIGKILL)
			<-c.deleted
		}
	}
	if err != nil {
		c.close()
		s.forget(c.ID)
		return 0, err
	}
	return c.pid, nil
}

// make has the OCI runtime make the container and begins to keep it.
func (s *server) make(c *container) error {
	var err error
	if c.log, err = openLog(c.LogDir, c.LogPath); err != nil {
		return err
	}
	files, err := c.pipes()
	if err != nil {
		return err
	}
	faultPoint("log opened")
	s.reaper.claim()
	defer s.reaper.unclaim()
	pidFile := filepath.Join(c.dir, pidName)
	d, err := s.run(c, files, "create", "--bundle", c.dir, "--pid-file", pidFile, c.ID)
	faultPoint("runtime created")
	for _, fd := range files {
		_ = unix.Close(int(fd))
	}
	if err == nil && d.code() != 0 {
		// Nothing of the container ran yet: all output is the runtime's.
		text := runtimeText(c.outs[1])
		if isStartError(text) {
			c.mu.Lock()
			c.cannotRun = text
			c.mu.Unlock()
			close(c.drained)
			close(c.deleted)
			return nil
		}
		err = errors.New(text)
	}
	pid := 0
	if err == nil {
		pid, err = readPid(pidFile)
	}
	if err != nil {
		_, _ = s.run(c, nil, "delete", "--force", c.ID)
		return err
	}
	faultPoint("pid read")
	c.mu.Lock()
	c.pid = pid
	c.mu.Unlock()
	s.keep(c)
	return nil
}

// keep reads the output and waits for the end.
func (s *server) keep(c *container) {
	var readers sync.WaitGroup
	for i, out := range c.outs {
		readers.Go(func() { s.buffers.pump(out, i, c.log, s.logged) })
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
		e := Exit{ID: c.ID, Code: d.code(), OOM: oomKilled(c.OOMFile), At: d.at}
		select {
		case <-c.drained:
		case <-time.After(drainTime):
		}
		faultPoint("drained")
		c.starting.Lock()
		s.exit(c, e)
		c.starting.Unlock()
		// Without --force, with which runc waits for 100 ms.
		if d, err := s.run(c, nil, "delete", c.ID); err != nil || d.code() != 0 {
			_, _ = s.run(c, nil, "delete", "--force", c.ID)
		}
		faultPoint("runtime deleted")
		close(c.deleted)
		s.trimSoon()
	}()
}

// exit makes the end lasting and known, once.
func (s *server) exit(c *container, e Exit) {
	c.mu.Lock()
	if c.exited {
		c.mu.Unlock()
		return
	}
	c.exited = true
	if c.killTimer != nil {
		c.killTimer.Stop()
	}
	c.mu.Unlock()
	faultPoint("exit seen")
	if err := WriteFile(c.dir, ExitName, e.record()); err != nil {
		s.complain("record exit of "+c.ID, err)
	}
	c.mu.Lock()
	c.recorded = true
	c.mu.Unlock()
	faultPoint("exit recorded")
	s.tell(Message{Op: EventExit, Fields: e.Fields()})
	faultPoint("exit told")
	close(c.done)
}

func (s *server) start(id string) error {
	c := s.find(id)
	if c == nil {
		return errUnknown
	}
	c.ops.Lock()
	defer c.ops.Unlock()
	c.starting.Lock()
	defer c.starting.Unlock()
	c.mu.Lock()
	started, exited, cannotRun := c.started, c.exited, c.cannotRun
	c.mu.Unlock()
	switch {
	case exited:
		return errExited
	case cannotRun != "":
		s.exit(c, Exit{ID: id, Code: 128, StartError: cannotRun, At: time.Now()})
		return errors.New(cannotRun)
	case !started.IsZero():
		return nil
	}
	// What runs once must be known also after a loss of power: else it would
	// run twice.
	if err := s.lastingAll(c); err != nil {
		return err
	}
	faultPoint("lasting")
	// The time before: the program may be over when the runtime returns.
	now := time.Now()
	if err := s.runQuiet(c, "start", c.ID); err != nil {
		// What the runtime says of a container that was killed meanwhile is not
		// the cause.
		select {
		case <-c.dead:
			return errExited
		case <-time.After(deathTime):
			return err
		}
	}
	faultPoint("runtime started")
	c.mu.Lock()
	c.started = now
	c.mu.Unlock()
	nano := strconv.FormatInt(now.UnixNano(), 10)
	err := os.WriteFile(filepath.Join(c.dir, StartedName), []byte(nano), 0o600)
	faultPoint("start recorded")
	s.tell(Message{Op: EventStart, Fields: []string{id, nano}})
	return err
}

// lastingAll waits until the marks of the pod and of c are on disk.
func (s *server) lastingAll(c *container) error {
	s.mu.Lock()
	lasting := s.lasting
	s.mu.Unlock()
	if lasting != nil {
		if err := lasting(); err != nil {
			return errors.New("mark of the pod: " + err.Error())
		}
	}
	if err := c.lasting(); err != nil {
		return errors.New("mark of the container: " + err.Error())
	}
	return nil
}

// stop asks the program to end and kills it after grace. It does not wait. A
// later call can only shorten the grace.
func (s *server) stop(id string, grace time.Duration) error {
	c := s.find(id)
	if c == nil {
		return errUnknown
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.exited:
		return nil
	case c.cannotRun != "":
		go s.exit(c, Exit{ID: id, Code: 128, StartError: c.cannotRun, At: time.Now()})
		return nil
	case grace <= 0 || c.started.IsZero():
		faultPoint("stop kills")
		s.reaper.kill(c.pid, syscall.SIGKILL)
		return nil
	}
	if !c.signalled {
		c.signalled = true
		s.reaper.kill(c.pid, syscall.Signal(c.StopSignal))
	}
	faultPoint("stop signalled")
	at := time.Now().Add(grace)
	if c.killTimer != nil && c.killAt.Before(at) {
		return nil
	}
	if c.killTimer != nil {
		c.killTimer.Stop()
	}
	c.killAt = at
	c.killTimer = time.AfterFunc(grace, func() { s.reaper.kill(c.pid, syscall.SIGKILL) })
	return nil
}

// remove ends the container if need be and forgets it.
func (s *server) remove(id string) error {
	c := s.find(id)
	if c == nil {
		return nil
	}
	c.ops.Lock()
	defer c.ops.Unlock()
	if s.find(id) != c {
		return nil
	}
	if err := s.stop(id, 0); err != nil {
		return err
	}
	faultPoint("remove")
	<-c.done
	<-c.deleted
	c.close()
	faultPoint("removed")
	s.forget(id)
	return nil
}

// close lets go of what the container has open.
func (c *container) close() {
	if c.log != nil {
		c.log.close()
	}
	for _, f := range []*os.File{c.stdin, c.outs[0], c.outs[1]} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// pipes gives the program's ends of its standard streams.
func (c *container) pipes() ([]uintptr, error) {
	files := make([]uintptr, 3)
	var p [2]int
	if c.Stdin {
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return nil, err
		}
		c.stdin = os.NewFile(uintptr(p[1]), "stdin")
	} else {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		p[0] = fd
	}
	files[0] = uintptr(p[0])
	for i := range c.outs {
		err := unix.Pipe2(p[:], unix.O_CLOEXEC)
		if err == nil {
			err = unix.SetNonblock(p[0], true)
		}
		if err != nil {
			for _, fd := range files[:i+1] {
				_ = unix.Close(int(fd))
			}
			return nil, err
		}
		c.outs[i], files[i+1] = os.NewFile(uintptr(p[0]), streams[i]), uintptr(p[1])
	}
	return files, nil
}

// runtimeText is what an OCI runtime that has ended said, without the pomp.
func runtimeText(from *os.File) string {
	buf := make([]byte, 4096)
	_ = from.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	n, _ := from.Read(buf)
	text := strings.TrimSpace(string(buf[:n]))
	if i := strings.LastIndex(text, "runc create failed: "); i >= 0 {
		text = text[i+len("runc create failed: "):]
	}
	text = strings.TrimPrefix(text, "unable to start container process: ")
	if text == "" {
		text = "the OCI runtime failed and did not say why"
	}
	return text
}

// isStartError tells that the program could not be run from other failures. Runc:
// error during container init: exec: "/nope": stat /nope: no such file or directory
// Crun: executable file `x` not found in $PATH: No such file or directory
// Crun: the path `x` exists but it is not executable: Operation not permitted
// Crun: the path `x` is not a regular file: Operation not permitted
func isStartError(text string) bool {
	return strings.Contains(text, `exec: "`) || strings.Contains(text, "executable file") || strings.HasPrefix(text, "the path `")
}

func readPid(file string) (int, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}
