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

	// tellTime is how long an agent may take to take a message.
	tellTime = 2 * time.Second
)

type server struct {
	dir     string
	null    int
	reaper  *reaper
	buffers buffers
	execs   atomic.Uint64
	quit    chan struct{}
	quitOne sync.Once

	pauseMu   sync.Mutex
	paused    int
	pauseGone chan struct{}

	mu         sync.Mutex
	containers map[string]*container
	watchers   map[*conn]struct{}
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
		containers: map[string]*container{}, watchers: map[*conn]struct{}{},
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

// conn is a connection of an agent.
type conn struct {
	*net.UnixConn
	mu  sync.Mutex
	fds []int
}

// Read takes descriptors along.
func (c *conn) Read(p []byte) (int, error) {
	var oob [64]byte
	n, oobn, _, _, err := c.ReadMsgUnix(p, oob[:])
	if oobn > 0 {
		messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
		for _, m := range messages {
			fds, _ := unix.ParseUnixRights(&m)
			c.fds = append(c.fds, fds...)
		}
	}
	if n == 0 && err == nil && len(p) > 0 {
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *conn) send(m Message) error {
	b, err := m.Append(nil)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.SetWriteDeadline(time.Now().Add(tellTime))
	_, err = c.Write(b)
	return err
}

func (c *conn) answer(seq uint32, err error, fields ...string) {
	m := Message{Seq: seq, Op: OpOK, Fields: fields}
	if err != nil {
		m.Op, m.Fields = OpFail, []string{err.Error()}
	}
	if c.send(m) != nil {
		_ = c.Close()
	}
}

// serveConn answers one agent. Requests run side by side.
func (s *server) serveConn(uc *net.UnixConn) {
	c := &conn{UnixConn: uc}
	gone := make(chan struct{})
	var requests sync.WaitGroup
	defer func() {
		close(gone)
		requests.Wait() // an exec still answers an agent that only stopped writing
		s.mu.Lock()
		delete(s.watchers, c)
		s.mu.Unlock()
		_ = c.Close()
		for _, fd := range c.fds {
			_ = unix.Close(fd)
		}
	}()
	for {
		m, err := ReadMessage(c)
		if err != nil {
			return
		}
		fds := c.fds
		c.fds = nil
		requests.Go(func() { s.serve(c, m, fds, gone) })
	}
}

func (s *server) serve(c *conn, m Message, fds []int, gone <-chan struct{}) {
	defer s.trimSoon()
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	switch m.Op {
	case OpSetup:
		c.answer(m.Seq, setUp(m.Fields))
	case OpCommit:
		c.answer(m.Seq, s.commit())
	case OpWatch:
		s.watch(c, m.Seq)
	case OpCreate:
		req, err := parseCreate(m)
		pid := 0
		if err == nil {
			pid, err = s.create(req)
			faultPoint("created")
		}
		c.answer(m.Seq, err, strconv.Itoa(pid))
	case OpPause:
		req, err := parsePause(m)
		pid := 0
		if err == nil {
			pid, err = s.pausePID(req)
		}
		c.answer(m.Seq, err, strconv.Itoa(pid))
	case OpStart:
		c.answer(m.Seq, s.start(m.Field(0)))
	case OpStop:
		grace, err := strconv.ParseInt(m.Field(1), 10, 64)
		if err == nil {
			err = s.stop(m.Field(0), time.Duration(grace))
		}
		c.answer(m.Seq, err)
	case OpRemove:
		c.answer(m.Seq, s.remove(m.Field(0)))
	case OpReopen:
		err := errUnknown
		if ctr := s.find(m.Field(0)); ctr != nil && ctr.log != nil {
			err = ctr.log.reopen()
		}
		c.answer(m.Seq, err)
	case OpExec:
		code, err := s.exec(m.Field(0), fds, gone, func() { c.answer(m.Seq, nil) })
		c.answer(m.Seq, err, strconv.Itoa(code))
	case OpShutdown:
		faultPoint("told to end")
		s.endContainers()
		s.endPause()
		faultPoint("containers gone")
		c.answer(m.Seq, nil)
		faultPoint("end told")
		s.leave()
	default:
		c.answer(m.Seq, errors.New("unknown operation "+m.Op))
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
func (s *server) watch(c *conn, seq uint32) {
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
	c.answer(seq, nil, fields...)
}

// tell sends an event to all that watch.
func (s *server) tell(m Message) {
	s.mu.Lock()
	var to []*conn
	for c := range s.watchers {
		to = append(to, c)
	}
	s.mu.Unlock()
	for _, c := range to {
		if c.send(m) != nil {
			_ = c.Close()
		}
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
