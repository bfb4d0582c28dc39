package shim

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// pauseArg makes the shim's program the first process of a PID namespace that
// the containers of a pod share, or of the user namespace of a pod. Its
// arguments are the sandbox's ID, for those who look at processes, a hostname
// or "", and kernel parameters as name, value.
const pauseArg = "pause"

// paused is what pause says when it is ready; all else is an error.
const paused = "paused"

// pause sets up its namespaces and holds them. It lets the kernel reap what
// containers orphan, and lasts as long as the shim holds the other end of its
// standard input: nothing that a container sends ends it.
func pause(args []string) int {
	signal.Ignore()
	err := ErrMessage
	if len(args) >= 2 {
		if err = setUp(args[1:]); err == nil {
			err = confine()
		}
	}
	said := paused
	if err != nil {
		said = err.Error()
	}
	_, _ = unix.Write(1, []byte(said))
	_ = unix.Close(1)
	if err != nil {
		return 1
	}
	var b [1]byte
	for {
		n, err := unix.Read(0, b[:])
		if err != unix.EINTR && n <= 0 {
			return 0
		}
	}
}

// confine leaves the process an empty root of its own: containers that share
// its PID namespace can find it, and must not find the node's files through it.
func confine() error {
	const empty = "/proc" // a directory that is there
	for _, step := range []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error {
			return unix.Mount("tmpfs", empty, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0,size=4k")
		},
		func() error { return unix.Chdir(empty) },
		func() error { return unix.PivotRoot(".", ".") },
		func() error { return unix.Unmount(".", unix.MNT_DETACH) },
		func() error { return unix.Chdir("/") },
	} {
		if err := step(); err != nil {
			return errors.New("make an empty root: " + err.Error())
		}
	}
	return nil
}

// pausePID gives the process that pauses for the pod, made at the first call.
func (s *server) pausePID(req PauseRequest) (int, error) {
	s.pauseMu.Lock()
	defer s.pauseMu.Unlock()
	if s.paused != 0 {
		return s.paused, nil
	}
	var in, out [2]int
	if err := unix.Pipe2(in[:], unix.O_CLOEXEC); err != nil {
		return 0, err
	}
	if err := unix.Pipe2(out[:], unix.O_CLOEXEC); err != nil {
		_, _ = unix.Close(in[0]), unix.Close(in[1])
		return 0, err
	}
	sys := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	if len(req.UIDs) > 0 {
		sys.Cloneflags |= unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC
		sys.UidMappings, sys.GidMappings, sys.GidMappingsEnableSetgroups = sysMappings(req.UIDs), sysMappings(req.GIDs), true
		sys.Credential = &syscall.Credential{}
	}
	argv := append([]string{"nodekit-shim", pauseArg, filepath.Base(s.dir), req.Hostname}, req.Sysctls...)
	pid, dead, err := s.reaper.forkIn(sys, "/proc/self/exe", argv, []string{"GOMAXPROCS=1"},
		[]uintptr{uintptr(in[0]), uintptr(out[1]), uintptr(s.null)})
	_, _ = unix.Close(in[0]), unix.Close(out[1])
	said := os.NewFile(uintptr(out[0]), "pause")
	defer func() { _ = said.Close() }()
	if err != nil {
		err = errors.New("start the process that holds the pod's namespaces: " + err.Error())
	} else if err = readPaused(said); err != nil {
		s.reaper.kill(pid, syscall.SIGKILL)
		<-dead
	}
	if err != nil {
		_ = unix.Close(in[1])
		return 0, err
	}
	faultPoint("pause started")
	// in[1] stays open: its end is pause's end.
	s.paused = pid
	if len(req.UIDs) > 0 {
		s.netHolder = pid
	}
	go func() {
		<-dead
		close(s.pauseGone)
		s.mu.Lock()
		meant := s.ending
		s.mu.Unlock()
		if !meant { // no container can be made any more: the pod is over
			s.endContainers()
			s.leave()
		}
	}()
	return pid, nil
}

func readPaused(from io.Reader) error {
	said, _ := io.ReadAll(io.LimitReader(from, 4096))
	switch string(said) {
	case paused:
		return nil
	case "":
		return errors.New("the process that holds the pod's namespaces died")
	}
	return errors.New(string(said))
}

// endPause ends it and waits, so that the namespaces are gone with the shim.
func (s *server) endPause() {
	s.pauseMu.Lock()
	pid := s.paused
	s.pauseMu.Unlock()
	if pid != 0 {
		s.reaper.kill(pid, syscall.SIGKILL)
		<-s.pauseGone
	}
}

func sysMappings(list []IDMapping) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, len(list))
	for i, m := range list {
		out[i] = syscall.SysProcIDMap{ContainerID: int(m.Container), HostID: int(m.Host), Size: int(m.Size)}
	}
	return out
}
