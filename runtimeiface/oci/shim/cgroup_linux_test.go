package shim

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestOOMKillsAreRead(t *testing.T) {
	for text, want := range map[string]bool{
		"oom_kill_disable 0\nunder_oom 0\noom_kill 2\n":             true, // v1
		"oom_kill_disable 0\nunder_oom 0\noom_kill 0\n":             false,
		"low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\noom_group_kill 0": true, // v2
		"low 0\nhigh 0\nmax 3\noom 1\noom_kill 0\noom_group_kill 0": false,
		"": false,
	} {
		file := filepath.Join(t.TempDir(), "events")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := oomKilled(file); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
	if oomKilled("/no/such/file") {
		t.Error("a missing file counts as a kill")
	}
}

func TestProcessesAreReadBelowToo(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "exec-1"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"cgroup.procs": "12\n0\n1\n", "exec-1/cgroup.procs": "34\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// 0 is a process of another PID namespace, 1 is nobody's to kill.
	if got := CgroupProcs(dir); !slices.Equal(got, []int{12, 34}) {
		t.Errorf("got %v", got)
	}
	if !KillCgroup(filepath.Join(dir, "gone"), time.Second) {
		t.Error("a cgroup that is not there has processes")
	}
}

func TestStartErrorsAreTold(t *testing.T) {
	for text, want := range map[string]bool{
		`error during container init: exec: "/nope": stat /nope: no such file or directory`: true,
		`exec: "x": executable file not found in $PATH`:                                     true,
		"executable file `x` not found in $PATH: No such file or directory":                 true, // crun
		"the path `/x` exists but it is not executable: Operation not permitted":            true, // crun
		"error mounting \"proc\" to rootfs at \"/proc\": permission denied":                 false,
	} {
		if isStartError(text) != want {
			t.Errorf("%s: not %v", text, want)
		}
	}
}
