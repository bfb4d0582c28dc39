package metrics

import (
	"bytes"
	"cmp"
)

// The figures of processes that their cgroup does not tell.

// descriptors sums up the open files of the processes in cgroup.procs: the size
// of /proc/PID/fd is their number (Linux 6.2), so no directory is read. Who has
// ended meanwhile has none.
func (r *reader) descriptors(procs []byte, s *Sample) error {
	if !countsProcesses(&s.Target) {
		return nil
	}
	var sockets error
	if r.countsSockets {
		sockets = r.sockets(procs, s)
	}
	if !r.countsFiles {
		return cmp.Or(sockets, ErrAbsent)
	}
	var sum uint64
	for len(procs) > 0 {
		line, rest, _ := cutLine(procs)
		procs = rest
		pid, ok := parseUint(line)
		if !ok || pid == 0 { // 0 is a process that this PID namespace does not see
			return ErrForeignProcess
		}
		switch n, err := sysSize(r.joinPID(int(pid), "fd"), r.room); err {
		case nil:
			sum += n
		case ErrAbsent:
		default:
			return err
		}
	}
	s.set(FileDescriptors, sum)
	return sockets
}

// countsProcesses: pods are left out, whose containers have all of theirs.
func countsProcesses(t *Target) bool { return t.Container != "" || t.Sandbox() }

// mostLinks is how many open files of a target are looked at for sockets.
const mostLinks = 10_000

// sockets counts the links in /proc/PID/fd that lead to sockets, as cAdvisor
// v0.60.5 does (container/libcontainer/handler.go).
func (r *reader) sockets(procs []byte, s *Sample) error {
	left, sum := mostLinks, uint64(0)
	for len(procs) > 0 {
		line, rest, _ := cutLine(procs)
		procs = rest
		pid, ok := parseUint(line)
		if !ok || pid == 0 {
			return ErrForeignProcess
		}
		n, err := sysSockets(r.proc+"/"+string(line)+"/fd", &left)
		if err != nil && err != ErrAbsent { // who has ended has none
			return err
		}
		sum += n
	}
	s.set(Sockets, sum)
	return nil
}

// openFiles reads the limit of the first process of a container.
func (r *reader) openFiles(s *Sample) error {
	if s.first == 0 {
		return nil
	}
	text, err := r.read(r.joinPID(s.first, "limits"), nil, true)
	if err == ErrAbsent {
		return nil // it has ended
	}
	if err != nil {
		return err
	}
	n, err := parseOpenFiles(text)
	if err == nil {
		s.set(LimitOpenFiles, n)
	}
	return err
}

// parseOpenFiles finds the soft limit in /proc/PID/limits (proc(5)):
//
//	Limit                     Soft Limit           Hard Limit           Units
//	Max open files            1024                 524288               files
func parseOpenFiles(b []byte) (uint64, error) {
	for len(b) > 0 {
		line, rest, ok := cutLine(b)
		if !ok {
			break
		}
		b = rest
		tail, ok := bytes.CutPrefix(line, []byte("Max open files "))
		if !ok {
			continue
		}
		word, _ := cutWord(tail)
		if string(word) == "unlimited" {
			return Unlimited, nil
		}
		if n, ok := parseUint(word); ok {
			return n, nil
		}
		break
	}
	return 0, ErrGarbled
}
