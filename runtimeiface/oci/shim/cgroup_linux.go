package shim

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
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

// oomKilled reads "oom_kill N" of memory.oom_control (v1) or memory.events (v2).
func oomKilled(file string) bool {
	data, _ := os.ReadFile(file)
	for line := range bytes.Lines(data) {
		if n, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("oom_kill ")); ok {
			return string(n) != "0"
		}
	}
	return false
}
