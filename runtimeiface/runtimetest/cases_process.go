package runtimetest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
)

func processCases() []Case {
	return []Case{
		newCase("process/image's user", "without RunAsUser the image's user runs, with its groups", userOfImage, Kernel),
		newCase("process/user", "RunAsUser, RunAsGroup and SupplementalGroups are who runs", userOfSpec, Kernel),
		newCase("process/strict groups", "with StrictGroups, groups of the image's /etc/group are left out", strictGroups, Kernel),
		newCase("process/no new privileges", "NoNewPrivileges is set when asked for, else not", noNewPrivileges, Kernel),
		newCase("process/capabilities", "the default capabilities, less what is dropped, with what is added", capabilities, Kernel),
		newCase("process/PID namespace", "a container sees its own processes, or the pod's", pidNamespace, Kernel),
		newCase("process/PID and cgroup", "PID and Cgroup of the status are the process's", pidAndCgroup, Kernel),
		newCase("process/stop kills all", "no process of a container outlives it", stopKillsAll, Kernel),
		newCase("process/not executable", "a file that is no program leaves code 128 and StartError", notExecutable, Kernel),
		newCase("process/OOM", "a container that the kernel kills for memory is OOMKilled", outOfMemoryCase, Kernel),
		newCase("process/OOM of a child", "a container of which the kernel killed any process for memory is OOMKilled, with its own exit code", childOutOfMemory, Kernel),
		newCase("process/limits", "memory limit and CPU quota are those of the cgroup", limitsCase, Kernel),
		newCase("process/sysctl", "sysctls are set in the sandbox", sysctlCase, Kernel),
	}
}

func userOfImage(k *kit) {
	sb := k.pod()
	k.same(ids(k.output(sb, "ids")), "0 0", "who runs in an image without a user")
	spec := k.container("ids")
	spec.Image = k.image(k.s.Images.Configured)
	got := ids(k.outputOf(sb, spec))
	k.that(strings.HasPrefix(got, "1000 1000"), "who runs in the image of user app: %s", got)
	k.that(strings.Contains(got+" ", " 1001 "), "groups of user app: %s", got)
}

// ids reads "UID GID GROUPS...", without groups that repeat the first.
func ids(text string) string {
	f := strings.Fields(text)
	out := f[:2]
	for _, g := range f[2:] {
		if g != f[1] {
			out = append(out, g)
		}
	}
	return strings.Join(out, " ")
}

func userOfSpec(k *kit) {
	user, group := int64(4321), int64(8765)
	sb := k.pod()
	spec := k.container("ids")
	spec.Security = runtimeiface.Security{RunAsUser: &user, RunAsGroup: &group, SupplementalGroups: []int64{77, 78}}
	k.same(ids(k.outputOf(sb, spec)), "4321 8765 77 78", "who runs")
	id := k.container("forever")
	id.Security = spec.Security
	_, stdout, stderr := k.exec(k.start(sb, id), "ids")
	k.that(stdout != "", "exec printed nothing: %s", stderr)
	k.same(ids(stdout), "4321 8765 77 78", "who runs by exec")
	root, zero := k.container("ids"), int64(0)
	root.Image, root.Security.RunAsUser = k.image(k.s.Images.Configured), &zero
	k.that(strings.HasPrefix(ids(k.outputOf(sb, root)), "0 "), "RunAsUser 0 does not win over the image's user")
}

func strictGroups(k *kit) {
	spec := k.container("ids")
	spec.Image = k.image(k.s.Images.Configured)
	spec.Security = runtimeiface.Security{StrictGroups: true, SupplementalGroups: []int64{77}}
	k.same(ids(k.outputOf(k.pod(), spec)), "1000 1000 77", "who runs in the image of user app, without its groups")
}

// processStatus gives the fields of /proc/self/status as a container sees it.
func (k *kit) processStatus(sandbox string, security runtimeiface.Security) map[string]string {
	spec := k.container("cat", "/proc/self/status")
	spec.Security = security
	fields := map[string]string{}
	for line := range strings.Lines(k.outputOf(sandbox, spec)) {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.TrimSpace(value)
	}
	return fields
}

func noNewPrivileges(k *kit) {
	sb := k.pod()
	k.same(k.processStatus(sb, runtimeiface.Security{NoNewPrivileges: true})["NoNewPrivs"], "1", "NoNewPrivs when asked for")
	k.same(k.processStatus(sb, runtimeiface.Security{})["NoNewPrivs"], "0", "NoNewPrivs when not")
}

// Bits of linux/capability.h.
const (
	capChown    = 1 << 0
	capNetBind  = 1 << 10
	capNetAdmin = 1 << 12
	// capDefault is what Security promises.
	capDefault = 1<<0 | 1<<1 | 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<13 | 1<<18 | 1<<27 | 1<<29 | 1<<31
)

func capabilities(k *kit) {
	sb := k.pod()
	for _, t := range []struct {
		name      string
		add, drop []string
		want      uint64
	}{
		{"none", nil, nil, capDefault},
		{"CHOWN dropped", nil, []string{"CHOWN"}, capDefault &^ capChown},
		{"NET_ADMIN added", []string{"NET_ADMIN"}, nil, capDefault | capNetAdmin},
		{"all dropped", nil, []string{"ALL"}, 0},
		{"all but one dropped", []string{"NET_BIND_SERVICE"}, []string{"ALL"}, capNetBind},
	} {
		status := k.processStatus(sb, runtimeiface.Security{AddCapabilities: t.add, DropCapabilities: t.drop})
		for _, set := range []string{"CapEff", "CapPrm", "CapBnd"} {
			got, err := strconv.ParseUint(status[set], 16, 64)
			k.ok(err, "read %s", set)
			k.that(got == t.want, "%s with %s: %#x, want %#x", set, t.name, got, t.want)
		}
	}
	user := int64(1000)
	got := k.processStatus(sb, runtimeiface.Security{RunAsUser: &user})["CapEff"]
	k.same(strings.Trim(got, "0"), "", "CapEff of a user that is not root")
	k.output(sb, "write", "/tmp/f", "x", ";", "chown", "/tmp/f", "1", "1")
	drops := k.container("write", "/tmp/f", "x", ";", "chown", "/tmp/f", "1", "1")
	drops.Security.DropCapabilities = []string{"CHOWN"}
	k.ends(k.start(sb, drops), 1, runtimeiface.ReasonError)
}

func pidNamespace(k *kit) {
	own := k.pod()
	marker := newUID()
	k.ready(own, "print", marker)
	k.that(!strings.Contains(k.output(own, "ps"), marker), "a container sees the processes of another")
	k.that(strings.HasPrefix(k.output(own, "ps"), "1 /prog ps"), "the first process is not number 1: %s", k.output(own, "ps"))

	shared := k.pod(func(s *runtimeiface.SandboxSpec) { s.PID = runtimeiface.NamespacePod })
	k.ready(shared, "print", marker)
	k.that(strings.Contains(k.output(shared, "ps"), marker), "a container does not see the pod's processes")
	alone := k.container("ps")
	alone.PID = runtimeiface.NamespaceContainer
	k.that(!strings.Contains(k.outputOf(shared, alone), marker), "a container with PID mode of its own sees the pod's processes")
	k.that(!strings.Contains(k.output(shared, "ps"), os.Args[0]), "a container sees the node's processes")
}

func pidAndCgroup(k *kit) {
	sb := k.pod()
	// A sandbox need not have a process; one that tells its cgroup has it there.
	if s := k.sandbox(sb); s.Cgroup != "" {
		cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", s.PID))
		k.ok(err, "read cgroup of the sandbox")
		k.that(strings.Contains(string(cgroup), ":"+s.Cgroup+"\n"), "Cgroup of the sandbox is %q, its process is in %s", s.Cgroup, cgroup)
	}
	c := k.status(k.ready(sb))
	k.that(c.PID > 0, "PID is %d", c.PID)
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", c.PID))
	k.ok(err, "read command line")
	k.that(strings.HasPrefix(string(cmdline), "/prog\x00"), "process %d is %q", c.PID, cmdline)
	cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.PID))
	k.ok(err, "read cgroup")
	k.that(strings.HasPrefix(c.Cgroup, "/"), "Cgroup is %q", c.Cgroup)
	k.that(strings.Contains(string(cgroup), ":"+c.Cgroup+"\n"), "Cgroup is %q, the process is in %s", c.Cgroup, cgroup)
	k.stop(c.ID, 0)
	k.same(k.status(c.ID).PID, 0, "PID of an exited container")
}

func stopKillsAll(k *kit) {
	for _, mode := range []runtimeiface.NamespaceMode{runtimeiface.NamespaceContainer, runtimeiface.NamespacePod, runtimeiface.NamespaceHost} {
		sb := k.pod(func(s *runtimeiface.SandboxSpec) { s.PID = mode })
		dir := k.hostDir()
		for name, end := range map[string][]string{"by itself": {"sleep", "200ms"}, "by a stop": {"forever"}} {
			file := dir + "/" + strings.ReplaceAll(name, " ", "-")
			spec := k.container(append([]string{"spawn", "ignore", ",", "count", file, "5ms", ";"}, end...)...)
			spec.Mounts = []specs.Mount{bind(dir, dir)}
			id := k.start(sb, spec)
			k.eventually("life of the child", func() error { _, err := os.Stat(file); return err })
			if name == "by a stop" {
				k.stop(id, time.Second)
			}
			k.exited(id)
			size := func() int64 {
				info, err := os.Stat(file)
				k.ok(err, "look at the child's file")
				return info.Size()
			}
			before := size()
			k.pause(100 * time.Millisecond)
			k.same(size(), before, "the child lives on (PID mode %s, end %s): size of its file", mode, name)
		}
	}
}

func notExecutable(k *kit) {
	sb := k.pod()
	for _, path := range []string{"/plain", "/etc"} {
		spec := k.container()
		spec.Command = []string{path}
		id := k.create(sb, spec)
		k.that(k.rt.StartContainer(k.ctx, id) != nil, "start of %s gave no error", path)
		k.ends(id, 128, runtimeiface.ReasonStartError)
	}
}

func outOfMemoryCase(k *kit) {
	limit, sb := int64(32<<20), k.pod()
	spec := k.container("hold", strconv.Itoa(256<<20), ";", "forever")
	spec.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
	k.ends(k.start(sb, spec), 137, runtimeiface.ReasonOOMKilled)
	fits := k.container("hold", strconv.Itoa(4<<20))
	fits.Resources = spec.Resources
	k.outputOf(sb, fits)
}

func childOutOfMemory(k *kit) {
	sb := k.pod()
	for _, code := range []int32{0, 5} {
		spec := k.container("run", "hold", strconv.Itoa(256<<20), ";", "print", "lives on", ";", "exit", fmt.Sprint(code))
		spec.Resources = limited(64<<20, 0)
		c := k.ends(k.start(sb, spec), code, runtimeiface.ReasonOOMKilled)
		k.logHas(c.LogPath, "signal 9\nlives on\n")
	}
}

func limitsCase(k *kit) {
	spec := k.container("forever")
	spec.Resources = limited(64<<20, 50_000)
	k.same(k.limits(k.start(k.pod(), spec)), "67108864 50000", "memory limit and CPU quota")
}

func sysctlCase(k *kit) {
	const name = "net.ipv4.ip_unprivileged_port_start"
	path := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
	sb := k.pod(func(s *runtimeiface.SandboxSpec) { s.Sysctls = map[string]string{name: "99"} })
	k.same(k.output(sb, "cat", path), "99\n", "%s inside", name)
}
