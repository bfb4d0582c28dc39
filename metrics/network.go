package metrics

import (
	"bytes"
	"strings"
)

// network reads the traffic of the pod. Where one veth leads to it and it has
// no other interface, the counters of the node's end are the pod's, read of all
// pods at once; but for errors and drops, which the pod's own end alone knows,
// and which are read with the limits.
func (r *reader) network(h *handle, s *Sample, own bool) {
	if !hasNetwork(&s.Target) {
		return
	}
	if !own && r.fromLink(h, s) {
		r.linked++
		return
	}
	h.link, h.sought = 0, h.sought && !own
	if err := r.readNetwork(h, s); err != nil {
		s.Interfaces = s.Interfaces[:0]
		s.forget(groupNetwork)
		s.Gaps = append(s.Gaps, Gap{File: "net/dev", Err: err, group: groupNetwork})
	}
}

// hasNetwork says whether a target is a pod with a network of its own.
func hasNetwork(t *Target) bool {
	return t.PID > 0 && !t.HostNetwork && t.Container == "" && !t.Sandbox()
}

// dumpLinks reads all links for the pods of a round. Without kept descriptors
// there is no socket for it.
func (r *reader) dumpLinks() {
	if !r.keep {
		return
	}
	if err := r.links.dump(); err == nil {
		r.linksAt = r.now()
	}
}

// fromLink takes the traffic from the last dump.
func (r *reader) fromLink(h *handle, s *Sample) bool {
	if h.link == 0 || h.netPID != s.Target.PID || r.linksAt.IsZero() {
		return false
	}
	now, ok := r.links.of(h.link)
	was := &h.seen
	// What is less than before is not of the same two ends.
	if !ok || now.txBytes < was.RxBytes || now.txPackets < was.RxPackets || now.rxBytes < was.TxBytes || now.rxPackets < was.TxPackets {
		return false
	}
	was.RxBytes, was.RxPackets, was.TxBytes, was.TxPackets = now.txBytes, now.txPackets, now.rxBytes, now.rxPackets
	s.at[groupNetwork] = r.linksAt
	s.Interfaces = append(s.Interfaces, *was)
	sumNetwork(s.Interfaces, "", &s.figures)
	return true
}

// learnLink finds the node's end. What cannot be found is looked for again when
// the pod's own figures are read again.
func (r *reader) learnLink(h *handle, s *Sample) {
	if h.sought || r.linksAt.IsZero() {
		return
	}
	h.sought = true
	if len(s.Interfaces) != 1 {
		return
	}
	file, err := sysOpen(atCwd, r.joinPID(s.Target.PID, "ns/net"))
	if err != nil {
		return
	}
	defer sysClose(file)
	// The number of the process may have passed on since it was looked at.
	if ino, err := sysInode(r.joinPID(s.Target.PID, "ns/net"), r.room); err != nil || ino != h.netIno {
		return
	}
	if link, err := r.links.to(file); err == nil && link != 0 {
		h.link, h.seen = link, s.Interfaces[0]
	}
}

// readNetwork reads through a process of the pod. The file is opened anew each
// time: an open one keeps the namespace alive.
func (r *reader) readNetwork(h *handle, s *Sample) error {
	pid := s.Target.PID
	text, err := r.read(r.joinPID(pid, "net/dev"), nil, true)
	if err != nil {
		return err
	}
	s.at[groupNetwork] = r.now()
	if s.Interfaces, err = parseNetDev(text, s.Interfaces, r.names); err != nil {
		return err
	}
	// Whose figures were these? The number may have passed to another process.
	ino, err := sysInode(r.joinPID(pid, "ns/net"), r.room)
	if err != nil {
		return err
	}
	if h.netPID != s.Target.PID || h.netIno != ino {
		h.netPID, h.sought = 0, false
		if ino == r.hostNet {
			return ErrForeignProcess
		}
		text, err := r.read(r.joinPID(pid, "cgroup"), nil, true)
		if err != nil {
			return err
		}
		if !inCgroup(text, s.Target.Cgroup) {
			return ErrForeignProcess
		}
		h.netPID, h.netIno = s.Target.PID, ino
	}
	sumNetwork(s.Interfaces, "", &s.figures)
	r.learnLink(h, s)
	return nil
}

// inCgroup says whether a line of /proc/PID/cgroup has cgroup or one below it:
//
//	4:memory:/kubepods/burstable/podb1/c1
//
// The path may have a prefix that the agent's own cgroup namespace hides.
func inCgroup(text []byte, cgroup string) bool {
	for len(text) > 0 {
		line, rest, ok := cutLine(text)
		if !ok {
			return false
		}
		text = rest
		parts := bytes.SplitN(line, []byte{':'}, 3)
		if len(parts) == 3 && strings.Contains(string(parts[2])+"/", cgroup+"/") {
			return true
		}
	}
	return false
}
