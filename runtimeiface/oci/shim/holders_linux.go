package shim

import (
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// killHolders kills the processes directly in the cgroup at dir that have one of
// the pipes fds open, for a command that an OCI runtime could not start in a
// cgroup of its own: what left its session and lost its parents before it was
// gathered is known by its output alone.
func killHolders(dir string, fds []int) {
	pipes := map[file]bool{}
	for _, fd := range fds {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO {
			pipes[file{st.Dev, st.Ino}] = true
		}
	}
	for deadline := time.Now().Add(killTime); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		found := false
		for _, pid := range procsOf(dir) {
			if holds(pid, pipes) {
				found = true
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		if !found {
			return
		}
	}
}

type file struct{ dev, ino uint64 }

func holds(pid int, files map[file]bool) bool {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(dir, e.Name()), &st) == nil && files[file{st.Dev, st.Ino}] {
			return true
		}
	}
	return false
}
