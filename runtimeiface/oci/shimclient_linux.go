package oci

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// shimWait is how long a shim may take to answer what needs no OCI runtime.
const shimWait = 10 * time.Second

var errShimLost = errors.New("the pod's shim does not answer")

// shimError is what a shim said.
type shimError string

func (e shimError) Error() string { return string(e) }

// shimClient is the connection to one shim.
type shimClient struct {
	conn *net.UnixConn
	// own is the shim's, pid that of the process that holds the pod's namespaces:
	// the shim's too, or its child's in a pod with a user namespace.
	own, pid int

	wmu     sync.Mutex // one message at a time
	mu      sync.Mutex
	seq     uint32
	pending map[uint32]chan shim.Message
	// lost is closed when the connection is.
	lost chan struct{}
}

// startShim starts a shim in new namespaces. It lives no longer than the
// connection until it is told to commit.
func (r *Runtime) startShim(dir string, flags uintptr) (*shimClient, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "shim"), os.NewFile(uintptr(pair[1]), "shim")
	defer func() { _ = ours.Close(); _ = theirs.Close() }()
	lock, err := os.OpenFile(filepath.Join(dir, shim.LockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = lock.Close() }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	faultPoint("shim lock made")
	stderr, err := os.OpenFile(filepath.Join(dir, "shim.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = stderr.Close() }()
	cmd := &exec.Cmd{
		Path: r.shimPath, Args: []string{"nodekit-shim", dir}, Dir: "/",
		// Small heaps do not pay for huge pages, which many systems give unasked.
		Env:    append([]string{"PATH=" + os.Getenv("PATH"), "GOMAXPROCS=1", "GOGC=25", "GODEBUG=disablethp=1"}, faultEnv()...),
		Stderr: stderr, ExtraFiles: []*os.File{theirs, lock},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Cloneflags: flags},
	}
	start := cmd.Start
	if r.cfg.Network.NetNSPath != "" {
		start = func() error { return r.net.inHostNS(cmd.Start) }
	}
	if err := start(); err != nil {
		return nil, fmt.Errorf("start shim: %w", err)
	}
	conn, err := net.FileConn(ours)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, err
	}
	faultPoint("shim forked")
	// Not waited for: that would take a thread for each pod. See reapShim.
	pid := cmd.Process.Pid
	_ = cmd.Process.Release()
	return newShimClient(conn.(*net.UnixConn), pid), nil
}

// reapShim takes away what is left of a shim that has ended, if it is a child
// of this process, and not of one before.
func reapShim(pid int) {
	for range 100 {
		got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil)
		if got == pid || err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// dialShim connects to a shim that lives.
func dialShim(dir string) (*shimClient, error) {
	conn, err := dialUnix(dir)
	if err != nil {
		return nil, err
	}
	pid, err := peerPID(conn)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return newShimClient(conn, pid), nil
}

// dialUnix goes by a descriptor: the directory's path may be longer than a
// socket's address can be.
func dialUnix(dir string) (*net.UnixConn, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	defer func() { _ = unix.Close(fd) }()
	name := "/proc/self/fd/" + strconv.Itoa(fd) + "/" + shim.SocketName
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: name, Net: "unix"})
}

// peerPID is the process that listens.
func peerPID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil {
		return 0, cerr
	}
	if err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// shimAlive tells whether a process holds the lock that the shim was given.
func shimAlive(dir string) bool {
	f, err := os.Open(filepath.Join(dir, shim.LockName))
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// killShim ends the shim of a sandbox's directory and waits until it is gone.
func killShim(dir string) error {
	for wait := time.Millisecond; shimAlive(dir); wait *= 2 {
		for _, pid := range findShim(dir) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if wait > 2*time.Second {
			return fmt.Errorf("kill shim of %s: it does not die", dir)
		}
		time.Sleep(wait)
	}
	return nil
}

// findShim finds it by its command line, for one that does not listen.
func findShim(dir string) []int {
	return findProcesses(func(argv []string) bool {
		return len(argv) == 2 && argv[0] == "nodekit-shim" && argv[1] == dir
	})
}

// findPause finds the process that holds a pod's user namespace.
func findPause(dir string) []int {
	return findProcesses(func(argv []string) bool {
		return len(argv) > 2 && argv[0] == "nodekit-shim" && argv[1] == "pause" && argv[2] == filepath.Base(dir)
	})
}

// killStrays ends what else a shim called, by the IDs and directories among
// the arguments.
func killStrays(names []string) error {
	for wait := time.Millisecond; ; wait *= 2 {
		pids := findProcesses(func(argv []string) bool {
			return slices.Contains(argv, "--root") && slices.ContainsFunc(argv, func(arg string) bool {
				return slices.Contains(names, filepath.Base(arg))
			})
		})
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if wait > 2*time.Second {
			return fmt.Errorf("kill OCI runtime of a dead shim: %d processes do not die", len(pids))
		}
		time.Sleep(wait)
	}
}

// findProcesses gives those whose arguments match. The dead have none.
func findProcesses(match func(argv []string) bool) []int {
	var pids []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if argv := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00"); match(argv) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func newShimClient(conn *net.UnixConn, pid int) *shimClient {
	return &shimClient{conn: conn, own: pid, pid: pid, pending: map[uint32]chan shim.Message{}, lost: make(chan struct{})}
}

// read hands answers to their callers and events to onEvent, in order, until
// the connection ends.
func (c *shimClient) read(onEvent func(shim.Message)) {
	for {
		m, err := shim.ReadMessage(c.conn)
		if err != nil {
			break
		}
		if m.Seq == 0 {
			onEvent(m)
			continue
		}
		c.mu.Lock()
		answer := c.pending[m.Seq]
		delete(c.pending, m.Seq)
		c.mu.Unlock()
		if answer != nil {
			answer <- m
		}
	}
	_ = c.conn.Close()
	close(c.lost)
}

// call asks and waits for the answer.
func (c *shimClient) call(ctx context.Context, op string, fields ...string) (shim.Message, error) {
	answer := make(chan shim.Message, 1)
	c.mu.Lock()
	c.seq++
	m := shim.Message{Seq: c.seq, Op: op, Fields: fields}
	c.pending[m.Seq] = answer
	c.mu.Unlock()
	b, err := m.Append(nil)
	if err == nil {
		c.wmu.Lock()
		_ = c.conn.SetWriteDeadline(time.Now().Add(shimWait))
		if _, err = c.conn.Write(b); err != nil {
			err = fmt.Errorf("%w: %w", errShimLost, err)
		}
		c.wmu.Unlock()
	}
	if err != nil {
		c.mu.Lock()
		delete(c.pending, m.Seq)
		c.mu.Unlock()
		return m, err
	}
	select {
	case m = <-answer:
		return m, answerError(m)
	case <-c.lost:
		// The answer may have been the last message.
		select {
		case m = <-answer:
			return m, answerError(m)
		default:
			return m, errShimLost
		}
	case <-ctx.Done():
		return m, fmt.Errorf("%w: %w", errShimLost, ctx.Err())
	}
}

func answerError(m shim.Message) error {
	if m.Op == shim.OpOK {
		return nil
	}
	switch m.Field(0) {
	case shim.Exited:
		return fmt.Errorf("%w: %s", runtimeiface.ErrNotRunning, shim.Exited)
	case shim.Unknown:
		return fmt.Errorf("%w: %s", runtimeiface.ErrNotFound, shim.Unknown)
	case shim.Crowded:
		return fmt.Errorf("%w: %s", runtimeiface.ErrUnavailable, shim.Crowded)
	}
	return shimError(m.Field(0))
}

func (c *shimClient) close() { _ = c.conn.Close() }

// ask opens a connection of its own for one request that brings descriptors.
func ask(dir string, rights []int, op string, fields ...string) (*shim.Conn, error) {
	c, err := dialUnix(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errShimLost, err)
	}
	conn := &shim.Conn{UnixConn: c}
	if err := conn.Send(shim.Message{Seq: 1, Op: op, Fields: fields}, rights...); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("%w: %w", errShimLost, err)
	}
	return conn, nil
}

// nextAnswer reads an answer of a connection of ask's. The error is the shim's,
// or that it is lost.
func nextAnswer(conn *shim.Conn) (shim.Message, error) {
	m, err := shim.ReadMessage(conn)
	if err != nil {
		return m, fmt.Errorf("%w: %w", errShimLost, err)
	}
	return m, answerError(m)
}
