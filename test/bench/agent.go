package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/agenttest"
	"github.com/nodekit/nodekit/runtimeiface/oci"
)

// nodeName is the suffix that a node gives to its static pods.
const nodeName = "bench"

// How often it is looked whether a program has told when it began, which may be
// seen late, and whether all processes are gone, which may not. Looking takes the
// CPU from those that are measured.
const (
	toldGap = 30 * time.Millisecond
	goneGap = 5 * time.Millisecond
	manyGap = 50 * time.Millisecond // of many pods
)

// agent is a program that makes pods of a directory's manifests.
type agent struct {
	name                         string
	dir, manifests, logs, cgroup string
	command                      []string
	shims                        func() ([]int, error)
	spare                        int        // shims that wait for pods
	daemon                       func() int // nil: none
	clear                        func(context.Context) error
	image                        string

	run    *exec.Cmd
	output *os.File
	podFigures
}

// newAgent gives an agent with directories and a cgroup of its own.
func (s *podStage) newAgent(name string) *agent {
	id := fmt.Sprintf("a%d", len(s.agents)+1)
	dir := filepath.Join(s.dir, id)
	return &agent{
		name: name, dir: dir, manifests: filepath.Join(dir, "manifests"), logs: filepath.Join(dir, "logs"),
		cgroup: s.cgroup + "-" + id, image: s.image, clear: func(context.Context) error { return nil },
	}
}

// onContainerd makes an agent of nodekit's parts on the stage's containerd.
func (s *podStage) onContainerd(program string) *agent {
	a := s.newAgent("nodekit, containerd 2.4")
	a.command = append(a.flags(program), "--cri", "unix://"+s.daemon.Socket)
	a.shims, a.daemon = s.containerdShims, s.daemon.PID
	return a
}

// daemonless makes one without any.
func (s *podStage) daemonless(program, runtime string) *agent {
	a := s.newAgent("nodekit, " + runtime)
	// Short enough for the name of an interface.
	bridge, subnet := fmt.Sprintf("nb%d", len(s.agents)), fmt.Sprintf("10.9%d.0.0/22", len(s.agents))
	a.command = append(a.flags(program), "--runtime", runtime, "--bridge", bridge, "--subnet", subnet)
	a.spare = 1
	a.shims = func() ([]int, error) { return agenttest.Processes("nodekit-shim " + a.dir) }
	a.clear = func(ctx context.Context) error {
		rt, err := oci.Open(oci.Config{Root: filepath.Join(a.dir, "runtime"), CgroupRoot: a.cgroup, RuntimeHandlers: map[string]string{"": runtime},
			Network: oci.Network{Bridge: bridge, Subnets: []netip.Prefix{netip.MustParsePrefix(subnet)}}})
		if err != nil {
			return err
		}
		return errors.Join(rt.Purge(ctx), rt.Close())
	}
	return a
}

func (a *agent) flags(program string) []string {
	return []string{program, "--manifests", a.manifests, "--root", a.dir, "--cgroup", a.cgroup, "--node-name", nodeName}
}

// up starts the program, and returns when it has had a pod.
func (a *agent) up(ctx context.Context) error {
	if err := os.MkdirAll(a.manifests, 0o755); err != nil {
		return err
	}
	output, err := os.OpenFile(filepath.Join(a.dir, "output"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	a.output = output
	a.run = exec.Command(a.command[0], a.command[1:]...)
	a.run.Stdout, a.run.Stderr = output, output
	if err := a.run.Start(); err != nil {
		a.run = nil
		return errors.Join(err, output.Close())
	}
	pod := fmt.Sprintf("warm%d", lives.Add(1))
	if err := a.write(pod); err != nil {
		return err
	}
	if _, err := a.started(ctx, pod, 0); err != nil {
		return err
	}
	if err := a.remove(pod); err != nil {
		return err
	}
	_, err = a.gone(ctx, manyGap)
	return err
}

// down ends the program; a second call does nothing.
func (a *agent) down() error {
	if a.run == nil {
		return nil
	}
	defer func() { a.run = nil; _ = a.output.Close() }()
	if err := a.run.Process.Signal(unix.SIGTERM); err != nil {
		return errors.Join(err, a.run.Wait())
	}
	late := time.AfterFunc(30*time.Second, func() { _ = a.run.Process.Kill() })
	err := a.run.Wait()
	if !late.Stop() {
		return fmt.Errorf("%s did not end: %w", a.name, err)
	}
	return nil // the kubelet tells its end by SIGTERM as a failure
}

// tail is the end of what the program said.
func (a *agent) tail() string {
	data, _ := os.ReadFile(filepath.Join(a.dir, "output"))
	lines := strings.SplitAfter(string(data), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "")
}

// write writes a manifest whole, by rename: a pod whose program says when it
// began, and then is deaf.
func (a *agent) write(pod string) error {
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %[1]q, "namespace": "default"}, "spec": {
"terminationGracePeriodSeconds": %[3]d, "containers": [{"name": "main", "image": %[2]q, "args": ["now", %[1]q, ";", "ignore", ";", "forever"]}]}}`,
		pod, a.image, graceSeconds)
	temporary := filepath.Join(a.dir, pod)
	if err := os.WriteFile(temporary, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, filepath.Join(a.manifests, pod+".json"))
}

func (a *agent) remove(pod string) error { return os.Remove(filepath.Join(a.manifests, pod+".json")) }

// started waits for the word of the pod's n-th program, and gives when it began.
func (a *agent) started(ctx context.Context, pod string, attempt int) (time.Time, error) {
	pattern := filepath.Join(a.logs, fmt.Sprintf("default_%s-%s_*", pod, nodeName), "main", strconv.Itoa(attempt)+".log")
	return pollEvery(ctx, toldGap, 2*time.Minute, func() (time.Time, error) {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			return time.Time{}, errors.Join(fmt.Errorf("%s: no %s", a.name, pattern), err)
		}
		return told(paths[0])
	})
}

// told reads the first line of a log as a time.
func told(path string) (time.Time, error) {
	lines, err := agenttest.Log(path)
	if err != nil || len(lines) == 0 {
		return time.Time{}, errors.Join(errors.New("no line in "+path), err)
	}
	at, err := strconv.ParseInt(lines[0].Text, 10, 64)
	return time.Unix(0, at), err
}

// gone waits until no process of any pod is left, nor a shim.
func (a *agent) gone(ctx context.Context, gap time.Duration) (time.Time, error) {
	return pollEvery(ctx, gap, 5*time.Minute, func() (time.Time, error) {
		left, err := members(a.cgroup)
		if err == nil && len(left) == 0 {
			left, err = a.shims()
			left = left[min(a.spare, len(left)):]
		}
		if err != nil || len(left) > 0 {
			return time.Time{}, errors.Join(fmt.Errorf("%s: %d processes are left", a.name, len(left)), err)
		}
		return time.Now(), nil
	})
}

// program finds the process of a pod's program.
func (a *agent) program(pod string) (*os.Process, error) {
	pids, err := members(a.cgroup)
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		words, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // it may be gone
		if strings.HasPrefix(string(words), "/prog\x00now\x00"+pod+"\x00") {
			return os.FindProcess(pid)
		}
	}
	return nil, fmt.Errorf("no process of pod %s", pod)
}
