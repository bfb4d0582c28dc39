package cri

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// killPatience bounds asking for the container whose command is to be killed.
const killPatience = time.Second

// process is what /proc tells of one.
type process struct {
	pid, parent int
	started     int64 // clock ticks since boot
	command     []string
}

// killsTrees tells whether this process may kill what it does not own. If not, a
// command without streams is better left to ExecSync, with which runtimes end it
// themselves.
func killsTrees() bool { return os.Geteuid() == 0 }

// killTree kills a command and its descendants: runtimes kill the command alone,
// and a streamed one not at all. The command is the process of the container's
// cgroup whose parent is outside, whose words are the same and that began after
// the call; of several the first. What cannot be found is left to the runtime.
func (r *Runtime) killTree(ctx context.Context, id string, command []string, began time.Time) {
	ctx, cancel := context.WithTimeout(ctx, killPatience)
	defer cancel()
	c, err := r.status(ctx, id)
	if err != nil || c.PID == 0 || c.Cgroup == "" || c.Cgroup == "/" {
		return
	}
	root, ok := execRoot(inCgroup(c.Cgroup), c.PID, command, ticks(began))
	if !ok {
		return
	}
	output := outputs(root.pid)
	// Stopped, they make no more children that would be missed.
	stopped := map[int]process{}
	for range 10 {
		all := inCgroup(c.Cgroup)
		tree := descendants(all, root)
		for _, p := range all {
			if p.pid != c.PID && p.started >= root.started && sharesOutput(p.pid, output) {
				tree = append(tree, descendants(all, p)...)
			}
		}
		fresh := false
		for _, p := range tree {
			if _, ok := stopped[p.pid]; !ok && signal(p, unix.SIGSTOP) {
				stopped[p.pid], fresh = p, true
			}
		}
		if !fresh {
			break
		}
	}
	for _, p := range stopped {
		signal(p, unix.SIGKILL)
	}
}

func execRoot(all map[int]process, init int, command []string, began int64) (process, bool) {
	var found []process
	for _, p := range all {
		if _, inside := all[p.parent]; inside || p.pid == init || p.started < began || !slices.Equal(p.command, command) {
			continue
		}
		found = append(found, p)
	}
	if len(found) == 0 {
		return process{}, false
	}
	return slices.MinFunc(found, func(a, b process) int { return int(a.started - b.started) }), true
}

// descendants includes the root.
func descendants(all map[int]process, root process) []process {
	var out []process
	if p, ok := all[root.pid]; ok && p.started == root.started {
		out = append(out, p)
	}
	for i := 0; i < len(out); i++ {
		for _, p := range all {
			if p.parent == out[i].pid {
				out = append(out, p)
			}
		}
	}
	return out
}

// inode tells files apart.
type inode struct{ device, number uint64 }

// outputs are the pipes or the terminal that a process writes to: a runtime makes
// them for each command.
func outputs(pid int) map[inode]bool {
	out := map[inode]bool{}
	for fd := 1; fd <= 2; fd++ {
		var st unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/fd/%d", pid, fd), &st) != nil {
			continue
		}
		if kind := st.Mode & unix.S_IFMT; kind == unix.S_IFIFO || kind == unix.S_IFCHR && unix.Major(st.Rdev)/8 == ptsMajor/8 {
			out[inode{uint64(st.Dev), st.Ino}] = true
		}
	}
	return out
}

// ptsMajor is the first of the eight numbers of pseudo-terminals.
const ptsMajor = 136

func sharesOutput(pid int, with map[inode]bool) bool {
	for of := range outputs(pid) {
		if with[of] {
			return true
		}
	}
	return false
}

// signal reaches this process, not a later one of the same number.
func signal(p process, s unix.Signal) bool {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	if now, ok := readProcess(p.pid); !ok || now.started != p.started {
		return false
	}
	return unix.PidfdSendSignal(fd, s, nil, 0) == nil
}

// inCgroup gives the processes of a cgroup and those below it.
func inCgroup(cgroup string) map[int]process {
	out := map[int]process{}
	paths, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(data, []byte(":"+cgroup+"\n")) && !bytes.Contains(data, []byte(":"+cgroup+"/")) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if p, ok := readProcess(pid); ok {
			out[pid] = p
		}
	}
	return out
}

func readProcess(pid int) (process, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, false
	}
	p, ok := parseStat(stat)
	p.pid = pid
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !ok {
		return process{}, false
	}
	p.command = strings.Split(strings.TrimSuffix(string(command), "\x00"), "\x00")
	return p, true
}

// parseStat reads parent and start of
//
//	4711 (a name) S 4700 ... 22nd field ...
func parseStat(stat []byte) (process, bool) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return process{}, false
	}
	fields := bytes.Fields(stat[end+1:])
	if len(fields) < 20 {
		return process{}, false
	}
	parent, err := strconv.Atoi(string(fields[1]))
	started, err2 := strconv.ParseInt(string(fields[19]), 10, 64)
	return process{parent: parent, started: started}, err == nil && err2 == nil
}

// ticks is a time in clock ticks since boot, which are hundredths of a second
// on every Linux that Go knows; one less, as both are rounded.
func ticks(t time.Time) int64 {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return 1 << 62
	}
	return (time.Duration(now.Nano())-time.Since(t)).Milliseconds()/10 - 1
}
