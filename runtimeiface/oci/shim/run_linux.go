package shim

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// run calls the OCI runtime and waits for it. files nil is /dev/null.
func (s *server) run(c *container, files []uintptr, args ...string) (death, error) {
	if files == nil {
		null := uintptr(s.null)
		files = []uintptr{null, null, null}
	}
	_, dead, err := s.reaper.fork(c.Runtime, c.runtimeArgs(args...), files)
	if err != nil {
		return death{}, errors.New("run " + c.Runtime + ": " + err.Error())
	}
	return <-dead, nil
}

// runtimeArgs is a command line of the OCI runtime.
func (c *container) runtimeArgs(args ...string) []string {
	argv := append([]string{filepath.Base(c.Runtime), "--root", c.RuntimeRoot, "--log", os.DevNull}, c.RuntimeArgs...)
	return append(argv, args...)
}

// runQuiet calls the OCI runtime beside a container that runs: what it says is
// for the error, not for the container's log.
func (s *server) runQuiet(c *container, args ...string) error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return err
	}
	said := os.NewFile(uintptr(p[0]), "stderr")
	defer func() { _ = said.Close() }()
	d, err := s.run(c, []uintptr{uintptr(s.null), uintptr(s.null), uintptr(p[1])}, args...)
	_ = unix.Close(p[1])
	if err == nil && d.code() != 0 {
		err = errors.New(runtimeText(said))
	}
	return err
}

// exec runs a process in a container: fds are its OCI process document and its
// standard streams. It answers once when the process runs, and gives its exit
// code. When gone is closed, the process and all that came of it are killed.
func (s *server) exec(id string, fds []int, gone <-chan struct{}, running func()) (int, error) {
	c := s.find(id)
	if c == nil {
		return 0, errUnknown
	}
	c.mu.Lock()
	runs := !c.started.IsZero() && !c.exited
	c.mu.Unlock()
	if !runs || len(fds) != 4 {
		return 0, errExited
	}
	n := strconv.FormatUint(s.execs.Add(1), 10)
	name := "exec-" + n
	dir := filepath.Join(c.TrackDir, name)
	pidFile := filepath.Join(c.dir, name+".pid")
	args := []string{"exec", "--detach", "--process", "/proc/self/fd/3", "--pid-file", pidFile}
	own := os.Mkdir(dir, 0o755) == nil
	if own {
		defer func() { _ = os.Remove(dir) }()
	}
	if own && c.ExecCgroup {
		args = append(args, "--cgroup", c.TrackPrefix+name)
	}
	defer func() { _ = os.Remove(pidFile) }()

	faultPoint("exec cgroup made")
	s.reaper.claim()
	pid, dead, err := s.reaper.fork(c.Runtime, c.runtimeArgs(append(args, id)...),
		[]uintptr{uintptr(fds[1]), uintptr(fds[2]), uintptr(fds[3]), uintptr(fds[0])})
	if err != nil {
		s.reaper.unclaim()
		return 0, err
	}
	stop := gone
	if !c.ExecCgroup {
		stop = later(gone, killTime) // only then is known what came of it
	}
	code, ok := s.untilGone(pid, dead, dir, stop)
	if !ok || code != 0 {
		s.reaper.unclaim()
		return 0, errors.New("exec failed") // the text is in the stream
	}
	faultPoint("exec started")
	pid, err = readPid(pidFile)
	if err != nil {
		s.reaper.unclaim()
		return 0, err
	}
	dead = s.reaper.adopt(pid)
	s.reaper.unclaim()
	if own && !c.ExecCgroup {
		gather(c.TrackDir, dir, pid)
	}
	faultPoint("exec adopted")
	running()
	faultPoint("exec told")
	code, _ = s.untilGone(pid, dead, dir, gone)
	faultPoint("exec ended")
	return code, nil
}

// later closes its channel a time after c was.
func later(c <-chan struct{}, after time.Duration) <-chan struct{} {
	out := make(chan struct{})
	go func() {
		<-c
		time.Sleep(after)
		close(out)
	}()
	return out
}

// untilGone waits for a child; if gone closes first it kills the child and the
// cgroup, and says false.
func (s *server) untilGone(pid int, dead <-chan death, dir string, gone <-chan struct{}) (int, bool) {
	select {
	case d := <-dead:
		return d.code(), true
	case <-gone:
		s.reaper.kill(pid, unix.SIGKILL)
		KillCgroup(dir, killTime)
		d := <-dead
		return d.code(), false
	}
}

func (s *server) complain(what string, err error) {
	_, _ = os.Stderr.WriteString("nodekit-shim: " + what + ": " + err.Error() + "\n")
}

// SetSysctl writes a kernel parameter of the calling thread's namespaces.
func SetSysctl(name, value string) error {
	path := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return errors.New("sysctl " + name + ": " + err.Error())
	}
	return nil
}
