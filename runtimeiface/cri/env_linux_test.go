package cri_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/cri"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest/testimage"
)

// node is a containerd with nothing of it shared, and a Runtime on it.
type node struct {
	tb     testing.TB
	dir    string
	socket string
	rt     *cri.Runtime
	images runtimetest.Images
	logs   string
	daemon *exec.Cmd
	bin    string
}

// newNode starts containerd, which is gone after the test with all that it made.
func newNode(tb testing.TB) *node {
	tb.Helper()
	kerneltest.Require(tb, kerneltest.Root, kerneltest.Overlay, kerneltest.Runc, kerneltest.Cgroup, kerneltest.Containerd)
	containerd, err := exec.LookPath("containerd")
	if err != nil {
		tb.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "cri") // short: a socket's path is at most 107 bytes
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // root of a user namespace shall reach what is below
		tb.Fatal(err)
	}
	n := &node{
		tb: tb, dir: dir, socket: filepath.Join(dir, "c.sock"), logs: filepath.Join(dir, "logs"),
		images: testimage.Serve(tb), bin: filepath.Dir(containerd),
	}
	tb.Cleanup(n.remove)
	n.configure(n.pushPause())
	n.start()
	return n
}

// pushPause makes the image of sandboxes of the test's own program.
func (n *node) pushPause() string {
	n.tb.Helper()
	from, err := name.ParseReference(n.images.Prog)
	if err != nil {
		n.tb.Fatal(err)
	}
	img, err := remote.Image(from)
	if err != nil {
		n.tb.Fatal(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		n.tb.Fatal(err)
	}
	config := *cf.Config.DeepCopy()
	config.Labels = map[string]string{"role": "pause"}
	if img, err = mutate.Config(img, config); err != nil {
		n.tb.Fatal(err)
	}
	to := from.Context().Registry.Repo("test", "pause").Tag("1")
	if err := remote.Write(to, img); err != nil {
		n.tb.Fatal(err)
	}
	return to.Name()
}

func (n *node) configure(pause string) {
	n.tb.Helper()
	n.write("config.toml", fmt.Sprintf(`version = 3
root = %[1]q
state = %[2]q
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = %[3]q
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = %[4]q
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
cdi_spec_dirs = []
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = [%[5]q]
conf_dir = %[6]q
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.second]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.second.options]
Root = %[8]q
[plugins."io.containerd.internal.v1.opt"]
path = %[7]q
`, filepath.Join(n.dir, "root"), filepath.Join(n.dir, "state"), n.socket, pause,
		filepath.Join(n.bin, "cni"), filepath.Join(n.dir, "net.d"), filepath.Join(n.dir, "opt"), filepath.Join(n.dir, "second")))
	n.write("net.d/10-test.conflist", fmt.Sprintf(`{
  "cniVersion": "1.0.0", "name": "test",
  "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
     "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.87.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}`, filepath.Join(n.dir, "ipam")))
}

func (n *node) write(path, text string) {
	n.tb.Helper()
	path = filepath.Join(n.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		n.tb.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		n.tb.Fatal(err)
	}
}

// start starts containerd and dials it once it answers.
func (n *node) start() {
	n.tb.Helper()
	n.daemonStart()
	n.rt = n.dial()
}

func (n *node) daemonStart() {
	n.tb.Helper()
	log, err := os.OpenFile(filepath.Join(n.dir, "containerd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.tb.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	n.daemon = exec.Command(filepath.Join(n.bin, "containerd"), "--config", filepath.Join(n.dir, "config.toml"))
	n.daemon.Stdout, n.daemon.Stderr = log, log
	if err := n.daemon.Start(); err != nil {
		n.tb.Fatal(err)
	}
}

func (n *node) dial() *cri.Runtime {
	n.tb.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		rt, err := cri.Dial(ctx, cri.Config{Endpoint: "unix://" + n.socket})
		cancel()
		if err == nil {
			return rt
		}
		if time.Now().After(deadline) {
			n.tb.Fatalf("containerd does not answer: %v\n%s", err, n.tail())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// kill ends containerd as a crash would. The shims and containers go on.
func (n *node) kill() {
	if n.daemon != nil {
		_ = n.daemon.Process.Kill()
		_ = n.daemon.Wait()
		n.daemon = nil
	}
}

// killShim kills containerd's shim of a sandbox, which has its ID among its words.
func (n *node) killShim(sandboxID string) error {
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, p := range paths {
		line, _ := os.ReadFile(p)
		words := strings.Split(string(line), "\x00")
		if !strings.HasSuffix(words[0], "containerd-shim-runc-v2") || !slices.Contains(words, sandboxID) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p)))
		if err != nil {
			return err
		}
		return unix.Kill(pid, unix.SIGKILL)
	}
	return fmt.Errorf("sandbox %s has no shim", sandboxID)
}

// restart kills containerd and the caller, and starts both anew.
func (n *node) restart() {
	n.tb.Helper()
	if err := n.rt.Close(); err != nil {
		n.tb.Errorf("close: %v", err)
	}
	n.kill()
	n.start()
}

// remove removes every sandbox, ends containerd and looks for what is left.
func (n *node) remove() {
	if n.rt != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		list, err := n.rt.ListSandboxes(ctx, runtimeiface.SandboxFilter{})
		if err != nil {
			n.tb.Errorf("list what is left: %v", err)
		}
		for _, s := range list {
			if err := n.rt.RemoveSandbox(ctx, s.ID); err != nil {
				n.tb.Errorf("remove sandbox: %v", err)
			}
		}
		if err := n.rt.Close(); err != nil {
			n.tb.Errorf("close: %v", err)
		}
	}
	if n.daemon != nil {
		_ = n.daemon.Process.Signal(unix.SIGTERM)
		_ = n.daemon.Wait()
	}
	for _, p := range n.processes() {
		n.tb.Errorf("left behind: process %s", p)
	}
	n.unmount()
	if n.tb.Failed() {
		n.tb.Logf("containerd's log ends:\n%s", n.tail())
	}
	if err := os.RemoveAll(n.dir); err != nil {
		n.tb.Errorf("remove %s: %v", n.dir, err)
	}
	// The directory of all sandboxes without a parent, if nobody else has any.
	for _, pattern := range []string{"/sys/fs/cgroup/k8s.io", "/sys/fs/cgroup/*/k8s.io"} {
		dirs, _ := filepath.Glob(pattern)
		for _, dir := range dirs {
			_ = unix.Rmdir(dir)
		}
	}
}

// processes are those that have the node's directory among their words.
func (n *node) processes() []string {
	var out []string
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range paths {
		line, _ := os.ReadFile(p)
		if bytes.Contains(line, []byte(n.socket)) {
			out = append(out, p+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return out
}

func (n *node) unmount() {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	var targets []string
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], n.dir+"/") {
			targets = append(targets, f[4])
		}
	}
	for i := len(targets) - 1; i >= 0; i-- {
		_ = unix.Unmount(targets[i], unix.MNT_DETACH)
	}
}

func (n *node) tail() string {
	data, _ := os.ReadFile(filepath.Join(n.dir, "containerd.log"))
	lines := strings.SplitAfter(string(data), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "")
}
