package oci_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest/testimage"
)

// env is a Runtime in a network namespace and cgroup of its own.
type env struct {
	tb     testing.TB
	cfg    oci.Config
	rt     *oci.Runtime
	images runtimetest.Images
	logs   string
	image  string // ID of images.Prog
}

var pods atomic.Int64

// newEnv opens a Runtime on a Root that is gone after the test. tb is a
// testing.TB or a GinkgoTInterface.
func newEnv(tb testing.TB) *env {
	tb.Helper()
	e := prepareEnv(tb)
	e.open()
	e.image = e.pull(e.images.Prog)
	return e
}

func prepareEnv(tb testing.TB) *env {
	tb.Helper()
	kerneltest.Require(tb, kerneltest.Root, kerneltest.Overlay, kerneltest.Runc, kerneltest.Shim, kerneltest.Cgroup)
	dir := tb.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} { // for pods with user namespaces
		if strings.HasPrefix(d, os.TempDir()+"/") {
			if err := os.Chmod(d, 0o711); err != nil {
				tb.Fatal(err)
			}
		}
	}
	e := &env{
		tb: tb, logs: filepath.Join(dir, "logs"), images: testimage.Serve(tb),
		cfg: oci.Config{
			Root:       filepath.Join(dir, "root"),
			CgroupRoot: fmt.Sprintf("/nodekit-test-%d-%d", os.Getpid(), pods.Add(1)),
		},
	}
	tb.Cleanup(e.purge)
	return e
}

func (e *env) open() {
	e.tb.Helper()
	rt, err := oci.Open(e.cfg)
	if err != nil {
		e.tb.Fatalf("open: %v", err)
	}
	e.rt = rt
}

func (e *env) close() {
	e.tb.Helper()
	if err := e.rt.Close(); err != nil {
		e.tb.Errorf("close: %v", err)
	}
}

func (e *env) reopen() { e.tb.Helper(); e.close(); e.open() }

// purge removes everything and then looks for what is left.
func (e *env) purge() {
	if e.rt == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := e.rt.Purge(ctx); err != nil {
		e.tb.Errorf("purge: %v", err)
	}
	e.close()
	for _, left := range e.leftovers() {
		e.tb.Errorf("left behind: %s", left)
	}
}

// leftovers looks for mounts, processes, cgroups, interfaces, rules and files of
// pods.
func (e *env) leftovers() []string {
	var out []string
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, e.cfg.Root) {
			out = append(out, "mount "+line)
		}
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		line, _ := os.ReadFile(p)
		if strings.Contains(string(line), e.cfg.Root) {
			out = append(out, "process "+p+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	cgroups, _ := filepath.Glob("/sys/fs/cgroup/*" + e.cfg.CgroupRoot)
	for _, c := range append(cgroups, "/sys/fs/cgroup"+e.cfg.CgroupRoot) {
		below, _ := os.ReadDir(c)
		for _, b := range below {
			if b.IsDir() {
				out = append(out, "cgroup "+filepath.Join(c, b.Name()))
			}
		}
	}
	for _, pattern := range []string{"sandboxes/*", "runtime/*/*", "images/containers/*"} {
		files, _ := filepath.Glob(filepath.Join(e.cfg.Root, pattern))
		for _, file := range files {
			// Crun keeps compiled filters for all containers.
			if filepath.Base(file) != ".cache" {
				out = append(out, "file "+file)
			}
		}
	}
	links, _ := net.Interfaces()
	for _, l := range links {
		if strings.HasPrefix(l.Name, "nk") || l.Name == oci.DefaultBridge {
			out = append(out, "interface "+l.Name)
		}
	}
	if t := e.table(); t != "" {
		out = append(out, "table "+t)
	}
	return out
}

func (e *env) pull(ref string) string {
	e.tb.Helper()
	img, err := e.rt.PullImage(e.ctx(), runtimeiface.ImageSpec{Ref: ref}, nil)
	if err != nil {
		e.tb.Fatalf("pull: %v", err)
	}
	return img.ID
}

func (e *env) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	e.tb.Cleanup(cancel)
	return ctx
}

func (e *env) sandboxSpec() runtimeiface.SandboxSpec {
	uid := fmt.Sprintf("uid-%d", pods.Add(1))
	return runtimeiface.SandboxSpec{
		Name: "pod-" + uid, Namespace: "test", UID: uid, LogDirectory: filepath.Join(e.logs, uid),
	}
}

func (e *env) sandbox(change ...func(*runtimeiface.SandboxSpec)) string {
	e.tb.Helper()
	spec := e.sandboxSpec()
	for _, f := range change {
		f(&spec)
	}
	id, err := e.rt.RunSandbox(e.ctx(), spec)
	if err != nil {
		e.tb.Fatalf("run sandbox: %v", err)
	}
	return id
}

// create makes a container that does the steps of testimage's program.
func (e *env) create(sandbox, name, steps string, change ...func(*runtimeiface.ContainerSpec)) string {
	e.tb.Helper()
	spec := runtimeiface.ContainerSpec{Name: name, Image: e.image, Args: strings.Fields(steps), LogPath: name + "/0.log"}
	for _, f := range change {
		f(&spec)
	}
	id, err := e.rt.CreateContainer(e.ctx(), sandbox, spec)
	if err != nil {
		e.tb.Fatalf("create container: %v", err)
	}
	return id
}

func (e *env) start(sandbox, name, steps string, change ...func(*runtimeiface.ContainerSpec)) string {
	e.tb.Helper()
	id := e.create(sandbox, name, steps, change...)
	if err := e.rt.StartContainer(e.ctx(), id); err != nil {
		e.tb.Fatalf("start container: %v", err)
	}
	return id
}

func (e *env) status(id string) runtimeiface.Container {
	e.tb.Helper()
	c, err := e.rt.ContainerStatus(e.ctx(), id)
	if err != nil {
		e.tb.Fatalf("status: %v", err)
	}
	return c
}

// exited waits for the end of a container.
func (e *env) exited(id string) runtimeiface.Container {
	e.tb.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c := e.status(id)
		if c.State == runtimeiface.ContainerExited {
			return c
		}
		if time.Now().After(deadline) {
			e.tb.Fatalf("container does not end: %+v", c)
		}
	}
}

// log gives the text of a container's log, without times and tags.
func (e *env) log(c runtimeiface.Container) string {
	e.tb.Helper()
	data, err := os.ReadFile(c.LogPath)
	if err != nil {
		e.tb.Fatalf("log: %v", err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(line, " ", 4)
		if len(parts) == 4 {
			b.WriteString(parts[3])
		}
	}
	return b.String()
}

// inPod reads a file from within the pod's network and IPC.
func (e *env) inPod(sandbox, path string) string {
	e.tb.Helper()
	sb, err := e.rt.SandboxStatus(e.ctx(), sandbox)
	if err != nil {
		e.tb.Fatalf("status: %v", err)
	}
	var data []byte
	done := make(chan error)
	go func() {
		done <- func() error {
			runtime.LockOSThread() // for good: the thread ends with the goroutine
			pidfd, err := unix.PidfdOpen(sb.PID, 0)
			if err != nil {
				return err
			}
			defer func() { _ = unix.Close(pidfd) }()
			if err := unix.Setns(pidfd, unix.CLONE_NEWNET|unix.CLONE_NEWIPC); err != nil {
				return err
			}
			data, err = os.ReadFile(path)
			return err
		}()
	}()
	if err := <-done; err != nil {
		e.tb.Fatalf("read %s in pod: %v", path, err)
	}
	return strings.TrimSpace(string(data))
}

func processGone(pid int) bool { return unix.Kill(pid, 0) == unix.ESRCH }
