package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestOOMKillsAreRead(t *testing.T) {
	for text, want := range map[string]uint64{
		"oom_kill_disable 0\nunder_oom 0\noom_kill 2\n":             2, // v1
		"oom_kill_disable 0\nunder_oom 0\noom_kill 0\n":             0,
		"low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\noom_group_kill 0": 1, // v2
		"low 0\nhigh 0\nmax 3\noom 1\noom_kill 0\noom_group_kill 0": 0,
		"memory 1\n": 0,
	} {
		file := filepath.Join(t.TempDir(), "events")
		write(t, file, text)
		if got, err := oomKills(file); got != want || err != nil {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	if _, err := oomKills("/no/such/file"); err == nil {
		t.Error("a missing file is no error")
	}
}

// With systemd the cgroup of a container that has ended may be gone before it is
// looked at. Each kill is told of the container whose process it was, once.
func TestOOMKillsAreToldThoughTheCgroupIsGone(t *testing.T) {
	pod := t.TempDir()
	file := func(id string) string { return filepath.Join(pod, id, "memory.events") }
	counts := func(id string, n int) { write(t, file(id), fmt.Sprintf("oom 9\noom_kill %d\n", n)) }
	var b oomBook
	for _, id := range []string{".", "a", "b", "c"} {
		if err := os.MkdirAll(filepath.Join(pod, id), 0o755); err != nil {
			t.Fatal(err)
		}
		counts(id, 0)
		if id == "." {
			counts(id, 3) // of who was in the pod's cgroup before
			continue
		}
		b.made(id, file(id))
	}
	counts("a", 1)
	counts(".", 4)
	write(t, file("b"), "")
	if n := b.close("b"); n != 0 {
		t.Errorf("%d of a's kills are told of b", n)
	}
	counts(".", 6)
	write(t, file("a"), "")
	if n := b.close("a"); n != 3 {
		t.Errorf("a had %d kills, want 3", n)
	}
	if n := b.close("c"); n != 0 {
		t.Errorf("c had %d kills, want none", n)
	}
	b.made("d", file("d"))
	counts(".", 7)
	if n := b.close("d"); n != 1 {
		t.Errorf("d had %d kills, want 1", n)
	}
	b.made("e", file("e"))
	write(t, file("."), "")
	if n := b.close("e"); n != 0 {
		t.Errorf("e had %d kills without the pod's count", n)
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	err := os.WriteFile(file, []byte(text), 0o600)
	if text == "" {
		err = os.RemoveAll(file)
	}
	if err != nil {
		t.Fatal(err)
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
