package cri_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/containerdtest"
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
	daemon *containerdtest.Daemon
}

// newNode starts containerd, which is gone after the test with all that it made.
func newNode(tb testing.TB) *node {
	tb.Helper()
	kerneltest.Require(tb, kerneltest.Root, kerneltest.Overlay, kerneltest.Runc, kerneltest.Cgroup, kerneltest.Containerd)
	dir, err := os.MkdirTemp("", "cri") // short: a socket's path is at most 107 bytes
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // root of a user namespace shall reach what is below
		tb.Fatal(err)
	}
	n := &node{tb: tb, dir: dir, logs: filepath.Join(dir, "logs"), images: testimage.Serve(tb)}
	pause, err := containerdtest.PushPause(n.images.Prog)
	if err != nil {
		tb.Fatal(err)
	}
	n.daemon, err = containerdtest.New(containerdtest.Config{
		Dir: dir, Pause: pause, Handlers: map[string]containerdtest.Handler{"second": {Root: filepath.Join(dir, "second")}},
	})
	if err != nil {
		tb.Fatal(err)
	}
	n.socket = n.daemon.Socket
	tb.Cleanup(n.remove)
	n.start()
	return n
}

// start starts containerd and dials it once it answers.
func (n *node) start() {
	n.tb.Helper()
	n.daemonStart()
	n.rt = n.dial()
}

func (n *node) daemonStart() {
	n.tb.Helper()
	if err := n.daemon.Start(); err != nil {
		n.tb.Fatal(err)
	}
}

func (n *node) dial() *cri.Runtime {
	n.tb.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		rt, err := cri.Dial(ctx, cri.Config{Endpoint: "unix://" + n.socket})
		cancel()
		if err == nil {
			return rt
		}
		if time.Now().After(deadline) {
			n.tb.Fatalf("containerd does not answer: %v\n%s", err, n.daemon.Tail())
		}
		time.Sleep(20 * time.Millisecond)
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

// redial has another caller in the place of the one that there is.
func (n *node) redial() {
	n.tb.Helper()
	if err := n.rt.Close(); err != nil {
		n.tb.Errorf("close: %v", err)
	}
	n.rt = n.dial()
}

// restart kills containerd and the caller, and starts both anew.
func (n *node) restart() {
	n.tb.Helper()
	if err := n.rt.Close(); err != nil {
		n.tb.Errorf("close: %v", err)
	}
	n.daemon.Kill()
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
	if n.tb.Failed() {
		n.tb.Logf("containerd's log ends:\n%s", n.daemon.Tail())
	}
	if err := n.daemon.Close(); err != nil {
		n.tb.Errorf("end containerd: %v", err)
	}
}
