package shim

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// What holds a pipe of the command dies, its neighbour in the cgroup does not.
func TestKillHolders(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = read.Close(), write.Close() }()
	start := func(out *os.File) *exec.Cmd {
		cmd := exec.Command("sleep", "60")
		cmd.Stdout = out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		return cmd
	}
	holder, other := start(write), start(nil)
	dir := t.TempDir() // as a cgroup shows its processes
	procs := filepath.Join(dir, "cgroup.procs")
	list := strconv.Itoa(holder.Process.Pid) + "\n" + strconv.Itoa(other.Process.Pid) + "\n"
	if err := os.WriteFile(procs, []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	killHolders(dir, []int{int(write.Fd())})
	_ = holder.Wait()
	if status, _ := holder.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
		t.Errorf("the holder ended with %v", holder.ProcessState)
	}
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the other is gone: %v", err)
	}
}
