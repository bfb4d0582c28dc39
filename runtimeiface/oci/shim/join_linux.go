package shim

import (
	"os"
	"strconv"
)

// namespacePath is for OCI documents: a path that stays that namespace's, also
// when the pid of the process that it was taken from is another's.
func namespacePath(ns *os.File) string {
	return "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(int(ns.Fd()))
}

// namespace opens one of a child.
func (s *server) namespace(pid int, name string) (ns *os.File, err error) {
	err = s.reaper.holding(pid, func() error {
		ns, err = os.Open("/proc/" + strconv.Itoa(pid) + "/ns/" + name)
		return err
	})
	return ns, err
}

// target gives the PID namespace of a container that runs, for another to join.
func (s *server) target(id string) (string, error) {
	c := s.find(id)
	if c == nil {
		return "", errUnknown
	}
	c.ops.Lock()
	defer c.ops.Unlock()
	if s.find(id) != c || !c.running() {
		return "", errExited
	}
	if c.pidNS == nil {
		ns, err := s.namespace(c.pid, "pid")
		if err != nil {
			return "", err
		}
		c.pidNS = ns
	}
	return namespacePath(c.pidNS), nil
}
