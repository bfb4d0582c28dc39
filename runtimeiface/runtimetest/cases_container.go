package runtimetest

import (
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
)

func containerCases() []Case {
	return []Case{
		newCase("container/create", "a created container is all that was asked for, and does not run", createCase),
		newCase("container/same identity", "the same name and attempt give the container that is there, also when it has exited", sameContainer),
		newCase("container/attempts", "another attempt is another container", containerAttempts),
		newCase("container/invalid", "a bad field is ErrInvalid, and nothing is made", invalidContainer),
		newCase("container/unknown", "an unknown container is success to stop and remove, else ErrNotFound", unknownContainer),
		newCase("container/unknown image", "an image that is not there is ErrNotFound, and nothing is made", unknownImage),
		newCase("container/start", "StartContainer runs it, once; an exited one is ErrNotRunning", startCase),
		newCase("container/start error", "a program that cannot be run leaves code 128 and StartError", startErrorCase),
		newCase("container/exit codes", "an exit code is the process's own", exitCodes),
		newCase("container/exit by signal", "128 + n when signal n ended it", exitBySignal),
		newCase("container/times", "created, started and finished are told in order and true", timesCase),
		newCase("container/remove", "RemoveContainer kills and forgets it, and leaves the log", removeContainerCase),
		newCase("container/list", "ListContainers filters by all set fields and gives oldest first", listContainers),
		newCase("container/copies", "what is given is a copy, what was given is copied", containerCopies),
		newCase("runtime/version", "Version names the runtime and its scheme", versionCase),
	}
}

func createCase(k *kit) {
	sb, pod := k.podSpec()
	spec := k.container()
	spec.Labels = map[string]string{"app": "web"}
	spec.Annotations = map[string]string{"note": "ümläut \"quoted\"\nsecond line"}
	c := k.status(k.create(sb, spec))
	k.same(c.SandboxID, sb, "sandbox")
	k.same(c.Name, spec.Name, "name")
	k.same(c.Attempt, uint32(0), "attempt")
	k.same(c.Labels, spec.Labels, "labels")
	k.same(c.Annotations, spec.Annotations, "annotations")
	k.same(c.State, runtimeiface.ContainerCreated, "state")
	k.same(c.Image, spec.Image, "image as asked for")
	k.same(c.ImageID, spec.Image, "image ID")
	k.same(c.LogPath, filepath.Join(pod.LogDirectory, spec.LogPath), "log path")
	k.that(!c.CreatedAt.IsZero(), "CreatedAt is zero")
	k.that(c.StartedAt.IsZero(), "StartedAt is %v", c.StartedAt)
	k.that(c.FinishedAt.IsZero(), "FinishedAt is %v", c.FinishedAt)
	quiet := k.container()
	quiet.LogPath = ""
	k.same(k.status(k.create(sb, quiet)).LogPath, "", "log path of a container without one")
}

func sameContainer(k *kit) {
	sb := k.pod()
	spec := k.container("exit", "3")
	id := k.create(sb, spec)
	k.same(k.create(sb, spec), id, "ID while created")
	k.ok(k.rt.StartContainer(k.ctx, id), "start")
	k.ends(id, 3, runtimeiface.ReasonError)
	k.same(k.create(sb, spec), id, "ID when exited")
	other := k.pod()
	k.that(k.create(other, spec) != id, "containers of two sandboxes are one")
	list, err := k.rt.ListContainers(k.ctx, runtimeiface.ContainerFilter{SandboxID: sb})
	k.ok(err, "list")
	k.same(len(list), 1, "containers in the sandbox")
}

func containerAttempts(k *kit) {
	sb := k.pod()
	spec := k.container("exit", "1")
	first := k.start(sb, spec)
	k.ends(first, 1, runtimeiface.ReasonError)
	spec.Attempt, spec.LogPath, spec.Args = 1, "c/1.log", nil
	second := k.start(sb, spec)
	k.that(first != second, "attempts 0 and 1 are one container")
	k.same(k.status(second).Attempt, uint32(1), "attempt of the second")
	k.same(k.status(second).State, runtimeiface.ContainerRunning, "state of the second")
	k.same(k.status(first).ExitCode, int32(1), "exit code of the first")
}

func invalidContainer(k *kit) {
	sb := k.pod()
	for field, spoil := range map[string]func(*runtimeiface.ContainerSpec){
		"Name":       func(c *runtimeiface.ContainerSpec) { c.Name = "" },
		"Image":      func(c *runtimeiface.ContainerSpec) { c.Image = "" },
		"LogPath":    func(c *runtimeiface.ContainerSpec) { c.LogPath = "../../escape.log" },
		"StopSignal": func(c *runtimeiface.ContainerSpec) { c.StopSignal = "SIGNOTHING" },
		"Mounts source that is not there": func(c *runtimeiface.ContainerSpec) {
			source := filepath.Join(k.s.LogRoot, newUID())
			c.Mounts = []specs.Mount{{Type: "bind", Source: source, Destination: "/mnt", Options: []string{"rbind"}}}
		},
		"Mounts destination": func(c *runtimeiface.ContainerSpec) {
			c.Mounts = []specs.Mount{{Type: "tmpfs", Source: "tmpfs", Destination: "relative"}}
		},
	} {
		spec := k.container()
		spoil(&spec)
		_, err := k.rt.CreateContainer(k.ctx, sb, spec)
		k.is(err, runtimeiface.ErrInvalid, "create a container with a bad %s", field)
	}
	list, err := k.rt.ListContainers(k.ctx, runtimeiface.ContainerFilter{SandboxID: sb})
	k.ok(err, "list")
	k.same(len(list), 0, "containers left")
}

func unknownContainer(k *kit) {
	const id = "no-such-container"
	k.ok(k.rt.StopContainer(k.ctx, id, time.Second), "stop")
	k.ok(k.rt.RemoveContainer(k.ctx, id), "remove")
	k.is(k.rt.StartContainer(k.ctx, id), runtimeiface.ErrNotFound, "start")
	_, err := k.rt.ContainerStatus(k.ctx, id)
	k.is(err, runtimeiface.ErrNotFound, "status")
	_, err = k.rt.Exec(k.ctx, id, runtimeiface.ExecSpec{Command: []string{"/prog"}})
	k.is(err, runtimeiface.ErrNotFound, "exec")
	k.is(k.rt.ReopenLog(k.ctx, id), runtimeiface.ErrNotFound, "reopen log")
}

func unknownImage(k *kit) {
	sb := k.pod()
	spec := k.container()
	spec.Image = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	_, err := k.rt.CreateContainer(k.ctx, sb, spec)
	k.is(err, runtimeiface.ErrNotFound, "create")
	list, err := k.rt.ListContainers(k.ctx, runtimeiface.ContainerFilter{SandboxID: sb})
	k.ok(err, "list")
	k.same(len(list), 0, "containers left")
}

func startCase(k *kit) {
	sb := k.pod()
	id := k.prog(sb, "print", "once", ";", "forever")
	k.same(k.status(id).State, runtimeiface.ContainerRunning, "state")
	k.that(!k.status(id).StartedAt.IsZero(), "StartedAt is zero")
	k.ok(k.rt.StartContainer(k.ctx, id), "start again")
	k.logHas(k.status(id).LogPath, "once\n") // or the stop might come before it is printed
	k.stop(id, 0)
	k.is(k.rt.StartContainer(k.ctx, id), runtimeiface.ErrNotRunning, "start an exited one")
	k.same(k.logText(k.status(id).LogPath), "once\n", "what it printed")
}

func startErrorCase(k *kit) {
	sb := k.pod()
	spec := k.container()
	spec.Command = []string{"/no/such/program"}
	id := k.create(sb, spec)
	k.that(k.rt.StartContainer(k.ctx, id) != nil, "start gave no error")
	c := k.ends(id, 128, runtimeiface.ReasonStartError)
	k.that(c.Message != "", "there is no message")
	k.that(!c.FinishedAt.IsZero(), "FinishedAt is zero")
	k.same(k.sandbox(sb).State, runtimeiface.SandboxReady, "state of the sandbox")
	k.same(k.output(sb, "print", "next"), "next\n", "the next container's output")
}

func exitCodes(k *kit) {
	sb := k.pod()
	for text, want := range map[string]int32{"0": 0, "1": 1, "42": 42, "128": 128, "255": 255} {
		reason := runtimeiface.ReasonError
		if want == 0 {
			reason = runtimeiface.ReasonCompleted
		}
		k.ends(k.prog(sb, "exit", text), want, reason)
	}
}

func exitBySignal(k *kit) {
	// In a PID namespace of its own a program is shielded from its own signals.
	sb := k.pod(func(s *runtimeiface.SandboxSpec) { s.PID = runtimeiface.NamespaceHost })
	k.ends(k.prog(sb, "kill", "15"), 143, runtimeiface.ReasonError)
	k.ends(k.prog(sb, "kill", "9"), 137, runtimeiface.ReasonError)
}

func timesCase(k *kit) {
	sb := k.pod()
	const slept = 200 * time.Millisecond
	before := time.Now().Add(-50 * time.Millisecond) // clocks may be coarse
	c := k.ends(k.prog(sb, "sleep", slept.String()), 0, runtimeiface.ReasonCompleted)
	after := time.Now().Add(50 * time.Millisecond)
	k.that(!c.CreatedAt.Before(before), "created at %v, before the call at %v", c.CreatedAt, before)
	k.that(!c.StartedAt.Before(c.CreatedAt), "started at %v, created at %v", c.StartedAt, c.CreatedAt)
	k.that(c.FinishedAt.Sub(c.StartedAt) >= slept-50*time.Millisecond, "ran %v, slept %v", c.FinishedAt.Sub(c.StartedAt), slept)
	k.that(!c.FinishedAt.After(after), "finished at %v, seen at %v", c.FinishedAt, after)
	k.pause(50 * time.Millisecond)
	k.that(k.status(c.ID).FinishedAt.Equal(c.FinishedAt), "FinishedAt moved from %v to %v", c.FinishedAt, k.status(c.ID).FinishedAt)
}

func removeContainerCase(k *kit) {
	sb := k.pod()
	spec := k.container("print", "kept", ";", "ignore", ";", "forever")
	id := k.start(sb, spec)
	log := k.status(id).LogPath
	k.logHas(log, "kept\n")
	for range 2 {
		k.ok(k.rt.RemoveContainer(k.ctx, id), "remove")
		_, err := k.rt.ContainerStatus(k.ctx, id)
		k.is(err, runtimeiface.ErrNotFound, "status of a removed container")
	}
	k.logHas(log, "kept\n")
	again := k.create(sb, spec)
	k.that(again != id, "a removed container's ID came back")
	k.same(k.status(again).State, runtimeiface.ContainerCreated, "state of the same identity made anew")
}

func listContainers(k *kit) {
	sb, other := k.pod(), k.pod()
	labelled := func(sandbox, v string, steps ...string) string {
		spec := k.container(steps...)
		spec.Labels = map[string]string{"group": sb, "n": v}
		return k.create(sandbox, spec)
	}
	one, two, three := labelled(sb, "1"), labelled(sb, "2"), labelled(other, "3")
	k.ok(k.rt.StartContainer(k.ctx, two), "start")
	group := map[string]string{"group": sb}
	for _, t := range []struct {
		name   string
		filter runtimeiface.ContainerFilter
		want   []string
	}{
		{"one label", runtimeiface.ContainerFilter{Labels: group}, []string{one, two, three}},
		{"two labels", runtimeiface.ContainerFilter{Labels: map[string]string{"group": sb, "n": "2"}}, []string{two}},
		{"sandbox", runtimeiface.ContainerFilter{SandboxID: sb}, []string{one, two}},
		{"state", runtimeiface.ContainerFilter{Labels: group, State: runtimeiface.ContainerRunning}, []string{two}},
		{"ID", runtimeiface.ContainerFilter{ID: three}, []string{three}},
		{"ID and another's sandbox", runtimeiface.ContainerFilter{ID: three, SandboxID: sb}, []string{}},
	} {
		list, err := k.rt.ListContainers(k.ctx, t.filter)
		k.ok(err, "list by %s", t.name)
		ids := []string{}
		for _, c := range list {
			ids = append(ids, c.ID)
		}
		k.same(ids, t.want, "list by %s", t.name)
	}
	all, err := k.rt.ListContainers(k.ctx, runtimeiface.ContainerFilter{})
	k.ok(err, "list all")
	k.that(slices.IsSortedFunc(all, func(a, b runtimeiface.Container) int { return a.CreatedAt.Compare(b.CreatedAt) }), "the list is not oldest first")
}

func containerCopies(k *kit) {
	spec := k.container("args", "one", "two", ";", "forever")
	spec.Labels = map[string]string{"a": "1"}
	id := k.create(k.pod(), spec)
	spec.Labels["a"], spec.Args[1] = "changed by the caller", "changed by the caller"
	got := k.status(id)
	k.same(got.Labels, map[string]string{"a": "1"}, "labels after the caller changed its map")
	got.Labels["a"] = "changed in a copy"
	list, err := k.rt.ListContainers(k.ctx, runtimeiface.ContainerFilter{ID: id})
	k.ok(err, "list")
	k.same(list[0].Labels, map[string]string{"a": "1"}, "labels after a copy was changed")
	list[0].Labels["a"] = "changed in a list"
	k.same(k.status(id).Labels, map[string]string{"a": "1"}, "labels after a list was changed")
	k.ok(k.rt.StartContainer(k.ctx, id), "start")
	k.logHas(got.LogPath, "one\ntwo\n")
}

func versionCase(k *kit) {
	v, err := k.rt.Version(k.ctx)
	k.ok(err, "version")
	k.that(v.Name != "", "there is no name")
	k.that(v.Version != "", "there is no version")
	k.that(v.Scheme != "", "there is no scheme")
}
