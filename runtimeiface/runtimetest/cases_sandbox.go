package runtimetest

import (
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

func sandboxCases() []Case {
	return []Case{
		newCase("sandbox/run", "RunSandbox gives a ready sandbox with all that was asked for, and an address", runSandboxCase),
		newCase("sandbox/same identity", "the same UID and attempt give the sandbox that is there", sameSandbox),
		newCase("sandbox/attempts", "another attempt is another sandbox", sandboxAttempts),
		newCase("sandbox/invalid", "a bad field is ErrInvalid, and nothing is made", invalidSandbox),
		newCase("sandbox/unknown handler", "a runtime handler that is not configured is refused", unknownHandler),
		newCase("sandbox/stop", "StopSandbox ends the containers and leaves a sandbox that is not ready, for ever", stopSandboxCase),
		newCase("sandbox/remove", "RemoveSandbox forgets sandbox and containers, and leaves the logs", removeSandboxCase),
		newCase("sandbox/unknown", "an unknown sandbox is success to stop and remove, else ErrNotFound", unknownSandbox),
		newCase("sandbox/list", "ListSandboxes filters by all set fields and gives oldest first", listSandboxes),
		newCase("sandbox/copies", "what is given is a copy, what was given is copied", sandboxCopies),
		newCase("sandbox/host network", "a sandbox of the host's network has no address of its own", hostNetwork),
	}
}

func runSandboxCase(k *kit) {
	before := time.Now().Add(-time.Second)
	id, spec := k.podSpec(func(s *runtimeiface.SandboxSpec) {
		s.Labels = map[string]string{"app": "web", "example.org/a-b_c": ""}
		s.Annotations = map[string]string{"note": "ümläut \"quoted\"\nsecond line"}
	})
	s := k.sandbox(id)
	k.same(s.ID, id, "ID")
	k.same([]string{s.Name, s.Namespace, s.UID}, []string{spec.Name, spec.Namespace, spec.UID}, "name, namespace, UID")
	k.same(s.Labels, spec.Labels, "labels")
	k.same(s.Annotations, spec.Annotations, "annotations")
	k.same(s.State, runtimeiface.SandboxReady, "state")
	k.same(s.Network, runtimeiface.NamespacePod, "network")
	k.that(s.CreatedAt.After(before) && s.CreatedAt.Before(time.Now().Add(time.Second)), "CreatedAt is %v, now is %v", s.CreatedAt, time.Now())
	k.that(len(s.IPs) > 0, "it has no address")
	other := k.sandbox(k.pod())
	for _, ip := range s.IPs {
		k.that(ip.IsValid() && !ip.IsUnspecified(), "address %v", ip)
		k.that(!slices.Contains(other.IPs, ip), "two pods have address %v", ip)
	}
	info, err := os.Stat(spec.LogDirectory)
	k.ok(err, "log directory")
	k.that(info.IsDir(), "%s is no directory", spec.LogDirectory)
}

func sameSandbox(k *kit) {
	id, spec := k.podSpec()
	spec.Labels = map[string]string{"later": "call"}
	k.same(k.runPod(spec), id, "ID of the second call")
	list, err := k.rt.ListSandboxes(k.ctx, runtimeiface.SandboxFilter{UID: spec.UID})
	k.ok(err, "list")
	k.same(len(list), 1, "sandboxes of the pod")
}

func sandboxAttempts(k *kit) {
	first, spec := k.podSpec()
	spec.Attempt = 1
	second := k.runPod(spec)
	k.that(first != second, "attempts 0 and 1 are one sandbox")
	k.same(k.sandbox(first).Attempt, uint32(0), "attempt of the first")
	k.same(k.sandbox(second).Attempt, uint32(1), "attempt of the second")
	k.ok(k.rt.StopSandbox(k.ctx, first), "stop the first")
	k.same(k.sandbox(second).State, runtimeiface.SandboxReady, "state of the second")
}

func invalidSandbox(k *kit) {
	for field, spoil := range map[string]func(*runtimeiface.SandboxSpec){
		"Name":         func(s *runtimeiface.SandboxSpec) { s.Name = "" },
		"Namespace":    func(s *runtimeiface.SandboxSpec) { s.Namespace = "" },
		"UID":          func(s *runtimeiface.SandboxSpec) { s.UID = "" },
		"LogDirectory": func(s *runtimeiface.SandboxSpec) { s.LogDirectory = "relative/dir" },
		"Network":      func(s *runtimeiface.SandboxSpec) { s.Network = "moon" },
	} {
		spec := k.spec()
		uid := spec.UID
		spoil(&spec)
		id, err := k.rt.RunSandbox(k.ctx, spec)
		if err == nil {
			k.removeLater(id)
		}
		k.is(err, runtimeiface.ErrInvalid, "run a sandbox with a bad %s", field)
		list, err := k.rt.ListSandboxes(k.ctx, runtimeiface.SandboxFilter{UID: uid})
		k.ok(err, "list")
		k.same(len(list), 0, "sandboxes left by a bad %s", field)
	}
}

func unknownHandler(k *kit) {
	spec := k.spec()
	spec.RuntimeHandler = "no-such-handler"
	id, err := k.rt.RunSandbox(k.ctx, spec)
	if err == nil {
		k.removeLater(id)
	}
	k.that(err != nil, "it ran")
	k.that(strings.Contains(err.Error(), spec.RuntimeHandler), "the error does not name the handler: %v", err)
	list, err := k.rt.ListSandboxes(k.ctx, runtimeiface.SandboxFilter{UID: spec.UID})
	k.ok(err, "list")
	k.same(len(list), 0, "sandboxes left")
}

func stopSandboxCase(k *kit) {
	id, spec := k.podSpec()
	runs := k.prog(id, "ignore", ";", "forever")
	made := k.create(id, k.container())
	for range 2 {
		k.ok(k.rt.StopSandbox(k.ctx, id), "stop sandbox")
		s := k.sandbox(id)
		k.same(s.State, runtimeiface.SandboxNotReady, "state")
		k.same(len(s.IPs), 0, "addresses")
	}
	c := k.status(runs)
	k.same(c.State, runtimeiface.ContainerExited, "state of the container that ran")
	k.same(c.ExitCode, int32(137), "exit code of the container that ran")
	k.same(k.status(made).State, runtimeiface.ContainerExited, "state of the container that did not run yet")
	_, err := k.rt.CreateContainer(k.ctx, id, k.container())
	k.is(err, runtimeiface.ErrNotRunning, "create in a stopped sandbox")
	spec.Attempt++
	next := k.runPod(spec)
	k.that(next != id, "the next attempt is the stopped sandbox")
	k.same(k.sandbox(next).State, runtimeiface.SandboxReady, "state of the next attempt")
}

func removeSandboxCase(k *kit) {
	id, spec := k.podSpec()
	c := k.prog(id, "print", "kept", ";", "forever")
	log := k.status(c).LogPath
	k.logHas(log, "kept\n")
	for range 2 {
		k.ok(k.rt.RemoveSandbox(k.ctx, id), "remove sandbox")
		_, err := k.rt.SandboxStatus(k.ctx, id)
		k.is(err, runtimeiface.ErrNotFound, "status of a removed sandbox")
		_, err = k.rt.ContainerStatus(k.ctx, c)
		k.is(err, runtimeiface.ErrNotFound, "status of a container of a removed sandbox")
	}
	list, err := k.rt.ListContainers(k.ctx, runtimeiface.ContainerFilter{SandboxID: id})
	k.ok(err, "list containers")
	k.same(len(list), 0, "containers of a removed sandbox")
	k.logHas(log, "kept\n")
	again := k.runPod(spec)
	k.that(again != id, "a removed sandbox's ID came back")
	k.same(k.sandbox(again).State, runtimeiface.SandboxReady, "state of the same identity made anew")
}

func unknownSandbox(k *kit) {
	const id = "no-such-sandbox"
	k.ok(k.rt.StopSandbox(k.ctx, id), "stop")
	k.ok(k.rt.RemoveSandbox(k.ctx, id), "remove")
	_, err := k.rt.SandboxStatus(k.ctx, id)
	k.is(err, runtimeiface.ErrNotFound, "status")
	_, err = k.rt.CreateContainer(k.ctx, id, k.container())
	k.is(err, runtimeiface.ErrNotFound, "create container")
}

func listSandboxes(k *kit) {
	group := newUID()
	label := func(v string) func(*runtimeiface.SandboxSpec) {
		return func(s *runtimeiface.SandboxSpec) { s.Labels = map[string]string{"group": group, "n": v} }
	}
	one, spec := k.podSpec(label("1"))
	two := k.pod(label("2"))
	three := k.pod(label("3"))
	k.ok(k.rt.StopSandbox(k.ctx, two), "stop sandbox")
	for _, t := range []struct {
		name   string
		filter runtimeiface.SandboxFilter
		want   []string
	}{
		{"one label", runtimeiface.SandboxFilter{Labels: map[string]string{"group": group}}, []string{one, two, three}},
		{"two labels", runtimeiface.SandboxFilter{Labels: map[string]string{"group": group, "n": "3"}}, []string{three}},
		{"state", runtimeiface.SandboxFilter{Labels: map[string]string{"group": group}, State: runtimeiface.SandboxNotReady}, []string{two}},
		{"ID", runtimeiface.SandboxFilter{ID: two}, []string{two}},
		{"UID", runtimeiface.SandboxFilter{UID: spec.UID}, []string{one}},
		{"ID and another's UID", runtimeiface.SandboxFilter{ID: two, UID: spec.UID}, []string{}},
		{"a part of an ID", runtimeiface.SandboxFilter{ID: one[:len(one)-1]}, []string{}},
	} {
		list, err := k.rt.ListSandboxes(k.ctx, t.filter)
		k.ok(err, "list by %s", t.name)
		ids := []string{}
		for _, s := range list {
			ids = append(ids, s.ID)
		}
		k.same(ids, t.want, "list by %s", t.name)
	}
	all, err := k.rt.ListSandboxes(k.ctx, runtimeiface.SandboxFilter{})
	k.ok(err, "list all")
	k.that(slices.IsSortedFunc(all, func(a, b runtimeiface.Sandbox) int { return a.CreatedAt.Compare(b.CreatedAt) }), "the list is not oldest first")
	k.that(len(all) >= 3, "the list of all has %d", len(all))
}

func sandboxCopies(k *kit) {
	id, spec := k.podSpec(func(s *runtimeiface.SandboxSpec) { s.Labels = map[string]string{"a": "1"} })
	spec.Labels["a"] = "changed by the caller"
	got := k.sandbox(id)
	k.same(got.Labels, map[string]string{"a": "1"}, "labels after the caller changed its map")
	got.Labels["a"] = "changed in a copy"
	ips := slices.Clone(got.IPs)
	clear(got.IPs)
	list, err := k.rt.ListSandboxes(k.ctx, runtimeiface.SandboxFilter{ID: id})
	k.ok(err, "list")
	k.same(list[0].Labels, map[string]string{"a": "1"}, "labels after a copy was changed")
	list[0].Labels["a"] = "changed in a list"
	k.same(k.sandbox(id).Labels, map[string]string{"a": "1"}, "labels after a list was changed")
	k.same(k.sandbox(id).IPs, ips, "addresses after a copy was changed")
}

func hostNetwork(k *kit) {
	s := k.sandbox(k.pod(func(s *runtimeiface.SandboxSpec) { s.Network = runtimeiface.NamespaceHost }))
	k.same(len(s.IPs), 0, "addresses")
	k.same(s.Network, runtimeiface.NamespaceHost, "network")
	k.same(s.State, runtimeiface.SandboxReady, "state")
}
