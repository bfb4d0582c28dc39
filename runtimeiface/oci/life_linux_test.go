package oci_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci"
	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

var _ = Describe("a pod's life", func() {
	lived := func(ctx SpecContext, together bool) {
		kerneltest.Require(GinkgoTB(), kerneltest.Nft)
		e := prepareEnv(GinkgoTB())
		e.open()
		Expect(e.rt.Purge(ctx)).To(Succeed())
		e.image = e.pull(e.images.Prog)
		before := e.census()
		l := newLife(e, "life")
		l.Together = together
		for l.Step < stepEnd {
			Expect(l.call(ctx, e.rt)).To(Succeed())
			Expect(l.verify(ctx, e.rt)).To(Succeed(), "before %s", l.name())
			e.reopen()
			Expect(l.verify(ctx, e.rt)).To(Succeed(), "before %s, by the next agent", l.name())
		}
		Eventually(e.census, "1m", "20ms").Should(Equal(before))
		Expect([]int{l.runs("app"), l.runs("job")}).To(Equal([]int{1, 1}))
	}

	It("is as told after each call, also to the next agent, and leaves nothing", func(ctx SpecContext) {
		lived(ctx, false)
	}, NodeTimeout(5*time.Minute))

	It("is no other when its containers are run together", func(ctx SpecContext) { lived(ctx, true) }, NodeTimeout(5*time.Minute))
})

// life is a pod from its making to its removal: what its caller knows when a
// kill comes. Runs is a directory in which each program writes one byte when it
// starts.
type life struct {
	UID, Handler, Image, Logs, Runs string
	// Mapped: in a user namespace, with the image as a volume.
	Mapped bool
	// ExecTime is how long the command of Exec lasts; "" is no time.
	ExecTime string
	// Together: what is created and started is by RunContainers, in the step that
	// creates the first one. The steps up to the start of the last one are idle.
	Together bool

	// Step is the first call of lifeSteps that was not answered.
	Step              int
	Sandbox, App, Job string // IDs, once told
	// lost: the shim was killed, so exits may be unknown. cut: the OCI runtime was,
	// when it was to run a program.
	lost, cut bool
}

// Steps by name, for what must hold before and after them.
const (
	stepRunSandbox = iota
	stepCreateApp
	stepCreateJob
	stepStartApp
	stepStartJob
	stepWait
	stepExec
	stepUpdate
	stepReopen
	stepStopApp
	stepRemoveJob
	stepStopSandbox
	stepRemoveSandbox
	stepPurge
	stepEnd
)

// lifeSteps can each be repeated until it is answered.
var lifeSteps = [stepEnd]struct {
	name string
	do   func(context.Context, *oci.Runtime, *life) error
}{
	{"RunSandbox", func(ctx context.Context, rt *oci.Runtime, l *life) (err error) {
		spec := runtimeiface.SandboxSpec{
			Name: "pod", Namespace: "test", UID: l.UID, LogDirectory: l.Logs, RuntimeHandler: l.Handler,
			PID: runtimeiface.NamespacePod, PortMappings: []runtimeiface.PortMapping{{Protocol: "TCP", ContainerPort: 80, HostPort: 18080}},
		}
		if l.Mapped {
			userNamespace(&spec)
		}
		l.Sandbox, err = rt.RunSandbox(ctx, spec)
		return err
	}},
	{"CreateContainer app", func(ctx context.Context, rt *oci.Runtime, l *life) (err error) {
		if l.Together {
			return l.runTogether(ctx, rt)
		}
		l.App, err = rt.CreateContainer(ctx, l.Sandbox, l.app())
		return err
	}},
	{"CreateContainer job", func(ctx context.Context, rt *oci.Runtime, l *life) (err error) {
		if l.Together {
			return nil
		}
		l.Job, err = rt.CreateContainer(ctx, l.Sandbox, l.job())
		return err
	}},
	{"StartContainer app", func(ctx context.Context, rt *oci.Runtime, l *life) error {
		if l.Together {
			return nil
		}
		return rt.StartContainer(ctx, l.App)
	}},
	{"StartContainer job", func(ctx context.Context, rt *oci.Runtime, l *life) error {
		if l.Together {
			return nil
		}
		// A caller that repeats the call may find that it has ended.
		if err := rt.StartContainer(ctx, l.Job); err != nil && !errors.Is(err, runtimeiface.ErrNotRunning) {
			return err
		}
		return nil
	}},
	{"wait", func(ctx context.Context, rt *oci.Runtime, l *life) error {
		for {
			c, err := rt.ContainerStatus(ctx, l.Job)
			if err != nil {
				return err
			}
			if l.runs("app") > 0 && c.State == runtimeiface.ContainerExited {
				return nil
			}
			if app, err := rt.ContainerStatus(ctx, l.App); err != nil || app.State == runtimeiface.ContainerExited {
				return fmt.Errorf("app is %s: %w", app.State, errors.Join(err, runtimeiface.ErrNotRunning))
			}
			select {
			case <-time.After(2 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("app ran %d times, job is %s: %w", l.runs("app"), c.State, ctx.Err())
			}
		}
	}},
	{"Exec", func(ctx context.Context, rt *oci.Runtime, l *life) error {
		code, err := rt.Exec(ctx, l.App, runtimeiface.ExecSpec{Command: []string{"/prog", "sleep", cmp.Or(l.ExecTime, "0s"), ";", "exit", "5"}})
		if err == nil && code != 5 {
			err = fmt.Errorf("exit code %d", code)
		}
		return err
	}},
	{"UpdateContainer", func(ctx context.Context, rt *oci.Runtime, l *life) error {
		limit := int64(64 << 20)
		err := rt.UpdateContainer(ctx, l.App, specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})
		if errors.Is(err, runtimeiface.ErrNotSupported) {
			return nil
		}
		return err
	}},
	{"ReopenLog", func(ctx context.Context, rt *oci.Runtime, l *life) error { return rt.ReopenLog(ctx, l.App) }},
	{"StopContainer app", func(ctx context.Context, rt *oci.Runtime, l *life) error {
		return rt.StopContainer(ctx, l.App, 20*time.Second)
	}},
	{"RemoveContainer job", func(ctx context.Context, rt *oci.Runtime, l *life) error { return rt.RemoveContainer(ctx, l.Job) }},
	{"StopSandbox", func(ctx context.Context, rt *oci.Runtime, l *life) error { return rt.StopSandbox(ctx, l.Sandbox) }},
	{"RemoveSandbox", func(ctx context.Context, rt *oci.Runtime, l *life) error { return rt.RemoveSandbox(ctx, l.Sandbox) }},
	{"Purge", func(ctx context.Context, rt *oci.Runtime, _ *life) error { return rt.Purge(ctx) }},
}

// newLife is of a pod of its own.
func newLife(e *env, uid string) *life {
	runs := filepath.Join(e.logs, uid+".runs")
	Expect(os.MkdirAll(runs, 0o755)).To(Succeed())
	return &life{UID: uid, Image: e.image, Logs: filepath.Join(e.logs, uid), Runs: runs}
}

// name is of the next call.
func (l *life) name() string {
	if l.Step == stepEnd {
		return "nothing"
	}
	return lifeSteps[l.Step].name
}

func (l *life) container(name, steps string) runtimeiface.ContainerSpec {
	spec := runtimeiface.ContainerSpec{
		Name: name, Image: l.Image, Args: strings.Fields(steps), LogPath: name + ".log",
		Mounts: []specs.Mount{{Destination: "/runs", Type: "bind", Source: l.Runs}},
	}
	if l.Mapped {
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/vol", Type: "image", Source: l.Image})
	}
	return spec
}

func (l *life) app() runtimeiface.ContainerSpec {
	return l.container("app", "trap 7 ; append /runs/app x ; forever")
}

func (l *life) job() runtimeiface.ContainerSpec {
	spec := l.container("job", "append /runs/job x ; exit 3")
	spec.PID = runtimeiface.NamespaceContainer
	return spec
}

func (l *life) runTogether(ctx context.Context, rt *oci.Runtime) error {
	ids, err := rt.RunContainers(ctx, l.Sandbox, []runtimeiface.ContainerSpec{l.app(), l.job()})
	if err == nil {
		l.App, l.Job = ids[0], ids[1]
		return nil
	}
	// A caller that repeats the call may find that one has ended.
	list, lerr := rt.ListContainers(ctx, runtimeiface.ContainerFilter{SandboxID: l.Sandbox})
	if lerr != nil || len(list) != 2 || !errors.Is(err, runtimeiface.ErrNotRunning) {
		return errors.Join(err, lerr)
	}
	for _, c := range list {
		if c.Name == "app" {
			l.App = c.ID
		} else {
			l.Job = c.ID
		}
	}
	return nil
}

// runs counts the starts of a program.
func (l *life) runs(name string) int {
	data, _ := os.ReadFile(filepath.Join(l.Runs, name))
	return strings.Count(string(data), "x")
}

// call does the next step.
func (l *life) call(ctx context.Context, rt *oci.Runtime) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := lifeSteps[l.Step].do(ctx, rt, l); err != nil {
		return fmt.Errorf("%s: %w", lifeSteps[l.Step].name, err)
	}
	l.Step++
	return nil
}

// live does the rest and tells after each step.
func (l *life) live(ctx context.Context, rt *oci.Runtime, told func()) error {
	for l.Step < stepEnd {
		if err := l.call(ctx, rt); err != nil {
			return err
		}
		told()
	}
	return nil
}

// verify holds what a runtime tells against what was done. It is for a moment at
// which no call is under way; l.Step may have been done or not.
func (l *life) verify(ctx context.Context, rt *oci.Runtime) error {
	sandboxes, err := rt.ListSandboxes(ctx, runtimeiface.SandboxFilter{})
	if err != nil {
		return err
	}
	containers, err := rt.ListContainers(ctx, runtimeiface.ContainerFilter{})
	if err != nil {
		return err
	}
	bad := &badNews{}
	ready := false
	bad.add(len(sandboxes) > 1, "%d sandboxes", len(sandboxes))
	bad.add(len(sandboxes) == 0 && l.Step > stepRunSandbox && l.Step < stepRemoveSandbox, "the sandbox is not listed")
	bad.add(len(sandboxes) > 0 && l.Step > stepRemoveSandbox, "the sandbox is listed")
	for _, s := range sandboxes {
		bad.add(l.Sandbox != "" && s.ID != l.Sandbox, "sandbox %s is another", s.ID)
		ready = s.State == runtimeiface.SandboxReady
		bad.add(ready && !alive(s.PID), "sandbox is ready without a process")
		bad.add(ready != (len(s.IPs) > 0), "sandbox %s has addresses %v", s.State, s.IPs)
		bad.add(ready && l.Step > stepStopSandbox, "sandbox is ready after its stop")
	}
	seen := map[string]runtimeiface.Container{}
	for _, c := range containers {
		_, twice := seen[c.Name]
		bad.add(twice, "two containers %s", c.Name)
		bad.add(len(sandboxes) == 0, "container %s without a sandbox", c.Name)
		c = l.started(ctx, rt, c)
		seen[c.Name] = c
		bad.add(!l.truly(ctx, rt, c), "container %s is %s without a process", c.Name, c.State)
		bad.add(c.Name == "app" && l.Step == stepExec && !onlyFirst(c), "container %s has processes of a command", c.Name)
		bad.add(c.State == runtimeiface.ContainerUnknown, "container %s is unknown", c.Name)
	}
	switch {
	case len(sandboxes) == 0:
	case l.Together:
		bad.add(len(containers) == 1 && l.Step == stepCreateApp, "only container %v of two", slices.Collect(maps.Keys(seen)))
		l.verifyContainer(bad, seen, "app", l.App, stepCreateApp, stepCreateApp, stepStopApp, stepRemoveSandbox, 7)
		l.verifyContainer(bad, seen, "job", l.Job, stepCreateApp, stepCreateApp, stepCreateApp, stepRemoveJob, 3)
	default:
		l.verifyContainer(bad, seen, "app", l.App, stepCreateApp, stepStartApp, stepStopApp, stepRemoveSandbox, 7)
		l.verifyContainer(bad, seen, "job", l.Job, stepCreateJob, stepStartJob, stepStartJob, stepRemoveJob, 3)
	}
	return errors.Join(bad.errs...)
}

// truly tells whether a container that runs has a process, or has ended a
// moment later.
func (l *life) truly(ctx context.Context, rt *oci.Runtime, c runtimeiface.Container) bool {
	for range 200 {
		if c.State != runtimeiface.ContainerRunning || alive(c.PID) {
			return true
		}
		time.Sleep(5 * time.Millisecond)
		now, err := rt.ContainerStatus(ctx, c.ID)
		if err != nil {
			return false
		}
		c = now
	}
	return false
}

// started gives a container whose start goes on without its caller a moment.
func (l *life) started(ctx context.Context, rt *oci.Runtime, c runtimeiface.Container) runtimeiface.Container {
	for i := 0; i < 200 && c.State == runtimeiface.ContainerCreated && l.runs(c.Name) > 0; i++ {
		time.Sleep(5 * time.Millisecond)
		if now, err := rt.ContainerStatus(ctx, c.ID); err == nil {
			c = now
		}
	}
	return c
}

// onlyFirst tells that a container soon has no process but its first.
func onlyFirst(c runtimeiface.Container) bool {
	for range 200 {
		var pids []int
		for _, dir := range []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup"} {
			pids = append(pids, shim.CgroupProcs(dir+c.Cgroup)...)
		}
		if len(pids) <= 1 {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	return false
}

// verifyContainer knows the steps that make, start, end and remove it.
func (l *life) verifyContainer(bad *badNews, seen map[string]runtimeiface.Container, name, id string, made, started, ended, removed int, code int32) {
	c, there := seen[name]
	runs := l.runs(name)
	bad.add(runs > 1, "%s ran %d times", name, runs)
	bad.add(runs > 0 && l.Step < started, "%s ran before its start", name)
	if !there {
		bad.add(l.Step > made && l.Step < removed, "container %s is not listed", name)
		return
	}
	bad.add(l.Step > removed || l.Step < made, "container %s is listed", name)
	bad.add(id != "" && c.ID != id, "container %s has another ID", name)
	bad.add(!c.StartedAt.IsZero() && l.Step < started, "container %s was not started", name)
	switch c.State {
	case runtimeiface.ContainerCreated:
		bad.add(l.Step > started, "container %s is created after its start", name)
		bad.add(runs > 0, "container %s ran and is created", name)
	case runtimeiface.ContainerRunning:
		bad.add(c.StartedAt.IsZero(), "container %s runs since never", name)
		bad.add(name == "app" && l.Step > ended || name == "job" && l.Step > stepWait, "container %s runs after its end", name)
	case runtimeiface.ContainerExited:
		told := fmt.Sprintf("container %s: exit code %d, %s", name, c.ExitCode, c.Reason)
		truly := c.ExitCode == code && c.Reason == runtimeiface.ReasonError && runs == 1 && !c.StartedAt.IsZero()
		unknown := c.ExitCode == runtimeiface.ExitCodeUnknown && c.Reason == runtimeiface.ReasonUnknown
		// A container of a pod that is stopped is killed.
		killed := c.ExitCode == 137 && c.Reason == runtimeiface.ReasonError && l.Step >= stepStopSandbox && l.Step <= stepRemoveSandbox
		cut := l.cut && (c.ExitCode == 128 && c.Reason == runtimeiface.ReasonStartError || c.ExitCode == 137)
		bad.add(!truly && !unknown && !killed && !cut, "%s, started at %v", told, c.StartedAt)
		bad.add(name == "app" && l.Step > stepStopApp && !truly && !cut && !l.lost, "%s, but it was stopped", told)
		bad.add(name == "job" && l.Step > stepWait && !truly && !cut && !l.lost, "%s, but it ended by itself", told)
		bad.add(unknown && !l.lost, "%s, but its shim lived", told)
		bad.add(c.FinishedAt.IsZero(), "%s, at no time", told)
	}
}

type badNews struct{ errs []error }

func (b *badNews) add(bad bool, format string, args ...any) {
	if bad {
		b.errs = append(b.errs, fmt.Errorf(format, args...))
	}
}

func alive(pid int) bool { return pid > 0 && unix.Kill(pid, 0) == nil }

// census is everything below Root but content of images, and what leftovers and
// a look at all processes find.
func (e *env) census() []string {
	out := e.leftovers()
	_ = filepath.WalkDir(e.cfg.Root, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && !strings.Contains(path, "/images/blobs/") && !strings.Contains(path, "/images/layers/") {
			out = append(out, "path "+strings.TrimPrefix(path, e.cfg.Root))
		}
		return nil
	})
	shims, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range shims {
		if target, _ := os.Readlink(exe); e.cfg.ShimPath != "" && target == e.cfg.ShimPath {
			line, _ := os.ReadFile(filepath.Join(filepath.Dir(exe), "cmdline"))
			out = append(out, "shim "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	tables, err := exec.Command("nft", "list", "tables").CombinedOutput()
	if err != nil {
		out = append(out, "tables "+err.Error())
	}
	for line := range strings.Lines(string(tables)) {
		out = append(out, strings.TrimSpace(line))
	}
	slices.Sort(out)
	return out
}

// lifeJob makes the agent of agentMain live one pod's life.
func lifeMain(rt *oci.Runtime, l *life) int {
	tell := func() {
		data, _ := json.Marshal(l)
		fmt.Println("life", string(data))
	}
	if err := l.live(context.Background(), rt, tell); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
