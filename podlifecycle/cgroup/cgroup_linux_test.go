package cgroup_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/podlifecycle/cgroup"
)

// own is a cgroup of this test, removed at its end.
func own(t *testing.T) string {
	t.Helper()
	kerneltest.Require(t, kerneltest.Root, kerneltest.Cgroup)
	path := fmt.Sprintf("/nodekit-cgrouptest-%d-%d", os.Getpid(), time.Now().UnixNano())
	t.Cleanup(func() {
		if err := cgroup.New().Remove(context.Background(), path); err != nil {
			t.Error(err)
		}
	})
	return path
}

// dirs are where the cgroup is, in all hierarchies.
func dirs(t *testing.T, path string) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup" + path, "/sys/fs/cgroup/*" + path} {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, matches...)
	}
	return found
}

// value reads the first of the files, v1's or v2's, that is there.
func value(t *testing.T, path string, files ...string) string {
	t.Helper()
	for _, dir := range dirs(t, path) {
		for _, file := range files {
			if text, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
				return strings.TrimSpace(string(text))
			}
		}
	}
	t.Fatalf("none of %q in %s", files, path)
	return ""
}

func TestEnsureSetsAndChangesLimits(t *testing.T) {
	path := own(t) + "/kubepods/burstable/pod1"
	for _, memory := range []int64{64 << 20, 32 << 20} {
		resources := &specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: &memory},
			CPU:    &specs.LinuxCPU{Quota: new(int64(50_000)), Period: new(uint64(100_000)), Shares: new(uint64(512))},
			Pids:   &specs.LinuxPids{Limit: new(int64(100))},
		}
		if err := cgroup.New().Ensure(t.Context(), path, resources); err != nil {
			t.Fatal(err)
		}
		if got := value(t, path, "memory.limit_in_bytes", "memory.max"); got != fmt.Sprint(memory) {
			t.Errorf("memory limit is %s, want %d", got, memory)
		}
	}
	if got := value(t, path, "pids.max"); got != "100" {
		t.Errorf("pids limit is %s", got)
	}
	if got := value(t, path, "cpu.cfs_quota_us", "cpu.max"); got != "50000" && got != "50000 100000" {
		t.Errorf("quota is %s", got)
	}
	children, err := cgroup.New().List(filepath.Dir(path))
	if err != nil || !reflect.DeepEqual(children, []string{path}) {
		t.Errorf("children %q, %v", children, err)
	}
}

func TestMemoryUsage(t *testing.T) {
	path := own(t)
	if err := cgroup.New().Ensure(t.Context(), path+"/child", nil); err != nil {
		t.Fatal(err)
	}
	sleeper := exec.Command("sh", "-c", "read go; x=$(head -c 4000000 /dev/zero | tr '\\0' x); echo done; read end")
	in, err := sleeper.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := sleeper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs(t, path+"/child") {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, sleeper.Process.Pid), 0); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = fmt.Fprintln(in, "go")
	_, _ = out.Read(make([]byte, 4))
	if used, err := cgroup.New().MemoryUsage(t.Context(), path); err != nil || used < 4_000_000 || used > 1<<30 {
		t.Errorf("%d bytes, %v", used, err)
	}
	_ = in.Close()
	_ = sleeper.Wait()
	if _, err := cgroup.New().MemoryUsage(t.Context(), path+"/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such cgroup: %v", err)
	}
	if _, err := cgroup.New().MemoryUsage(t.Context(), "/../up"); !errors.Is(err, cgroup.ErrInvalid) {
		t.Errorf("a path out of the hierarchy: %v", err)
	}
}

func TestRemoveKillsWhatIsInsideAndBelow(t *testing.T) {
	path := own(t)
	if err := cgroup.New().Ensure(t.Context(), path+"/child", nil); err != nil {
		t.Fatal(err)
	}
	sleeper := exec.Command("sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- sleeper.Wait() }()
	for _, dir := range dirs(t, path+"/child") {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, sleeper.Process.Pid), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := cgroup.New().Remove(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || err.Error() != "signal: killed" {
		t.Errorf("the process ended with %v", err)
	}
	if left := dirs(t, path); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

func TestRemoveOfNothingIsFine(t *testing.T) {
	if err := cgroup.New().Remove(t.Context(), own(t)+"/nothing"); err != nil {
		t.Error(err)
	}
	if children, err := cgroup.New().List("/nodekit-cgrouptest-none"); err != nil || children != nil {
		t.Errorf("children %q, %v", children, err)
	}
}
