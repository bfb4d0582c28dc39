package runtimetest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
)

func namespaceCases() []Case {
	return []Case{
		newCase("namespace/pod's", "containers of a sandbox share network, IPC and host name, and no others", namespacePods, Kernel),
		newCase("namespace/node's", "modes of host are the node's namespaces", namespaceHost, Kernel),
		newCase("namespace/target", "with PID target a container sees the processes of the other, as the other does", namespaceTarget, Kernel),
		newCase("namespace/bad target", "PIDTarget is a running container of the same sandbox", namespaceBadTarget),
		newCase("userns/excludes", "a user namespace of its own excludes the node's others", usernsExcludes),
		newCase("userns/IDs", "IDs within are others on the node", usernsIDs, Kernel, UserNS),
		newCase("userns/image's files", "files of the image keep their owners as seen from within", usernsImage, Kernel, UserNS),
		newCase("userns/volumes", "volumes keep their owners on both sides", usernsVolumes, Kernel, UserNS),
		newCase("userns/node's", "what belongs to the node cannot be touched", usernsNode, Kernel, UserNS),
		newCase("userns/pod", "a pod with a user namespace has network, exec, stop and all else", usernsPod, Kernel, UserNS),
	}
}

// namespaces of a container, by name.
func (k *kit) namespaces(id string) map[string]string {
	out := map[string]string{}
	for _, name := range []string{"net", "ipc", "uts", "pid", "mnt", "user"} {
		code, stdout, stderr := k.exec(id, "link", "/proc/1/ns/"+name)
		if code != 0 { // a number 1 that is not the container's
			code, stdout, stderr = k.exec(id, "link", "/proc/self/ns/"+name)
		}
		k.that(code == 0, "look at namespace %s: %s", name, stderr)
		out[name] = strings.TrimSpace(stdout)
	}
	return out
}

func (k *kit) differ(one, two map[string]string, alike ...string) {
	same := map[string]bool{}
	for _, name := range alike {
		same[name] = true
	}
	for name := range one {
		k.that((one[name] == two[name]) == same[name], "namespaces %s are %s and %s", name, one[name], two[name])
	}
}

func namespacePods(k *kit) {
	sb, other := k.pod(), k.pod()
	one, two, apart := k.namespaces(k.ready(sb)), k.namespaces(k.ready(sb)), k.namespaces(k.ready(other))
	k.differ(one, two, "net", "ipc", "uts", "user")
	k.differ(one, apart, "user")
	shared := k.pod(func(s *runtimeiface.SandboxSpec) { s.PID = runtimeiface.NamespacePod })
	pid := func() string {
		_, stdout, _ := k.exec(k.ready(shared), "link", "/proc/self/ns/pid")
		return stdout
	}
	k.same(pid(), pid(), "PID namespaces of a pod that shares it")
}

func namespaceHost(k *kit) {
	sb := k.pod(func(s *runtimeiface.SandboxSpec) {
		s.Network, s.PID, s.IPC = runtimeiface.NamespaceHost, runtimeiface.NamespaceHost, runtimeiface.NamespaceHost
	})
	id := k.ready(sb)
	for _, name := range []string{"net", "pid", "ipc"} {
		want, err := os.Readlink("/proc/self/ns/" + name)
		k.ok(err, "look at the node's namespace")
		_, got, stderr := k.exec(id, "link", "/proc/self/ns/"+name)
		k.same(strings.TrimSpace(got), want, "namespace %s; %s", name, stderr)
	}
	_, ps, _ := k.exec(id, "ps")
	k.that(strings.Contains(ps, os.Args[0]), "the node's processes are not seen")
	node, err := os.Hostname()
	k.ok(err, "host name of the node")
	_, got, _ := k.exec(id, "hostname")
	k.same(got, node+"\n", "host name with the node's network")
}

func namespaceTarget(k *kit) {
	sb := k.pod()
	marker, secret := newUID(), newUID()
	target := k.ready(sb, "print", marker)
	k.ready(sb, "print", secret)
	spec := k.container("ps", ";", "forever")
	spec.PID, spec.PIDTarget = runtimeiface.NamespaceTarget, target
	id := k.start(sb, spec)
	k.logHas(k.status(id).LogPath, "ps")
	seen := k.logText(k.status(id).LogPath)
	k.that(strings.HasPrefix(seen, "1 ") && strings.Contains(seen, marker), "the target's processes are not seen: %q", seen)
	k.that(!strings.Contains(seen, secret), "processes of a third container are seen: %q", seen)
	_, seen, _ = k.exec(target, "ps")
	k.that(strings.Contains(seen, "/prog ps"), "the target does not see who joined: %q", seen)
	// Joined is not owned: each ends by itself.
	k.stop(id, 0)
	k.same(k.status(target).State, runtimeiface.ContainerRunning, "state of the target when who joined is stopped")
}

func namespaceBadTarget(k *kit) {
	sb, other := k.pod(), k.pod()
	elsewhere := k.prog(other, "forever")
	for what, t := range map[string]struct {
		target string
		want   error
	}{
		"unknown":            {"no-such-container", runtimeiface.ErrNotFound},
		"of another sandbox": {elsewhere, runtimeiface.ErrNotFound},
		"not started":        {k.create(sb, k.container()), runtimeiface.ErrNotRunning},
		"exited":             {k.exited(k.prog(sb, "exit", "0")).ID, runtimeiface.ErrNotRunning},
		"not named":          {"", runtimeiface.ErrInvalid},
	} {
		spec := k.container()
		spec.PID, spec.PIDTarget = runtimeiface.NamespaceTarget, t.target
		_, err := k.rt.CreateContainer(k.ctx, sb, spec)
		k.is(err, t.want, "create a container whose target is %s", what)
	}
	spec := k.container("print", "joined")
	spec.PID, spec.PIDTarget = runtimeiface.NamespaceTarget, k.prog(sb, "forever")
	k.same(k.outputOf(sb, spec), "joined\n", "output")
}

// userNS gives a pod some IDs of the node that nobody else has.
func userNS(s *runtimeiface.SandboxSpec) {
	s.UserNamespace = &runtimeiface.UserNamespace{UIDs: mapped(firstUID), GIDs: mapped(firstGID)}
}

const (
	firstUID = 0x51230000
	firstGID = 0x51240000
)

func mapped(first uint32) []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: first, Size: 65536}}
}

func usernsExcludes(k *kit) {
	for field, spoil := range map[string]func(*runtimeiface.SandboxSpec){
		"Network":  func(s *runtimeiface.SandboxSpec) { s.Network = runtimeiface.NamespaceHost },
		"PID":      func(s *runtimeiface.SandboxSpec) { s.PID = runtimeiface.NamespaceHost },
		"IPC":      func(s *runtimeiface.SandboxSpec) { s.IPC = runtimeiface.NamespaceHost },
		"mappings": func(s *runtimeiface.SandboxSpec) { s.UserNamespace.UIDs = nil },
		"no root":  func(s *runtimeiface.SandboxSpec) { s.UserNamespace.GIDs[0].ContainerID = 1 },
	} {
		spec := k.spec()
		userNS(&spec)
		spoil(&spec)
		id, err := k.rt.RunSandbox(k.ctx, spec)
		if err == nil {
			k.removeLater(id)
		}
		k.is(err, runtimeiface.ErrInvalid, "run a sandbox with a user namespace and %s", field)
	}
}

func usernsIDs(k *kit) {
	sb := k.pod(userNS)
	id := k.ready(sb)
	for file, first := range map[string]int{"uid_map": firstUID, "gid_map": firstGID} {
		_, stdout, stderr := k.exec(id, "cat", "/proc/self/"+file)
		k.same(strings.Fields(stdout), []string{"0", fmt.Sprint(first), "65536"}, "%s; %s", file, stderr)
	}
	_, stdout, _ := k.exec(id, "ids")
	k.that(strings.HasPrefix(stdout, "0 0"), "who runs, as seen from within: %s", stdout)
	k.same(k.statusIDs(k.status(id).PID), [2]string{fmt.Sprint(firstUID), fmt.Sprint(firstGID)}, "who runs, as the node sees it")
	spec := k.container("forever")
	spec.Security.RunAsUser, spec.Security.RunAsGroup = new(int64(7)), new(int64(8))
	other := k.start(sb, spec)
	k.same(k.statusIDs(k.status(other).PID), [2]string{fmt.Sprint(firstUID + 7), fmt.Sprint(firstGID + 8)}, "user 7 as the node sees it")
	one, two := k.namespaces(id), k.namespaces(other)
	k.differ(one, two, "net", "ipc", "uts", "user")
	own, err := os.Readlink("/proc/self/ns/user")
	k.ok(err, "look at the node's namespace")
	k.that(one["user"] != own, "the pod has the node's user namespace")
}

// statusIDs are a process' real user and group on the node.
func (k *kit) statusIDs(pid int) [2]string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	k.ok(err, "look at process %d", pid)
	var out [2]string
	for line := range strings.Lines(string(data)) {
		switch f := strings.Fields(line); f[0] {
		case "Uid:":
			out[0] = f[1]
		case "Gid:":
			out[1] = f[1]
		}
	}
	return out
}

func usernsImage(k *kit) {
	sb := k.pod(userNS)
	for path, want := range map[string]string{
		"/prog": "0 0 755", "/etc/passwd": "0 0 644", "/proc/1": "0 0 555",
	} {
		k.same(k.output(sb, "owner", path), want+"\n", "owner of %s", path)
	}
	k.same(k.output(sb, "write", "/new", "x", ";", "owner", "/new", ";", "chown", "/new", "5", "6", ";", "owner", "/new"),
		"0 0 644\n5 6 644\n", "owners of a new file")
	spec := k.container("ids", ";", "owner", "/layers/changed")
	spec.Image = k.image(k.s.Images.Configured)
	got := strings.Split(k.outputOf(sb, spec), "\n")
	k.that(strings.HasPrefix(got[0], "1000 1000"), "who runs in the image of user app: %s", got[0])
	k.same(got[1], "0 0 644", "owner of a file of the upper layer")
	// A pod without has the same image.
	k.same(k.output(k.pod(), "owner", "/prog"), "0 0 755\n", "owner of /prog in a pod without a user namespace")
}

func usernsVolumes(k *kit) {
	dir := k.hostDir()
	file := filepath.Join(dir, "node's")
	k.ok(os.WriteFile(file, []byte("of user 5\n"), 0o600), "write")
	k.ok(os.Chown(file, 5, 6), "chown")
	spec := k.container("owner", "/mnt/node's", ";", "cat", "/mnt/node's", ";", "write", "/mnt/new", "x", ";", "owner", "/mnt/new",
		";", "chown", "/mnt/new", "7", "8", ";", "owner", "/mnt/new")
	spec.Mounts = []specs.Mount{bind(dir, "/mnt")}
	k.same(k.outputOf(k.pod(userNS), spec), "5 6 600\nof user 5\n0 0 644\n7 8 644\n", "owners as seen from within")
	got, err := owner(filepath.Join(dir, "new"))
	k.ok(err, "look at what was written")
	k.same(got, "7 8", "owner on the node")
}

func usernsNode(k *kit) {
	sb := k.pod(userNS)
	k.output(sb, "try", "sethostname") // whatever it says, it ends
	for _, step := range [][]string{
		{"mknod", "/tmp/null", "1", "3"}, {"write", "/proc/sys/kernel/panic", "0"}, {"chown", "/tmp", "70000", "70000"},
		{"append", "/proc/sysrq-trigger", "h"},
	} {
		k.ends(k.prog(sb, step...), 1, runtimeiface.ReasonError)
	}
	status := k.processStatus(sb, runtimeiface.Security{})
	k.that(strings.Trim(status["CapEff"], "0") != "", "root within has no capabilities within")
}

func usernsPod(k *kit) {
	sb := k.pod(userNS)
	k.that(len(k.sandbox(sb).IPs) > 0, "it has no address")
	k.serve(sb, "127.0.0.1:80") // root within may, in the pod's network
	k.same(k.output(sb, "dial", "127.0.0.1:80", "hello"), "hello\n", "answer")
	k.same(k.output(sb, "write", "/dev/shm/a", "x", ";", "cat", "/dev/shm/a", ";", "print", "", ";", "write", "/dev/null", "x", ";", "ls", "/sys/kernel/mm"),
		k.output(k.pod(), "print", "x", ";", "ls", "/sys/kernel/mm"), "files that are given")
	id := k.ready(sb, "trap", "7")
	code, stdout, _ := k.exec(id, "ids", ";", "exit", "4")
	k.same(code, 4, "exit code of a command")
	k.that(strings.HasPrefix(stdout, "0 0"), "who a command is: %s", stdout)
	k.stop(id, patience)
	k.ends(id, 7, runtimeiface.ReasonError)
	k.ok(k.rt.StopSandbox(k.ctx, sb), "stop sandbox")
	k.ok(k.rt.RemoveSandbox(k.ctx, sb), "remove sandbox")
}
