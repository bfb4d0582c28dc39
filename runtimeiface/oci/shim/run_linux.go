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
	_, dead, err := s.reaper.fork(c.Runtime, c.command(args...), files)
	if err != nil {
		return death{}, errors.New("run " + c.Runtime + ": " + err.Error())
	}
	return <-dead, nil
}

// command is a command line of the OCI runtime.
func (c *container) command(args ...string) []string {
	argv := append([]string{filepath.Base(c.Runtime), "--root", c.RuntimeRoot, "--log", os.DevNull}, c.RuntimeArgs...)
	return append(argv, args...)
}

// runQuiet calls the OCI runtime beside a container that runs: what it says is
// for the error, not for the container's log.
func (s *server) runQuiet(c *container, stdin uintptr, args ...string) error {
	said, theirs, err := pipe()
	if err != nil {
		return err
	}
	defer func() { _ = said.Close() }()
	d, err := s.run(c, []uintptr{stdin, uintptr(s.null), theirs}, args...)
	_ = unix.Close(int(theirs))
	if err == nil && d.code() != 0 {
		err = errors.New(runtimeText(said))
	}
	return err
}

// update has the OCI runtime set limits anew.
func (s *server) update(id, resources string) error {
	c := s.find(id)
	if c == nil {
		return errUnknown
	}
	c.ops.Lock()
	defer c.ops.Unlock()
	select {
	case <-c.dead:
		return errExited
	default:
	}
	if err := s.make(c); err != nil {
		return err
	}
	if c.pid == 0 {
		return nil // its program cannot be run: there is nothing to limit
	}
	fd, err := unix.MemfdCreate("resources", unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	document := os.NewFile(uintptr(fd), "resources")
	defer func() { _ = document.Close() }()
	if _, err = document.WriteString(resources); err == nil {
		_, err = document.Seek(0, 0)
	}
	if err != nil {
		return err
	}
	if err := s.runQuiet(c, document.Fd(), "update", "--resources", "-", c.ID); err != nil {
		select {
		case <-c.dead:
			return errExited
		case <-time.After(deathTime):
			return err
		}
	}
	return nil
}

// exec runs a process in a container, for OpExec. It tells once when the
// process runs, and gives its exit code. When gone is closed, the process and
// all that came of it are killed.
func (s *server) exec(fields []string, fds []int, gone <-chan struct{}, running func(fds ...int)) (int, error) {
	tty := len(fields) == 2 && fields[1] == "tty"
	if len(fields) < 1 || len(fds) != 4 && !tty || len(fds) != 2 && tty {
		return 0, ErrMessage
	}
	c := s.find(fields[0])
	if c == nil {
		return 0, errUnknown
	}
	if !c.running() {
		return 0, errExited
	}
	name := "exec-" + strconv.FormatUint(s.execs.Add(1), 10)
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
	null := uintptr(s.null)
	files := []uintptr{null, null, uintptr(fds[1]), uintptr(fds[0])}
	var terminal *console
	if tty {
		var err error
		if terminal, err = s.newConsole(); err != nil {
			return 0, err
		}
		defer terminal.close()
		args = append(args, "--console-socket", terminal.path)
	} else {
		files = []uintptr{uintptr(fds[1]), uintptr(fds[2]), uintptr(fds[3]), uintptr(fds[0])}
	}

	faultPoint("exec cgroup made")
	s.reaper.claim()
	pid, dead, err := s.reaper.fork(c.Runtime, c.command(append(args, c.ID)...), files)
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
		s.endExec(c, dir, pidFile)
		s.reaper.unclaim()
		return 0, errors.New("exec failed") // the text is in the stream
	}
	faultPoint("exec started")
	pid, err = readPid(pidFile)
	if err != nil {
		s.endExec(c, dir, pidFile)
		s.reaper.unclaim()
		return 0, err
	}
	dead = s.reaper.adopt(pid)
	s.reaper.unclaim()
	if own && !c.ExecCgroup {
		gather(c.TrackDir, dir, pid)
	}
	faultPoint("exec adopted")
	if tty {
		master, err := terminal.master()
		if err != nil {
			s.reaper.kill(pid, unix.SIGKILL)
			KillCgroup(dir, killTime)
			<-dead
			return 0, err
		}
		running(master)
		_ = unix.Close(master)
	} else {
		running()
	}
	faultPoint("exec told")
	code, ok = s.untilGone(pid, dead, dir, gone)
	if !ok && !c.ExecCgroup {
		killHolders(c.TrackDir, fds[1:])
	}
	faultPoint("exec ended")
	return code, nil
}

// endExec kills what an OCI runtime that failed, or was killed, has started. It
// is called with a claim.
func (s *server) endExec(c *container, dir, pidFile string) {
	if !c.ExecCgroup {
		if pid, err := readPid(pidFile); err == nil {
			gather(c.TrackDir, dir, pid)
		}
		// What has no file yet is a child of ours that nobody waits for.
		for _, pid := range procsOf(c.TrackDir) {
			if parent, _ := family(pid); parent == os.Getpid() && s.reaper.stray(pid) {
				gather(c.TrackDir, dir, pid)
			}
		}
	}
	KillCgroup(dir, killTime)
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

// runtimeText is what an OCI runtime that has ended said, without the pomp.
func runtimeText(from *os.File) string {
	buf := make([]byte, 4096)
	_ = from.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	n, _ := from.Read(buf)
	text := strings.TrimSpace(string(buf[:n]))
	for _, pomp := range []string{"runc create failed: ", "runc run failed: "} {
		if i := strings.LastIndex(text, pomp); i >= 0 {
			text = text[i+len(pomp):]
		}
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
