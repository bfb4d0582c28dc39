package oci_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci"
)

// agentEnv makes the test's program an agent that a test can kill.
const agentEnv = "NODEKIT_OCI_TEST_AGENT"

// agentJob is what the agent shall do: pods over and over, or one that stays.
type agentJob struct {
	Config  agentConfig
	Image   string // "": no container
	Logs    string
	Prefix  string // of pod UIDs
	Pods    int    // at once
	Steps   string
	Forever bool // make and remove until killed
	Attach  bool // and take nothing of what is heard
	// HostPort and those after it are the pods', if not 0.
	HostPort uint16
	// UserNamespace: the pods have one, and a volume of the image.
	UserNamespace bool
	// Life, if there is one, is all that the agent does.
	Life *life
}

// agentConfig is the part of oci.Config that fits JSON.
type agentConfig struct {
	Root, CgroupRoot, ShimPath string
	RuntimeHandlers            map[string]string
	Network                    oci.Network
	WarmShims                  int
}

// agentMain says "done" with the ID of a container, or of a sandbox without one,
// when a pod runs.
func agentMain() int {
	var job agentJob
	if err := json.Unmarshal([]byte(os.Getenv(agentEnv)), &job); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	rt, err := oci.Open(oci.Config{
		Root: job.Config.Root, CgroupRoot: job.Config.CgroupRoot, ShimPath: job.Config.ShimPath,
		RuntimeHandlers: job.Config.RuntimeHandlers, Network: job.Config.Network, WarmShims: job.Config.WarmShims,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	fmt.Println("open")
	if job.Life != nil {
		return lifeMain(rt, job.Life)
	}
	errs := make(chan error)
	for i := range job.Pods {
		go func() {
			for attempt := uint32(0); ; attempt++ {
				if err := job.pod(rt, i, attempt); err != nil || !job.Forever {
					errs <- err
					return
				}
			}
		}()
	}
	for range job.Pods {
		if err := <-errs; err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	time.Sleep(time.Hour)
	return 0
}

func (j agentJob) pod(rt *oci.Runtime, i int, attempt uint32) error {
	ctx := context.Background()
	uid := fmt.Sprintf("%s-%d", j.Prefix, i)
	spec := runtimeiface.SandboxSpec{
		Name: uid, Namespace: "test", UID: uid, Attempt: attempt, LogDirectory: filepath.Join(j.Logs, uid),
	}
	if j.HostPort != 0 {
		hostPort(j.HostPort + uint16(i))(&spec)
	}
	var mounts []specs.Mount
	if j.UserNamespace {
		userNamespace(&spec)
		mounts = []specs.Mount{{Type: "image", Source: j.Image, Destination: "/vol"}}
	}
	sb, err := rt.RunSandbox(ctx, spec)
	if err != nil {
		return err
	}
	if j.Image == "" {
		fmt.Println("done", sb)
		return j.end(ctx, rt, sb)
	}
	id, err := rt.CreateContainer(ctx, sb, runtimeiface.ContainerSpec{
		Name: "app", Image: j.Image, Args: strings.Fields(j.Steps), LogPath: "app.log", Mounts: mounts,
	})
	if err != nil {
		return err
	}
	if err := rt.StartContainer(ctx, id); err != nil {
		return err
	}
	fmt.Println("done", id)
	if j.Attach {
		return rt.Attach(ctx, id, runtimeiface.AttachSpec{Stdout: stuck{}})
	}
	return j.end(ctx, rt, sb)
}

func (j agentJob) end(ctx context.Context, rt *oci.Runtime, sandbox string) error {
	if j.Forever {
		return rt.RemoveSandbox(ctx, sandbox)
	}
	return nil
}

// stuck says when it is written to, and goes on for ever.
type stuck struct{}

func (stuck) Write([]byte) (int, error) {
	fmt.Println("attached")
	select {}
}

// agent is a process that a test kills.
type agent struct {
	cmd   *exec.Cmd
	lines chan string
}

func (e *env) agent(job agentJob) *agent {
	e.tb.Helper()
	job.Config = agentConfig{
		Root: e.cfg.Root, CgroupRoot: e.cfg.CgroupRoot, ShimPath: e.cfg.ShimPath,
		RuntimeHandlers: e.cfg.RuntimeHandlers, Network: e.cfg.Network, WarmShims: e.cfg.WarmShims,
	}
	job.Image, job.Logs = e.image, e.logs
	data, err := json.Marshal(job)
	if err != nil {
		e.tb.Fatalf("job: %v", err)
	}
	a := &agent{cmd: exec.Command("/proc/self/exe"), lines: make(chan string, 10000)}
	a.cmd.Env = append(os.Environ(), agentEnv+"="+string(data))
	a.cmd.Stderr = os.Stderr
	out, err := a.cmd.StdoutPipe()
	if err == nil {
		err = a.cmd.Start()
	}
	if err != nil {
		e.tb.Fatalf("start agent: %v", err)
	}
	go func() {
		defer close(a.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			a.lines <- s.Text()
		}
	}()
	e.tb.Cleanup(a.kill)
	return a
}

// next waits for a line that the agent says.
func (a *agent) next(prefix string) (string, bool) {
	deadline := time.After(time.Minute)
	for {
		select {
		case line, ok := <-a.lines:
			if !ok {
				return "", false
			}
			if rest, found := strings.CutPrefix(line, prefix); found {
				return strings.TrimSpace(rest), true
			}
		case <-deadline:
			return "", false
		}
	}
}

func (a *agent) kill() {
	_ = a.cmd.Process.Kill()
	_ = a.cmd.Wait()
}
