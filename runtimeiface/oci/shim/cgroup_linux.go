package shim

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// KillCgroup kills every process in the cgroup at dir and below, and returns
// once they are gone, or false after the time given. Dead processes that their
// parents do not reap do not count.
func KillCgroup(dir string, patience time.Duration) bool {
	deadline := time.Now().Add(patience)
	for wait := time.Millisecond; ; wait = min(wait*2, 20*time.Millisecond) {
		// v2 knows how; elsewhere the write fails.
		_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
		pids := CgroupProcs(dir)
		if len(pids) == 0 {
			return true
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(wait)
	}
}

// gather moves a process of the cgroup at from, its session and all that came of
// them to the cgroup at to, where their later children will be too.
func gather(from, to string, pid int) {
	procs := filepath.Join(to, "cgroup.procs")
	moved := map[int]bool{pid: true}
	if os.WriteFile(procs, []byte(strconv.Itoa(pid)), 0) != nil {
		return // it is gone
	}
	for more := true; more; {
		more = false
		for _, p := range procsOf(from) {
			parent, session := family(p)
			if moved[p] || !moved[parent] && session != pid {
				continue
			}
			moved[p], more = true, true
			_ = os.WriteFile(procs, []byte(strconv.Itoa(p)), 0)
		}
	}
}

// family reads the parent and the session of a process (proc_pid_stat(5)):
// 42 (a name) S 41 42 42 0 ...
func family(pid int) (parent, session int) {
	data, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 4 {
		return 0, 0
	}
	parent, _ = strconv.Atoi(string(fields[1]))
	session, _ = strconv.Atoi(string(fields[3]))
	return parent, session
}

// CgroupProcs gives the processes in the cgroup at dir and below.
func CgroupProcs(dir string) []int {
	pids := procsOf(dir)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			pids = append(pids, CgroupProcs(filepath.Join(dir, e.Name()))...)
		}
	}
	return pids
}

func procsOf(dir string) []int {
	var pids []int
	data, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	for line := range bytes.Lines(data) {
		if pid, err := strconv.Atoi(string(bytes.TrimSpace(line))); err == nil && pid > 1 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// oomBook keeps account of the pod's processes that the kernel has killed for
// memory: systemd takes a scope away, with its count, as soon as its last process
// is gone, and what the pod's cgroup counts on v2 is the sum.
type oomBook struct {
	mu sync.Mutex
	// others is what the pod's cgroup counted before the first container ran,
	// ended the kills of containers that have ended.
	others, ended uint64
	begun         bool
	live          map[string]string // files by container
}

// made is called before the container runs.
func (b *oomBook) made(id, file string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.begun {
		b.begun, b.live = true, map[string]string{}
		b.others, _ = oomKills(podFile(file))
	}
	b.live[id] = file
}

// close takes the container out of the account and tells its kills.
func (b *oomBook) close(id string) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	file := b.live[id]
	delete(b.live, id)
	n, err := oomKills(file)
	if err != nil {
		n = b.rest(file)
	}
	b.ended += n
	return n
}

// rest is what the pod's cgroup counts and no other container does.
func (b *oomBook) rest(file string) uint64 {
	pod, _ := oomKills(podFile(file))
	known := b.others + b.ended
	for _, other := range b.live {
		n, _ := oomKills(other)
		known += n
	}
	return pod - min(pod, known)
}

// podFile is the file of the same name in the pod's cgroup.
func podFile(file string) string {
	dir, name := filepath.Split(file)
	return filepath.Join(filepath.Dir(filepath.Clean(dir)), name)
}

// oomKills reads "oom_kill N" of memory.oom_control (v1) or memory.events (v2).
func oomKills(file string) (uint64, error) {
	data, err := os.ReadFile(file)
	for line := range bytes.Lines(data) {
		if n, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("oom_kill ")); ok {
			return strconv.ParseUint(string(n), 10, 64)
		}
	}
	return 0, err
}
