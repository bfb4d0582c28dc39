package oci_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// mortalEnv makes the test's program an OCI runtime that is killed: it names a
// directory with these files:
//
//	calls   a line for each call of a command
//	plan    COMMAND#N MOMENT, to be killed at the Nth call
//	done    the plan, once it was followed
const mortalEnv = "NODEKIT_OCI_TEST_MORTAL"

// mortalMoments are the runtime's, with the moments at which it can be killed.
// What is between before and after is when something can be seen; where that
// comes too late to be seen, it is after.
var mortalMoments = map[string][]string{
	"run":    {"before", "state", "cgroup", "fifo", "pid", "after"},
	"create": {"before", "state", "cgroup", "pid", "after"},
	"start":  {"before", "fifo", "after"},
	"exec":   {"before", "cgroup", "pid", "after"},
	"update": {"before", "after"},
	"delete": {"before", "cgroup gone", "state gone", "after"},
}

// mortalMain runs the runtime that os.Args[1] is, and dies of the plan.
func mortalMain() int {
	dir, path, args := os.Getenv(mortalEnv), os.Args[1], os.Args[1:]
	_ = os.Unsetenv(mortalEnv)
	command := args[slices.IndexFunc(args, func(arg string) bool { return mortalMoments[arg] != nil })]
	log, _ := os.ReadFile(filepath.Join(dir, "calls"))
	n := 0
	for _, c := range strings.Fields(string(log)) {
		if c == command {
			n++
		}
	}
	plan, _ := os.ReadFile(filepath.Join(dir, "plan"))
	when, moment, _ := strings.Cut(string(plan), " ")
	if when != command+"#"+strconv.Itoa(n) || os.Rename(filepath.Join(dir, "plan"), filepath.Join(dir, "done")) != nil {
		fmt.Fprintln(os.Stderr, syscall.Exec(path, args, os.Environ()))
		return 1
	}
	if moment != "before" {
		files := []uintptr{0, 1, 2}
		if command == "exec" {
			files = append(files, 3) // its document
		}
		pid, err := syscall.ForkExec(path, args, &syscall.ProcAttr{Env: os.Environ(), Files: files})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		seen := mortalCondition(moment, args)
		for {
			if seen() {
				_ = unix.Kill(pid, unix.SIGKILL)
				_, _ = unix.Wait4(pid, nil, 0, nil)
				break
			}
			if got, _ := unix.Wait4(pid, nil, unix.WNOHANG, nil); got == pid {
				break
			}
			time.Sleep(50 * time.Microsecond)
		}
	}
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	select {}
}

// mortalCondition looks for what a runtime has done so far, by its arguments.
func mortalCondition(moment string, args []string) func() bool {
	after := func(flag string) string {
		if i := slices.Index(args, flag); i >= 0 && i+1 < len(args) {
			return args[i+1]
		}
		return ""
	}
	id := args[len(args)-1]
	state := filepath.Join(after("--root"), id)
	there := func(path string) bool { _, err := os.Stat(path); return err == nil }
	cgroups, _ := filepath.Glob("/sys/fs/cgroup/memory/nodekit-test-*/*/" + id)
	switch moment {
	case "state":
		return func() bool { return there(state) }
	case "pid":
		return func() bool { return there(after("--pid-file")) }
	case "cgroup":
		procs := func() (n int) {
			found, _ := filepath.Glob("/sys/fs/cgroup/memory/nodekit-test-*/*/" + id)
			for _, dir := range found {
				n += len(shim.CgroupProcs(dir))
			}
			return n
		}
		before := procs()
		return func() bool { return procs() > before }
	case "fifo":
		was := false
		return func() bool {
			now := there(filepath.Join(state, "exec.fifo"))
			was = was || now
			return was && !now
		}
	case "state gone":
		return func() bool { return !there(state) }
	case "cgroup gone":
		return func() bool { return len(cgroups) > 0 && !there(cgroups[0]) }
	}
	return func() bool { return false }
}
