package runtimetest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
)

func togetherCases() []Case {
	return []Case{
		newCase("together/all", "RunContainers runs all, and gives their IDs in order", togetherAll),
		newCase("together/one cannot be created", "if one cannot be created none has run and none is left", togetherBad),
		newCase("together/one cannot be started", "if one cannot be started all end, to be looked at", togetherStartError),
		newCase("together/same identity", "what is there already is taken, and is left alone by what goes wrong", togetherSame),
		newCase("together/exited", "one that has exited is ErrNotRunning, as in StartContainer", togetherExited),
		newCase("together/sandbox", "an unknown sandbox is ErrNotFound, one that is not ready ErrNotRunning; no specs are no work", togetherSandbox),
		newCase("together/at once", "the same call at once makes each container once", togetherAtOnce),
		newCase("update/not running", "an unknown container is ErrNotFound, an exited one ErrNotRunning, devices are ErrInvalid", updateErrors),
		newCase("update/running", "new limits hold on return, and what was not given stays", updateRunning, Kernel),
		newCase("update/created", "limits of a created container hold when it runs", updateCreated, Kernel),
	}
}

func togetherAll(k *kit) {
	sb := k.pod()
	list := []runtimeiface.ContainerSpec{k.container("print", "one", ";", "forever"), k.container("exit", "3"), k.container("forever")}
	ids, err := k.rt.RunContainers(k.ctx, sb, list)
	k.ok(err, "run containers")
	k.same(len(ids), len(list), "number of IDs")
	for i, id := range ids {
		k.same(k.status(id).Name, list[i].Name, "name of container %d", i)
	}
	k.same(k.status(ids[0]).State, runtimeiface.ContainerRunning, "state of the first")
	k.ends(ids[1], 3, runtimeiface.ReasonError)
	k.same(k.status(ids[2]).State, runtimeiface.ContainerRunning, "state of the third")
	k.logHas(k.status(ids[0]).LogPath, "one\n")
	left, err := k.rt.ListContainers(k.ctx, runtimeiface.ContainerFilter{SandboxID: sb})
	k.ok(err, "list")
	k.same(len(left), len(list), "containers in the sandbox")
}

func togetherBad(k *kit) {
	sb := k.pod()
	for what, t := range map[string]struct {
		spoil func(*runtimeiface.ContainerSpec)
		want  error
	}{
		"a bad field":      {func(c *runtimeiface.ContainerSpec) { c.WorkingDir = "relative" }, runtimeiface.ErrInvalid},
		"an unknown image": {func(c *runtimeiface.ContainerSpec) { c.Image = "sha256:" + strings.Repeat("0", 64) }, runtimeiface.ErrNotFound},
	} {
		list := []runtimeiface.ContainerSpec{k.container("print", "ran"), k.container("print", "ran"), k.container("print", "ran")}
		t.spoil(&list[2])
		ids, err := k.rt.RunContainers(k.ctx, sb, list)
		k.is(err, t.want, "run containers of which one has %s", what)
		k.that(strings.Contains(err.Error(), list[2].Name), "the error does not name container %s: %v", list[2].Name, err)
		k.same(len(ids), 0, "number of IDs")
		left, err := k.rt.ListContainers(k.ctx, runtimeiface.ContainerFilter{SandboxID: sb})
		k.ok(err, "list")
		k.same(len(left), 0, "containers left")
		k.noLog(sb, list[0])
	}
	k.same(k.output(sb, "print", "next"), "next\n", "output of the next container")
}

// noLog wants that a container never said anything.
func (k *kit) noLog(sandbox string, spec runtimeiface.ContainerSpec) {
	data, err := os.ReadFile(k.s.LogRoot + "/" + k.sandbox(sandbox).UID + "/" + spec.LogPath)
	if !errors.Is(err, fs.ErrNotExist) {
		k.ok(err, "read log")
	}
	k.same(string(data), "", "log of a container that may not have run")
}

func togetherStartError(k *kit) {
	sb := k.pod()
	list := []runtimeiface.ContainerSpec{k.container("forever"), k.container(), k.container("print", "ran", ";", "forever")}
	list[1].Command = []string{"/no/such/program"}
	ids, err := k.rt.RunContainers(k.ctx, sb, list)
	k.that(err != nil, "run containers of which one has no program: no error")
	k.that(strings.Contains(err.Error(), list[1].Name), "the error does not name container %s: %v", list[1].Name, err)
	k.same(len(ids), 0, "number of IDs")
	left, err := k.rt.ListContainers(k.ctx, runtimeiface.ContainerFilter{SandboxID: sb})
	k.ok(err, "list")
	k.same(len(left), 3, "containers left")
	for _, c := range left {
		k.same(c.State, runtimeiface.ContainerExited, "state of container %s", c.Name)
		if c.Name == list[1].Name {
			k.ends(c.ID, 128, runtimeiface.ReasonStartError)
		} else {
			k.that(c.ExitCode != 0, "container %s ended with 0", c.Name)
		}
	}
	k.same(k.sandbox(sb).State, runtimeiface.SandboxReady, "state of the sandbox")
}

func togetherSame(k *kit) {
	sb := k.pod()
	list := []runtimeiface.ContainerSpec{k.container("forever"), k.container("print", "made", ";", "forever"), k.container("forever")}
	runs, made := k.start(sb, list[0]), k.create(sb, list[1])
	bad := append([]runtimeiface.ContainerSpec{}, list...)
	bad[2].Image = "sha256:" + strings.Repeat("0", 64)
	_, err := k.rt.RunContainers(k.ctx, sb, bad)
	k.is(err, runtimeiface.ErrNotFound, "run containers of which one has an unknown image")
	k.same(k.status(runs).State, runtimeiface.ContainerRunning, "state of what ran before")
	k.same(k.status(made).State, runtimeiface.ContainerCreated, "state of what was created before")
	bad[2] = k.container()
	bad[2].Command = []string{"/no/such/program"}
	_, err = k.rt.RunContainers(k.ctx, sb, []runtimeiface.ContainerSpec{bad[0], bad[2]})
	k.that(err != nil, "run containers of which one has no program: no error")
	k.same(k.status(runs).State, runtimeiface.ContainerRunning, "state of what ran before")
	for range 2 {
		ids, err := k.rt.RunContainers(k.ctx, sb, list)
		k.ok(err, "run containers")
		k.same(ids[:2], []string{runs, made}, "IDs of what was there")
		for _, id := range ids {
			k.same(k.status(id).State, runtimeiface.ContainerRunning, "state of container %s", id)
		}
	}
	k.logHas(k.status(made).LogPath, "made\n")
	k.same(k.logText(k.status(made).LogPath), "made\n", "log of a program that runs once")
}

func togetherExited(k *kit) {
	sb := k.pod()
	over, fresh := k.container("exit", "3"), k.container("forever")
	id := k.start(sb, over)
	k.exited(id)
	_, err := k.rt.RunContainers(k.ctx, sb, []runtimeiface.ContainerSpec{fresh, over})
	k.is(err, runtimeiface.ErrNotRunning, "run containers of which one has exited")
	k.ends(id, 3, runtimeiface.ReasonError)
	list, err := k.rt.ListContainers(k.ctx, runtimeiface.ContainerFilter{SandboxID: sb, State: runtimeiface.ContainerRunning})
	k.ok(err, "list")
	k.same(len(list), 0, "containers that run")
}

func togetherSandbox(k *kit) {
	list := []runtimeiface.ContainerSpec{k.container()}
	_, err := k.rt.RunContainers(k.ctx, "no-such-sandbox", list)
	k.is(err, runtimeiface.ErrNotFound, "run containers in an unknown sandbox")
	sb := k.pod()
	ids, err := k.rt.RunContainers(k.ctx, sb, nil)
	k.ok(err, "run no containers")
	k.same(len(ids), 0, "number of IDs")
	k.ok(k.rt.StopSandbox(k.ctx, sb), "stop sandbox")
	_, err = k.rt.RunContainers(k.ctx, sb, list)
	k.is(err, runtimeiface.ErrNotRunning, "run containers in a stopped sandbox")
}

func togetherAtOnce(k *kit) {
	sb := k.pod()
	list := []runtimeiface.ContainerSpec{
		k.container("print", "once", ";", "forever"), k.container("print", "once", ";", "forever"),
	}
	rt, ctx := k.rt, k.ctx
	ids := make([][]string, 6)
	k.atOnce(len(ids), func(i int) (err error) {
		ids[i], err = rt.RunContainers(ctx, sb, list)
		return err
	})
	for _, got := range ids {
		k.same(got, ids[0], "IDs")
	}
	for _, id := range ids[0] {
		path := k.status(id).LogPath
		k.logHas(path, "once\n")
		k.same(k.logText(path), "once\n", "log")
	}
}

func updateErrors(k *kit) {
	sb := k.pod()
	limits := specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(64 << 20))}}
	k.is(k.rt.UpdateContainer(k.ctx, "no-such-container", limits), runtimeiface.ErrNotFound, "update of an unknown container")
	over := k.exited(k.prog(sb, "exit", "0")).ID
	k.is(k.rt.UpdateContainer(k.ctx, over, limits), runtimeiface.ErrNotRunning, "update of an exited container")
	devices := specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}}
	runs := k.prog(sb, "forever")
	k.is(k.rt.UpdateContainer(k.ctx, runs, devices), runtimeiface.ErrInvalid, "update of devices")
	k.ok(k.rt.UpdateContainer(k.ctx, runs, specs.LinuxResources{}), "update of nothing")
	k.same(k.status(runs).State, runtimeiface.ContainerRunning, "state")
}

// limited has a memory limit and a CPU quota of each 100 ms, in microseconds.
func limited(memory, quota int64) *specs.LinuxResources {
	return &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &memory, Swap: &memory},
		CPU:    &specs.LinuxCPU{Quota: &quota, Period: new(uint64(100_000))},
	}
}

func updateRunning(k *kit) {
	spec := k.container("forever")
	spec.Resources = limited(64<<20, 50_000)
	id := k.start(k.pod(), spec)
	k.same(k.limits(id), "67108864 50000", "memory and quota at first")
	memory := specs.LinuxResources{Memory: limited(128<<20, 0).Memory}
	k.ok(k.rt.UpdateContainer(k.ctx, id, memory), "update memory")
	k.same(k.limits(id), "134217728 50000", "memory and quota after an update of memory")
	k.ok(k.rt.UpdateContainer(k.ctx, id, *limited(0, 60_000)), "update quota")
	k.same(k.limits(id), "134217728 60000", "memory and quota after an update of the quota")
	k.ok(k.rt.UpdateContainer(k.ctx, id, specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(uint64(512))}}), "update shares")
	k.same(k.limits(id), "134217728 60000", "memory and quota after an update of shares")
	k.ok(k.rt.UpdateContainer(k.ctx, id, *limited(48<<20, 0)), "update memory to less")
	k.same(k.limits(id), "50331648 60000", "memory and quota after an update to less memory")
	code, _, _ := k.exec(id, "exit", "0")
	k.same(code, 0, "exit code of a command after the updates")
}

func updateCreated(k *kit) {
	sb := k.pod()
	spec := k.container("forever")
	spec.Resources = limited(64<<20, 50_000)
	id := k.create(sb, spec)
	k.ok(k.rt.UpdateContainer(k.ctx, id, *limited(96<<20, 0)), "update")
	k.ok(k.rt.StartContainer(k.ctx, id), "start")
	k.same(k.limits(id), "100663296 50000", "memory and quota")
	// The new limit is the kernel's, not a file's alone.
	hungry := k.container("hold", "268435456", ";", "forever")
	hungry.Resources = limited(512<<20, 50_000)
	id = k.create(sb, hungry)
	k.ok(k.rt.UpdateContainer(k.ctx, id, *limited(32<<20, 0)), "update")
	k.ok(k.rt.StartContainer(k.ctx, id), "start")
	k.ends(id, 137, runtimeiface.ReasonOOMKilled)
}

// limits are a container's memory limit and CPU quota, as its cgroup on the node
// has them.
func (k *kit) limits(id string) string {
	cgroup := k.status(id).Cgroup
	read := func(v1, v2 string) string {
		data, err := os.ReadFile("/sys/fs/cgroup/" + filepath.Dir(v1) + cgroup + "/" + filepath.Base(v1))
		if errors.Is(err, fs.ErrNotExist) {
			data, err = os.ReadFile("/sys/fs/cgroup" + cgroup + "/" + v2)
		}
		k.ok(err, "read the container's cgroup")
		return strings.Fields(string(data))[0]
	}
	return read("memory/memory.limit_in_bytes", "memory.max") + " " + read("cpu/cpu.cfs_quota_us", "cpu.max")
}
