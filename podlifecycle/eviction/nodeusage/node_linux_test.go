package nodeusage_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/podlifecycle/cgroup"
	"github.com/nodekit/nodekit/podlifecycle/eviction"
	"github.com/nodekit/nodekit/podlifecycle/eviction/nodeusage"
)

func newNode(t testing.TB, config nodeusage.Config) *nodeusage.Node {
	t.Helper()
	n, err := nodeusage.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func write(t testing.TB, path string, size int) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
		t.Fatal(err)
	}
}

// files makes a tree from paths and texts.
func files(t testing.TB, texts map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range texts {
		write(t, filepath.Join(root, name), 0)
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestConfig(t *testing.T) {
	_, err := nodeusage.New(nodeusage.Config{NodeFS: "x", ImageFS: "y", Proc: "z", Entries: -1})
	for _, word := range []string{"NodeFS", "ImageFS", "Proc", "Entries"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v does not say %s", err, word)
		}
	}
}

// This machine as it is.
func TestReadThisNode(t *testing.T) {
	dir := t.TempDir()
	r, err := newNode(t, nodeusage.Config{NodeFS: dir}).Read(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	if got := r.Signals[eviction.NodeFSAvailable].Capacity; got != int64(s.Blocks)*int64(s.Bsize) {
		t.Errorf("capacity of the file system %d", got)
	}
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	memory := r.Signals[eviction.MemoryAvailable]
	if !strings.Contains(string(info), fmt.Sprintf(" %d kB\n", memory.Capacity/1024)) || memory.Available <= 0 || memory.Available >= memory.Capacity {
		t.Errorf("memory %+v", memory)
	}
	if pids := r.Signals[eviction.PIDAvailable]; pids.Available <= 0 || pids.Available >= pids.Capacity {
		t.Errorf("processes %+v", pids)
	}
	if r.DedicatedImageFS {
		t.Error("one file system taken for two")
	}
}

// A file system that fills up becomes DiskPressure; the walk knows why.
func TestFullFileSystem(t *testing.T) {
	kerneltest.Require(t, kerneltest.Root)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m,nr_inodes=1000"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	n := newNode(t, nodeusage.Config{NodeFS: dir, ImageFS: "/"})
	policy, err := eviction.New(eviction.Config{Thresholds: []eviction.Threshold{{Signal: eviction.NodeFSAvailable, Below: eviction.Value{Part: 0.1}},
		{Signal: eviction.NodeFSInodes, Below: eviction.Value{Part: 0.05}}}})
	if err != nil {
		t.Fatal(err)
	}
	look := func() eviction.Assessment {
		r, err := n.Read(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if !r.DedicatedImageFS {
			t.Error("two file systems taken for one")
		}
		return policy.Assess(eviction.State{}, r, time.Now())
	}
	if a := look(); a.Starved != nil {
		t.Fatalf("short of %v", a.Starved)
	}
	write(t, filepath.Join(dir, "pod", "big"), 15<<19)
	if a := look(); a.Starved == nil || a.Starved.Signal != eviction.NodeFSAvailable {
		t.Errorf("full, and short of %v", a.Starved)
	}
	if used, err := n.Disk(context.Background(), filepath.Join(dir, "pod")); err != nil || used.Bytes < 15<<19 || used.Inodes != 2 {
		t.Errorf("used %+v, %v", used, err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "pod")); err != nil {
		t.Fatal(err)
	}
	for i := range 970 {
		write(t, filepath.Join(dir, "pod", fmt.Sprint(i)), 0)
	}
	if a := look(); a.Starved == nil || a.Starved.Signal != eviction.NodeFSInodes {
		t.Errorf("out of inodes, and short of %v", a.Starved)
	}
}

// A real cgroup with a program of known size.
func TestCgroupOfAProgram(t *testing.T) {
	kerneltest.Require(t, kerneltest.Root, kerneltest.Cgroup)
	n := newNode(t, nodeusage.Config{NodeFS: "/"})
	path := fmt.Sprintf("/nodekit-usagetest-%d-%d", os.Getpid(), time.Now().UnixNano())
	if _, _, err := n.Cgroup(context.Background(), path); !errors.Is(err, nodeusage.ErrNoCgroup) {
		t.Fatalf("before it is made: %v", err)
	}
	m := cgroup.New()
	if err := m.Ensure(context.Background(), path, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Remove(context.Background(), path); err != nil {
			t.Error(err)
		}
	})
	var procs []string
	for _, controller := range []string{"memory", "pids", ""} {
		file := filepath.Join("/sys/fs/cgroup", controller, path, "cgroup.procs")
		if _, err := os.Stat(file); err == nil {
			procs = append(procs, "echo $$ > "+file)
		}
	}
	// The text of 32 MiB is in the shell, which then waits for its input to end.
	program := strings.Join(procs, "; ") + `; x=$(head -c 33554432 /dev/zero | tr '\0' x); echo ready; read y; echo "${#x}"`
	cmd := exec.Command("sh", "-c", program)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("program says %q, %v", line, err)
	}
	memory, processes, err := n.Cgroup(context.Background(), path)
	if err != nil || memory < 32<<20 || memory > 1<<30 || processes != 1 {
		t.Errorf("memory %d, processes %d, %v", memory, processes, err)
	}
}

// What du counts is what Disk counts.
func TestDiskAsDu(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "a", "b", "one"), 100_000)
	write(t, filepath.Join(root, "two"), 1)
	if err := os.Link(filepath.Join(root, "two"), filepath.Join(root, "a", "again")); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(root, "two"), 1<<30); err != nil { // with a hole
		t.Fatal(err)
	}
	if err := os.Symlink("/usr", filepath.Join(root, "a", "out")); err != nil {
		t.Fatal(err)
	}
	for i := range 1200 {
		write(t, filepath.Join(root, "many", fmt.Sprint(i)), i)
	}
	if err := unix.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	unix.Sync()
	got, err := newNode(t, nodeusage.Config{NodeFS: root}).Disk(context.Background(), root)
	if err != nil {
		t.Fatal(err)
	}
	du := func(args ...string) int64 {
		out, err := exec.Command("du", append(args, "-x", "-s", root)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.ParseInt(strings.Fields(string(out))[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if want := (eviction.Disk{Bytes: du("-B1"), Inodes: du("--inodes")}); got != want {
		t.Errorf("measured %+v, du says %+v", got, want)
	}
}

func TestDiskOfOddThings(t *testing.T) {
	n := newNode(t, nodeusage.Config{NodeFS: "/"})
	root := t.TempDir()
	if got, err := n.Disk(context.Background(), filepath.Join(root, "none")); err != nil || got != (eviction.Disk{}) {
		t.Errorf("nothing there: %+v, %v", got, err)
	}
	if err := os.Symlink("/usr", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	if got, err := n.Disk(context.Background(), filepath.Join(root, "link")); err == nil {
		t.Errorf("a link was followed: %+v", got)
	}
	deep := root
	for range 400 {
		deep = filepath.Join(deep, "d")
	}
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := n.Disk(context.Background(), root); err != nil || got.Inodes < 200 || got.Inodes > 300 {
		t.Errorf("400 directories deep: %+v, %v", got, err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := n.Disk(ended, root); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Another file system below it is not the pod's.
func TestDiskStaysOnItsFileSystem(t *testing.T) {
	kerneltest.Require(t, kerneltest.Root)
	root := t.TempDir()
	inner := filepath.Join(root, "mounted")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", inner, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(inner, unix.MNT_DETACH) })
	write(t, filepath.Join(inner, "big"), 4<<20)
	if got, err := newNode(t, nodeusage.Config{NodeFS: root}).Disk(context.Background(), root); err != nil || got.Bytes >= 4<<20 || got.Inodes != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

// A walk reads no more names a second than it may; the time is virtual.
func TestDiskKeepsItsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := t.TempDir()
		for i := range 2000 {
			write(t, filepath.Join(root, fmt.Sprint(i)), 0)
		}
		before := time.Now()
		got, err := newNode(t, nodeusage.Config{NodeFS: root, Entries: 100}).Disk(context.Background(), root)
		if took := time.Since(before); err != nil || got.Inodes != 2001 || took < 19*time.Second || took > 21*time.Second {
			t.Errorf("%+v in %v, %v", got, took, err)
		}
	})
}

// Texts of kernels that this machine does not have.
func TestMemoryOfOtherKernels(t *testing.T) {
	proc := func() map[string]string {
		return map[string]string{"proc/meminfo": "MemTotal:  1000 kB\nMemFree: 300 kB\nInactive(file):  100 kB\n",
			"proc/loadavg": "0.1 0.2 0.3 2/400 99\n", "proc/sys/kernel/pid_max": "4194304\n", "proc/sys/kernel/threads-max": "1000\n", "proc/self/mountinfo": ""}
	}
	for name, test := range map[string]struct {
		more map[string]string
		want int64 // KiB available; -1: it cannot be told
	}{
		"v1":         {map[string]string{"cg/memory.usage_in_bytes": "512000\n", "cg/memory.stat": "inactive_file 1\ntotal_inactive_file 102400\n"}, 600},
		"v2":         {map[string]string{"cg/memory.stat": "anon 204800\nfile 307200\nkernel 5\ninactive_file 102400\n"}, 600},
		"v2, nested": {map[string]string{"cg/memory.current": "512000\n", "cg/memory.stat": "anon 1\nfile 2\ninactive_file 51200\n"}, 550},
		"none":       {nil, 400},
		"garbled":    {map[string]string{"cg/memory.usage_in_bytes": "many\n"}, -1},
		"cut off":    {map[string]string{"cg/memory.usage_in_bytes": "1\n", "cg/memory.stat": "cache 1\n"}, -1},
		"meminfo":    {map[string]string{"proc/meminfo": "MemTotal: x kB\n"}, -1},
	} {
		t.Run(name, func(t *testing.T) {
			texts := proc()
			for name, text := range test.more {
				texts[name] = text
			}
			root := files(t, texts)
			config := nodeusage.Config{NodeFS: root, Proc: filepath.Join(root, "proc")}
			if test.more != nil {
				config.MemoryCgroup = filepath.Join(root, "cg")
			}
			r, err := newNode(t, config).Read(context.Background())
			got, known := r.Signals[eviction.MemoryAvailable]
			if test.want < 0 {
				if known || !errors.Is(err, nodeusage.ErrGarbled) {
					t.Errorf("%+v, %v", got, err)
				}
			} else if err != nil || got.Available != test.want<<10 || got.Capacity != 1000<<10 {
				t.Errorf("%+v, %v", got, err)
			}
			if pids := r.Signals[eviction.PIDAvailable]; pids.Available != 600 || pids.Capacity != 1000 {
				t.Errorf("processes %+v", pids)
			}
		})
	}
}

func ExampleNode_Read() {
	node, err := nodeusage.New(nodeusage.Config{NodeFS: "/"})
	if err != nil {
		fmt.Println(err)
		return
	}
	reading, err := node.Read(context.Background())
	memory := reading.Signals[eviction.MemoryAvailable]
	fmt.Println(err, memory.Available > 0, memory.Available < memory.Capacity, reading.DedicatedImageFS)
	// Output: <nil> true true false
}
