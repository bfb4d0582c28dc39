package shim

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
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
	// deathTime is how long it may take to be seen that a container's program died,
	// beginTime that it began although its runtime says otherwise.
	deathTime = 100 * time.Millisecond
	beginTime = 2 * time.Second
)

var (
	errUnknown = errors.New(Unknown)
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
	stdin   stdin
	outs    [2]*os.File // with a terminal the first one is its master
	clients clients
	pidNS   *os.File // under ops; nil until a container joins it

	// ops is held by create, start and remove.
	ops sync.Mutex
	// starting is held until the start is told: nobody hears of an exit before.
	starting sync.Mutex

	mu     sync.Mutex
	pid    int  // 0: the OCI runtime has not made it
	making bool // it is at it
	// stopBy is when a container is to be dead that was stopped before it was
	// made; zero: it was not.
	stopBy    time.Time
	cannotRun string // why the program cannot be run
	started   time.Time
	signalled bool // asked to end, or killed
	killAt    time.Time
	killTimer *time.Timer
	exited    bool
	recorded  bool          // the exit is on disk, or cannot be
	dead      chan struct{} // the first process has been reaped
	drained   chan struct{} // all output is in the log
	done      chan struct{} // the exit is on disk and told
	deleted   chan struct{} // the OCI runtime has forgotten the container
	hurry     func()        // has it forget the container at once when that has ended
	hurried   chan struct{}
	nothing   func() // says that the OCI runtime has nothing of it to end
}

// deleteDelay is how long after a container's end the OCI runtime is made to
// forget it, so that this is not in the way of what starts in its place.
const deleteDelay = 250 * time.Millisecond

// create takes a container in. The OCI runtime hears of it when it starts: its
// create and start in one are a good deal faster than one after the other.
func (s *server) create(req CreateRequest) error {
	c, err := s.enlist(req)
	if err != nil {
		return err
	}
	defer c.ops.Unlock()
	faultPoint("create")
	if c.log, err = openLog(c.LogDir, c.LogPath); err == nil {
		faultPoint("log opened")
		c.lasting, err = mark(c.dir, CreatedName)
		faultPoint("container marked")
	}
	if err != nil {
		s.unmake(c)
	}
	return err
}

// enlist makes a container known, with ops held.
func (s *server) enlist(req CreateRequest) (*container, error) {
	c := &container{
		CreateRequest: req, dir: filepath.Join(s.dir, ContainersDir, req.ID),
		dead: make(chan struct{}), drained: make(chan struct{}), done: make(chan struct{}), deleted: make(chan struct{}),
		hurried: make(chan struct{}),
	}
	c.hurry = sync.OnceFunc(func() { close(c.hurried) })
	c.nothing = sync.OnceFunc(func() { close(c.drained); close(c.deleted) })
	c.ops.Lock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[req.ID] != nil || s.ending {
		return nil, errExists
	}
	s.containers[req.ID] = c
	return c, nil
}

// unmake leaves nothing of a container that nobody was told of. Called with ops
// held.
func (s *server) unmake(c *container) {
	if c.pid != 0 {
		s.reaper.kill(c.pid, syscall.SIGKILL)
		c.hurry()
		<-c.deleted
	}
	c.close()
	s.forget(c.ID)
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
	// Whoever is told need not wait for the disk: after a loss of power the
	// container is over anyway, and how it ended may be unknown.
	lasting, err := writeSeen(c.dir, ExitName, e.record())
	c.mu.Lock()
	c.recorded = true
	c.mu.Unlock()
	faultPoint("exit recorded")
	s.tell(Message{Op: EventExit, Fields: e.Fields()})
	faultPoint("exit told")
	if err == nil {
		err = lasting()
	}
	if err != nil {
		s.complain("record exit of "+c.ID, err)
	}
	close(c.done)
}

func (s *server) start(id string) error {
	c := s.find(id)
	if c == nil {
		return errUnknown
	}
	c.ops.Lock()
	defer c.ops.Unlock()
	_, err := s.startOne(c)
	return err
}

// startOne is called with ops held. It tells whether the program runs now that
// did not before.
func (s *server) startOne(c *container) (bool, error) {
	c.starting.Lock()
	defer c.starting.Unlock()
	c.mu.Lock()
	started, exited, cannotRun := c.started, c.exited || !c.stopBy.IsZero(), c.cannotRun
	c.making = c.pid == 0
	run := c.making
	c.mu.Unlock()
	defer s.settle(c)
	switch {
	case exited:
		return false, errExited
	case cannotRun != "":
		return false, s.failed(c)
	case !started.IsZero():
		return false, nil
	}
	// What runs once must be known also after a loss of power: else it would
	// run twice.
	if err := s.lastingAll(c); err != nil {
		return false, err
	}
	faultPoint("lasting")
	// The time before: the program may be over when the runtime returns.
	now := time.Now()
	if run {
		if err := s.launch(c, "run", "--detach"); err != nil {
			return false, err
		}
		if c.unable() {
			return false, s.failed(c)
		}
	} else {
		before := exeOf(c.pid)
		if err := s.runQuiet(c, uintptr(s.null), "start", c.ID); err != nil {
			if began, dead := c.began(before); dead && !began {
				// What the runtime says of a container that was killed meanwhile is
				// not the cause.
				return false, errExited
			} else if !began {
				return false, err
			}
		}
	}
	faultPoint("runtime started")
	c.mu.Lock()
	c.started = now
	c.mu.Unlock()
	nano := strconv.FormatInt(now.UnixNano(), 10)
	err := os.WriteFile(filepath.Join(c.dir, StartedName), []byte(nano), 0o600)
	faultPoint("start recorded")
	s.tell(Message{Op: EventStart, Fields: []string{c.ID, nano, strconv.Itoa(c.pid)}})
	return true, err
}

// failed ends a container whose program cannot be run, and gives the cause.
func (s *server) failed(c *container) error {
	c.nothing()
	s.exit(c, Exit{ID: c.ID, Code: 128, StartError: c.cannotRun, At: time.Now()})
	return errors.New(c.cannotRun)
}

// settle does what was asked for while the OCI runtime made the container.
func (s *server) settle(c *container) {
	c.mu.Lock()
	by, made := c.stopBy, c.pid != 0
	c.making = false
	if made {
		c.stopBy = time.Time{}
	}
	c.mu.Unlock()
	switch {
	case by.IsZero():
	case made:
		_ = s.stop(c.ID, time.Until(by))
	default:
		s.neverRan(c)
	}
}

// neverRan ends a container that the OCI runtime has not made, as if it had been
// killed.
func (s *server) neverRan(c *container) {
	c.nothing()
	s.exit(c, Exit{ID: c.ID, Code: 128 + int(syscall.SIGKILL), At: time.Now()})
}

// began looks whether a container whose start failed runs its program all the
// same: the runtime may have been killed. What died unasked had begun.
func (c *container) began(before exe) (began, dead bool) {
	deadline := time.After(beginTime)
	for {
		select {
		case <-c.dead:
			c.mu.Lock()
			defer c.mu.Unlock()
			return !c.signalled, true
		case <-deadline:
			return false, false
		case <-time.After(2 * time.Millisecond):
			if now := exeOf(c.pid); now != before && now != (exe{}) {
				return true, false
			}
		}
	}
}

// exe is the file that a process executes.
type exe struct{ dev, inode uint64 }

func exeOf(pid int) exe {
	var st unix.Stat_t
	if err := unix.Stat("/proc/"+strconv.Itoa(pid)+"/exe", &st); err != nil {
		return exe{}
	}
	return exe{st.Dev, st.Ino}
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
		go func() { _ = s.failed(c) }()
		return nil
	case c.pid == 0:
		if by := time.Now().Add(max(0, grace)); c.stopBy.IsZero() || by.Before(c.stopBy) {
			c.stopBy = by
		}
		switch {
		case !c.making:
			go s.neverRan(c)
		case grace <= 0: // also of an OCI runtime that hangs
			go KillCgroup(c.TrackDir, killTime)
		}
		return nil
	case grace <= 0 || c.started.IsZero():
		c.signalled = true
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
	c.hurry()
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
	c.closeStreams()
	_ = c.pidNS.Close() // of nil, too
}

func (c *container) closeStreams() {
	c.stdin.close()
	for _, f := range c.outs {
		_ = f.Close() // of nil, too
	}
}
