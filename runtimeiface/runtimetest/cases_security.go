package runtimetest

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
)

func securityCases() []Case {
	return []Case{
		newCase("security/default paths", "what the node alone may see and change is masked and read-only", defaultPaths, Kernel),
		newCase("security/masked paths", "MaskedPaths are empty, ReadonlyPaths cannot be written, and neither is with empty ones", maskedPaths, Kernel),
		newCase("security/capabilities of others", "a user that is not root has the capabilities as a bound alone", boundCapabilities, Kernel),
		newCase("security/bad capability", "a capability that is none is ErrInvalid", badCapability),
		newCase("security/devices", "a device that is given can be used, one that is not cannot, even if it is made", devicesCase, Kernel),
		newCase("security/privileged", "a privileged container has every capability and device, and nothing is masked", privilegedCase, Kernel),
		newCase("security/privileged sandbox", "a privileged container wants a privileged sandbox", privilegedSandbox),
		newCase("security/unconfined", "without Seccomp no system call is filtered", seccompUnconfined, Kernel),
		newCase("security/seccomp default", "the runtime's default filter is there, and keeps from what the node must be kept from", seccompDefault, Kernel, Seccomp),
		newCase("security/seccomp localhost", "a profile of the node's is applied, to commands too", seccompLocalhost, Kernel, Seccomp),
		newCase("security/seccomp without a profile", "a profile that is not there or is none is refused", seccompMissing, Kernel, Seccomp),
		newCase("security/apparmor", "AppArmor's default profile keeps from the node's settings, and goes for commands too; Unconfined and privileged are without", appArmorDefault, Kernel, AppArmor),
		newCase("security/apparmor localhost", "a profile that the kernel has loaded is applied, to a privileged container too", appArmorLocalhost, Kernel, AppArmor),
		newCase("security/apparmor without a profile", "a profile that the kernel has not loaded is refused", appArmorMissing, Kernel),
	}
}

func defaultPaths(k *kit) {
	sb := k.pod()
	for _, path := range []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug"} {
		if _, err := os.Stat(path); err != nil {
			continue // not of this kernel
		}
		k.same(k.outputOf(sb, k.unconfined("cat", path)), "", "content of %s", path)
	}
	if _, err := os.Stat("/sys/firmware"); err == nil {
		k.same(k.outputOf(sb, k.unconfined("ls", "/sys/firmware")), "", "files in /sys/firmware")
	}
	for _, path := range []string{"/proc/sys/kernel/panic", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity", "/sys/kernel/mm/ksm/run"} {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		c := k.exited(k.start(sb, k.unconfined("append", path, "")))
		k.that(c.ExitCode == 1, "%s can be opened for writing", path)
	}
}

// unconfined is a container that no AppArmor profile keeps from what a path is
// masked against.
func (k *kit) unconfined(steps ...string) runtimeiface.ContainerSpec {
	spec := k.container(steps...)
	spec.Security.AppArmor = runtimeiface.AppArmorUnconfined
	return spec
}

func maskedPaths(k *kit) {
	sb := k.pod()
	spec := k.container("cat", "/layers/kept", ";", "ls", "/layers/opaque", ";", "cat", "/layers/changed")
	spec.Security.MaskedPaths = []string{"/layers/kept", "/layers/opaque", "/not/there"}
	k.same(k.outputOf(sb, spec), "lower\n", "files of which two are masked")
	spec = k.container("write", "/work/new", "x")
	spec.Security.ReadonlyPaths = []string{"/work", "/not/there"}
	k.ends(k.start(sb, spec), 1, runtimeiface.ReasonError)
	spec = k.container("write", "/tmp/new", "x")
	spec.Security.ReadonlyPaths = []string{"/work"}
	k.outputOf(sb, spec)
	if _, err := os.Stat("/proc/timer_list"); err == nil {
		spec = k.unconfined("cat", "/proc/timer_list")
		spec.Security.MaskedPaths = []string{}
		k.that(k.outputOf(sb, spec) != "", "/proc/timer_list is empty with no path masked")
	}
	spec = k.unconfined("append", "/proc/sys/net/ipv4/ip_forward", "")
	spec.Security.ReadonlyPaths, spec.Security.AddCapabilities = []string{}, []string{"NET_ADMIN"}
	k.outputOf(sb, spec)
}

func boundCapabilities(k *kit) {
	security := runtimeiface.Security{RunAsUser: new(int64(1000)), AddCapabilities: []string{"NET_ADMIN"}}
	status := k.processStatus(k.pod(), security)
	for _, set := range []string{"CapEff", "CapPrm", "CapAmb", "CapInh"} {
		k.same(strings.Trim(status[set], "0"), "", "%s of a user that is not root", set)
	}
	bound, err := strconv.ParseUint(status["CapBnd"], 16, 64)
	k.ok(err, "read CapBnd")
	k.that(bound == capDefault|capNetAdmin, "CapBnd is %#x, want %#x", bound, uint64(capDefault|capNetAdmin))
}

func badCapability(k *kit) {
	sb := k.pod()
	for _, name := range []string{"CAP_KILL", "kill", ""} {
		spec := k.container()
		spec.Security.AddCapabilities = []string{name}
		_, err := k.rt.CreateContainer(k.ctx, sb, spec)
		k.is(err, runtimeiface.ErrInvalid, "create a container with capability %q added", name)
		spec = k.container()
		spec.Security.DropCapabilities = []string{name}
		_, err = k.rt.CreateContainer(k.ctx, sb, spec)
		k.is(err, runtimeiface.ErrInvalid, "create a container with capability %q dropped", name)
	}
}

// someDevice is a character device of the node that containers are not given.
func (k *kit) someDevice() (path string, device specs.LinuxDevice) {
	for _, path := range []string{"/dev/fuse", "/dev/net/tun", "/dev/loop-control"} {
		major, minor, err := deviceNumber(path)
		if err == nil {
			return path, specs.LinuxDevice{Path: path, Type: "c", Major: major, Minor: minor}
		}
	}
	k.fail("the node has none of the devices that this case knows")
	return "", specs.LinuxDevice{}
}

func devicesCase(k *kit) {
	sb := k.pod()
	path, device := k.someDevice()
	k.ends(k.prog(sb, "open", path), 1, runtimeiface.ReasonError)
	k.ends(k.prog(sb, "mknod", "/tmp/device", strconv.Itoa(int(device.Major)), strconv.Itoa(int(device.Minor)), ";",
		"print", "made", ";", "open", "/tmp/device"), 1, runtimeiface.ReasonError)
	spec := k.container("open", path)
	spec.Devices = []specs.LinuxDevice{device}
	k.outputOf(sb, spec)
	device.Path = "/dev/another-name"
	spec = k.container("open", "/dev/another-name")
	spec.Devices = []specs.LinuxDevice{device}
	k.outputOf(sb, spec)
}

func privilegedCase(k *kit) {
	sb := k.pod(func(s *runtimeiface.SandboxSpec) { s.Privileged = true })
	status := k.processStatus(sb, runtimeiface.Security{Privileged: true})
	own, err := os.ReadFile("/proc/self/status")
	k.ok(err, "look at the node's capabilities")
	for _, set := range []string{"CapEff", "CapPrm", "CapBnd"} {
		k.that(strings.Contains(string(own), "CapBnd:\t"+status[set]+"\n"), "%s is %s, the node has %s", set, status[set], own)
	}
	path, _ := k.someDevice()
	spec := k.container("open", path, ";", "mount", "/work", ";", "append", "/proc/sys/net/ipv4/ip_forward", "")
	spec.Security.Privileged = true
	k.outputOf(sb, spec)
	if _, err := os.Stat("/proc/timer_list"); err == nil {
		spec = k.container("cat", "/proc/timer_list")
		spec.Security.Privileged = true
		k.that(k.outputOf(sb, spec) != "", "/proc/timer_list is masked")
	}
	// Others in the same sandbox are as elsewhere.
	k.ends(k.prog(sb, "open", path), 1, runtimeiface.ReasonError)
	k.ends(k.prog(sb, "mount", "/work"), 1, runtimeiface.ReasonError)
}

func privilegedSandbox(k *kit) {
	spec := k.container("print", "privileged")
	spec.Security.Privileged = true
	_, err := k.rt.CreateContainer(k.ctx, k.pod(), spec)
	k.is(err, runtimeiface.ErrInvalid, "create a privileged container in a plain sandbox")
	sb := k.pod(func(s *runtimeiface.SandboxSpec) { s.Privileged = true })
	k.same(k.outputOf(sb, spec), "privileged\n", "output in a privileged sandbox")
}

// denied is what a filtered system call says.
const denied = "operation not permitted\n"

func seccompUnconfined(k *kit) {
	sb := k.pod()
	for _, s := range []runtimeiface.SeccompType{"", runtimeiface.SeccompUnconfined} {
		k.same(k.processStatus(sb, runtimeiface.Security{Seccomp: s})["Seccomp"], "0", "Seccomp of /proc/self/status with %q", s)
	}
	for _, call := range []string{"keyctl", "unshare"} {
		k.that(k.output(sb, "try", call) != denied, "%s is denied", call)
	}
}

func seccompDefault(k *kit) {
	sb := k.pod()
	security := runtimeiface.Security{Seccomp: runtimeiface.SeccompRuntimeDefault}
	k.same(k.processStatus(sb, security)["Seccomp"], "2", "Seccomp of /proc/self/status")
	for _, call := range []string{"keyctl", "unshare"} {
		spec := k.container("try", call)
		spec.Security = security
		k.same(k.outputOf(sb, spec), denied, "what %s says", call)
	}
	spec := k.container("run", "print", "a child", ";", "mkdir", "/tmp/a", ";", "chown", "/tmp/a", "1", "1")
	spec.Security = security
	k.outputOf(sb, spec)
}

// profile denies the making of directories, with an errno of its own.
const profile = `{
  "defaultAction": "SCMP_ACT_ALLOW",
  "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71}]
}`

func seccompLocalhost(k *kit) {
	file := filepath.Join(k.hostDir(), "profile.json")
	k.ok(os.WriteFile(file, []byte(profile), 0o644), "write profile")
	sb := k.pod()
	security := runtimeiface.Security{Seccomp: runtimeiface.SeccompLocalhost, SeccompProfile: file}
	spec := k.container("mkdir", "/tmp/a")
	spec.Security = security
	c := k.ends(k.start(sb, spec), 1, runtimeiface.ReasonError)
	k.logHas(c.LogPath, "protocol error") // errno 71
	spec = k.container("write", "/tmp/b", "x", ";", "forever")
	spec.Security = security
	id := k.start(sb, spec)
	code, _, stderr := k.exec(id, "mkdir", "/tmp/a")
	k.same(code, 1, "exit code of a command that makes a directory")
	k.that(strings.Contains(stderr, "protocol error"), "standard error of the command is %q", stderr)
	plain := k.container("mkdir", "/tmp/a")
	k.outputOf(sb, plain)
}

// label is what a process reads of its own AppArmor profile.
const label = "/proc/self/attr/current"

func appArmorDefault(k *kit) {
	sb := k.pod(func(s *runtimeiface.SandboxSpec) { s.Privileged = true })
	with := func(s runtimeiface.Security, args ...string) runtimeiface.ContainerSpec {
		s.ReadonlyPaths = []string{}
		spec := k.container(args...)
		spec.Security = s
		return spec
	}
	// A setting of the sandbox's own, so that nothing is lost if it can be written.
	setting := []string{"write", "/proc/sys/kernel/hostname", "a"}
	confined := runtimeiface.Security{AppArmor: runtimeiface.AppArmorRuntimeDefault}
	c := k.ends(k.start(sb, with(confined, setting...)), 1, runtimeiface.ReasonError)
	k.logHas(c.LogPath, "permission denied")
	id := k.start(sb, with(confined, "forever"))
	code, out, _ := k.exec(id, "cat", label)
	k.that(code == 0 && strings.HasSuffix(strings.TrimSpace(out), "(enforce)"), "a command's profile is %q", out)
	for _, s := range []runtimeiface.Security{{AppArmor: runtimeiface.AppArmorUnconfined}, {Privileged: true}} {
		k.outputOf(sb, with(s, setting...))
		k.same(k.outputOf(sb, with(s, "cat", label)), "unconfined\n", "profile of %+v", s)
	}
}

func appArmorLocalhost(k *kit) {
	sb := k.pod(func(s *runtimeiface.SandboxSpec) { s.Privileged = true })
	spec := k.container("cat", label)
	spec.Security.AppArmor = runtimeiface.AppArmorRuntimeDefault
	confined := k.outputOf(sb, spec)
	name, _, _ := strings.Cut(confined, " (")
	for _, privileged := range []bool{false, true} {
		spec := k.container("cat", label)
		spec.Security = runtimeiface.Security{Privileged: privileged, AppArmor: runtimeiface.AppArmorLocalhost, AppArmorProfile: name}
		k.same(k.outputOf(sb, spec), confined, "profile of a container, privileged: %v", privileged)
	}
}

func appArmorMissing(k *kit) {
	sb := k.pod()
	spec := k.container("print", "ran")
	spec.Security = runtimeiface.Security{AppArmor: runtimeiface.AppArmorLocalhost, AppArmorProfile: "no-such-profile"}
	id, err := k.rt.CreateContainer(k.ctx, sb, spec)
	if err == nil {
		err = k.rt.StartContainer(k.ctx, id)
	}
	k.that(err != nil, "a container with a profile that nobody has loaded runs")
}

func seccompMissing(k *kit) {
	dir := k.hostDir()
	bad := filepath.Join(dir, "bad.json")
	k.ok(os.WriteFile(bad, []byte("no profile"), 0o644), "write profile")
	sb := k.pod()
	for _, file := range []string{bad, filepath.Join(dir, "missing.json")} {
		spec := k.container("print", "ran")
		spec.Security = runtimeiface.Security{Seccomp: runtimeiface.SeccompLocalhost, SeccompProfile: file}
		id, err := k.rt.CreateContainer(k.ctx, sb, spec)
		if err == nil {
			err = k.rt.StartContainer(k.ctx, id)
		}
		k.that(err != nil, "a container with profile %s runs", filepath.Base(file))
	}
	list, err := k.rt.ListContainers(k.ctx, runtimeiface.ContainerFilter{SandboxID: sb})
	k.ok(err, "list")
	k.that(!slices.ContainsFunc(list, func(c runtimeiface.Container) bool { return c.State == runtimeiface.ContainerRunning }), "one runs")
}
