package shim

import (
	"errors"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	controlFD = 3
	lockFD    = 4
)

type server struct {
	dir     string
	null    int
	reaper  *reaper
	buffers buffers
	execs   atomic.Uint64
	quit    chan struct{}
	quitOne sync.Once
	oom     oomBook

	pauseMu   sync.Mutex
	paused    int
	netHolder int // paused, if the pod's network is there
	pauseGone chan struct{}

	// settled is held, by any number, while containers are made and started, and
	// taken by an agent that begins to watch.
	settled sync.RWMutex
	turns   uint64 // of connections
	watcher uint64 // the turn of the agent that counts

	// attached counts clients.
	attached sync.WaitGroup

	mu         sync.Mutex
	containers map[string]*container
	watchers   map[*Conn]struct{}
	committed  bool
	lasting    func() error // waits for the mark to be on disk
	ending     bool
	trim       *time.Timer
}

// Main is the program nodekit-shim: one argument, the sandbox's directory. It
// returns the exit code.
func Main() int {
	if len(os.Args) > 2 && os.Args[1] == pauseArg {
		return pause(os.Args[2:])
	}
	if len(os.Args) != 2 {
		_, _ = os.Stderr.WriteString("nodekit-shim is started by runtimeiface/oci, with a sandbox's directory\n")
		return 2
	}
	if err := serve(os.Args[1]); err != nil {
		_, _ = os.Stderr.WriteString("nodekit-shim: " + err.Error() + "\n")
		return 1
	}
	return 0
}

func serve(dir string) error {
	unix.CloseOnExec(controlFD)
	unix.CloseOnExec(lockFD)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	s := &server{
		dir: dir, null: null, reaper: newReaper(), quit: make(chan struct{}), pauseGone: make(chan struct{}),
		containers: map[string]*container{}, watchers: map[*Conn]struct{}{},
	}
	// Caught rather than ignored: what is ignored stays so in containers.
	others := make(chan os.Signal, 1)
	signal.Notify(others, syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)
	sigchld := make(chan os.Signal, 1)
	signal.Notify(sigchld, syscall.SIGCHLD)
	go s.reaper.reap(sigchld)

	listener, err := listen(dir)
	if err != nil {
		return err
	}
	faultPoint("listening")
	control := os.NewFile(controlFD, "control")
	c, err := net.FileConn(control)
	_ = control.Close()
	if err != nil {
		return err
	}
	first, ok := c.(*net.UnixConn)
	if !ok {
		return errors.New("descriptor 3 is no unix socket")
	}
	go func() {
		s.serveConn(first)
		s.mu.Lock()
		orphan := !s.committed
		s.mu.Unlock()
		if orphan {
			s.end()
		}
	}()
	go s.accept(listener)
	<-s.quit
	return nil
}

// listen makes the socket by a path through a descriptor: the path of a
// sandbox's directory may be longer than a socket's address can be.
func listen(dir string) (*net.UnixListener, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	old := unix.Umask(0o177)
	defer unix.Umask(old)
	name := "/proc/self/fd/" + strconv.Itoa(fd) + "/" + SocketName
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

func (s *server) accept(l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			s.complain("accept", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		go s.serveConn(c)
	}
}

func answer(c *Conn, seq uint32, err error, fields ...string) {
	m := Message{Seq: seq, Op: OpOK, Fields: fields}
	if err != nil {
		m.Op, m.Fields = OpFail, []string{err.Error()}
	}
	send(c, m)
}

// send ends the connection of an agent that takes nothing.
func send(c *Conn, m Message, fds ...int) {
	if c.Send(m, fds...) != nil {
		_ = c.Close()
	}
}

// serveConn answers one agent. Requests run side by side.
func (s *server) serveConn(uc *net.UnixConn) {
	s.mu.Lock()
	c := &Conn{UnixConn: uc, turn: s.turns}
	s.turns++
	s.mu.Unlock()
	gone := make(chan struct{})
	var requests sync.WaitGroup
	defer func() {
		close(gone)
		requests.Wait() // an exec still answers an agent that only stopped writing
		s.mu.Lock()
		delete(s.watchers, c)
		s.mu.Unlock()
		c.CloseRights()
	}()
	for {
		m, err := ReadMessage(c)
		if err != nil {
			return
		}
		fds := c.Rights()
		requests.Go(func() { s.serve(c, m, fds, gone) })
	}
}

func (s *server) serve(c *Conn, m Message, fds []int, gone <-chan struct{}) {
	defer s.trimSoon()
	defer closeAll(fds)
	reply := func(err error, fields ...string) { answer(c, m.Seq, err, fields...) }
	switch m.Op {
	case OpSetup:
		reply(setUp(m.Fields))
	case OpCommit:
		reply(s.commit())
	case OpWatch:
		s.watch(c, m.Seq)
	case OpPause:
		req, err := parsePause(m)
		pid := 0
		if err == nil {
			pid, err = s.pausePID(req)
		}
		reply(err, strconv.Itoa(pid))
	case OpTarget:
		path, err := s.target(m.Field(0))
		reply(err, path)
	case OpReopen:
		err := errUnknown
		if ctr := s.find(m.Field(0)); ctr != nil && ctr.log != nil {
			err = ctr.log.reopen()
		}
		reply(err)
	case OpResize:
		reply(s.resize(m.Field(0), m.Field(1), m.Field(2)))
	case OpForward:
		err := s.forward(m.Field(0), gone, func(fd int) error { return c.Send(Message{Seq: m.Seq, Op: OpOK}, fd) })
		if err != nil {
			reply(err)
		}
	case OpExec:
		code, err := s.exec(m.Fields, fds, gone, func(fds ...int) { send(c, Message{Seq: m.Seq, Op: OpOK}, fds...) })
		reply(err, strconv.Itoa(code))
	case OpAttach:
		s.attached.Add(1)
		err := s.attach(m.Field(0), m.Field(1), fds, gone, func() { reply(nil) })
		reply(err)
		s.attached.Done()
	case OpShutdown:
		faultPoint("told to end")
		s.endContainers()
		s.endPause()
		faultPoint("containers gone")
		s.awaitClients()
		reply(nil)
		faultPoint("end told")
		s.leave()
	default:
		s.serveLife(c, m, reply)
	}
}

// serveLife answers what moves containers on.
func (s *server) serveLife(c *Conn, m Message, reply func(error, ...string)) {
	switch m.Op {
	case OpCreate, OpStart, OpRun:
		s.settled.RLock()
		defer s.settled.RUnlock()
		if c.turn < s.watcher {
			reply(errors.New("another agent has taken over"))
			return
		}
	}
	switch m.Op {
	case OpCreate:
		req, err := parseCreate(m.Fields)
		if err == nil {
			err = s.create(req)
			faultPoint("created")
		}
		reply(err)
	case OpStart:
		reply(s.start(m.Field(0)))
	case OpRun:
		req, err := parseRun(m.Fields)
		if err != nil {
			reply(err)
			return
		}
		if failed := s.runGroup(req); failed != nil {
			send(c, Message{Seq: m.Seq, Op: OpFail, Fields: failed.fields()})
			return
		}
		reply(nil)
	case OpUpdate:
		reply(s.update(m.Field(0), m.Field(1)))
	case OpStop:
		grace, err := strconv.ParseInt(m.Field(1), 10, 64)
		if err == nil {
			err = s.stop(m.Field(0), time.Duration(grace))
		}
		reply(err)
	case OpRemove:
		reply(s.remove(m.Field(0)))
	default:
		reply(errors.New("unknown operation " + m.Op))
	}
}

// setUp takes a hostname, or "", and kernel parameters as name, value.
func setUp(fields []string) error {
	if len(fields)%2 != 1 {
		return ErrMessage
	}
	faultPoint("set up")
	if fields[0] != "" {
		if err := unix.Sethostname([]byte(fields[0])); err != nil {
			return errors.New("set hostname: " + err.Error())
		}
	}
	for i := 1; i < len(fields); i += 2 {
		if err := SetSysctl(fields[i], fields[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// commit makes the sandbox outlive its agent: the mark and the shim go together.
func (s *server) commit() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	faultPoint("commit")
	lasting, err := mark(s.dir, CommittedName)
	if err != nil {
		return err
	}
	s.committed, s.lasting = true, lasting
	faultPoint("committed")
	return nil
}

// watch answers under the lock: no exit falls between the state and the events.
// Who is not told to be alive has an exit on disk.
// What an agent before has begun is done by then, and no more of it is begun: so
// the new one finds on disk what there is.
func (s *server) watch(c *Conn, seq uint32) {
	s.settled.Lock()
	defer s.settled.Unlock()
	s.watcher = c.turn
	s.mu.Lock()
	defer s.mu.Unlock()
	var fields []string
	for _, ctr := range s.containers {
		ctr.mu.Lock()
		if !ctr.recorded {
			fields = append(fields, Live{ctr.ID, ctr.pid, ctr.started}.fields()...)
		}
		ctr.mu.Unlock()
	}
	s.watchers[c] = struct{}{}
	answer(c, seq, nil, fields...)
}

// tell sends an event to all that watch.
func (s *server) tell(m Message) {
	s.mu.Lock()
	var to []*Conn
	for c := range s.watchers {
		to = append(to, c)
	}
	s.mu.Unlock()
	for _, c := range to {
		send(c, m)
	}
}

func (s *server) find(id string) *container {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.containers[id]
}

func (s *server) forget(id string) {
	s.mu.Lock()
	delete(s.containers, id)
	s.mu.Unlock()
}

// endContainers kills all containers and has the runtime forget them.
func (s *server) endContainers() {
	s.mu.Lock()
	s.ending = true
	var ids []string
	for id := range s.containers {
		ids = append(ids, id)
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() { _ = s.remove(id) })
	}
	wg.Wait()
}

// awaitClients lets those who were attached have the end of what they hear.
func (s *server) awaitClients() {
	left := make(chan struct{})
	go func() { s.attached.Wait(); close(left) }()
	select {
	case <-left:
	case <-time.After(drainTime):
	}
}

// end is for a sandbox that was never given to anybody.
func (s *server) end() {
	s.endContainers()
	faultPoint("orphaned")
	_ = os.Remove(filepath.Join(s.dir, SocketName))
	s.leave()
}

func (s *server) leave() { s.quitOne.Do(func() { close(s.quit) }) }

// logged is called after output came.
func (s *server) logged() { s.trimIn(30 * time.Second) }

func (s *server) trimSoon() { s.trimIn(2 * time.Second) }

// trimIn gives memory back to the kernel a while after there was work.
func (s *server) trimIn(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trim != nil {
		return
	}
	s.trim = time.AfterFunc(d, func() {
		s.mu.Lock()
		s.trim = nil
		s.mu.Unlock()
		s.buffers.trim()
		debug.FreeOSMemory()
	})
}
