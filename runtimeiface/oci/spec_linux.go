package oci

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

// ttyGroup owns terminals, as in Debian and containerd's default document.
const ttyGroup = 5

const (
	defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	defaultTerm = "TERM=xterm" // with a terminal, as containerd v2.4 has it
)

// Those of runc's "spec" command, v1.5.
var (
	defaultMasked = []string{
		"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
		"/sys/devices/virtual/powercap",
	}
	defaultReadonly = []string{
		"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
	}
)

// specInput is all that an OCI document is made of.
type specInput struct {
	sandbox   *sandbox
	container runtimeiface.ContainerSpec
	image     image.ImageConfig
	rootfs    string
	dir       string // of the container
	cgroup    string
	shimPID   int            // of the holder of the pod's namespaces
	pidNS     string         // path, for NamespacePod and NamespaceTarget
	userns    *os.File       // the pod's, nil for the node's
	volumes   map[int]string // what an image volume shows, by the number of the mount
	seccomp   bool           // the OCI runtime has it
	ownCaps   map[string]bool
	hugePages bool // limits of them can be set
}

// makeSpec gives the OCI document of a container.
func makeSpec(in specInput) (*specs.Spec, error) {
	c, sec := in.container, in.container.Security
	user, home, err := resolveUser(in.rootfs, in.image.User, sec)
	if err != nil {
		return nil, err
	}
	if err := checkUser(in.sandbox.spec.UserNamespace, user); err != nil {
		return nil, err
	}
	caps, err := capabilities(sec, in.ownCaps)
	if err != nil {
		return nil, err
	}
	mounts, propagation, err := in.mounts()
	if err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version: "1.0.2",
		Process: &specs.Process{
			User: user, Args: commandLine(in.image, c), Env: in.env(home),
			Cwd:             cmp.Or(c.WorkingDir, in.image.WorkingDir, "/"),
			Capabilities:    caps,
			NoNewPrivileges: sec.NoNewPrivileges,
			OOMScoreAdj:     oomScoreAdj(c.OOMScoreAdj, in.ownCaps),
			Terminal:        c.TTY,
		},
		Root:   &specs.Root{Path: in.rootfs, Readonly: sec.ReadOnlyRootFS},
		Mounts: mounts,
		Linux: &specs.Linux{
			CgroupsPath: in.cgroup, Namespaces: in.namespaces(), RootfsPropagation: propagation,
			MaskedPaths: defaultMasked, ReadonlyPaths: defaultReadonly,
		},
	}
	if in.sandbox.Systemd {
		// Crun has processes in a sub-cgroup of the scope unless it is told not to.
		s.Annotations = map[string]string{"run.oci.systemd.subgroup": ""}
	}
	if u := in.sandbox.spec.UserNamespace; u != nil {
		s.Linux.UIDMappings, s.Linux.GIDMappings = u.UIDs, u.GIDs
	}
	if sec.MaskedPaths != nil {
		s.Linux.MaskedPaths = sec.MaskedPaths
	}
	if sec.ReadonlyPaths != nil {
		s.Linux.ReadonlyPaths = sec.ReadonlyPaths
	}
	if sec.Privileged {
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
	}
	if err := in.resources(s); err != nil {
		return nil, err
	}
	if err := in.confine(s); err != nil {
		return nil, err
	}
	return s, in.filter(s)
}

// commandLine follows Kubernetes: Command replaces entry point and arguments,
// Args the arguments alone. An empty one is an error of the start.
func commandLine(img image.ImageConfig, c runtimeiface.ContainerSpec) []string {
	var args []string
	switch {
	case len(c.Command) > 0:
		args = slices.Concat(c.Command, c.Args)
	case len(c.Args) > 0:
		args = slices.Concat(img.Entrypoint, c.Args)
	default:
		args = slices.Concat(img.Entrypoint, img.Cmd)
	}
	if len(args) == 0 {
		return []string{""}
	}
	return args
}

func (in specInput) env(home string) []string {
	defaults := []string{defaultPath, "HOME=" + home}
	if in.sandbox.spec.Network != runtimeiface.NamespaceHost {
		defaults = append(defaults, "HOSTNAME="+in.sandbox.hostname())
	}
	if in.container.TTY {
		defaults = append(defaults, defaultTerm)
	}
	var out []string
	at := map[string]int{}
	for _, v := range slices.Concat(defaults, in.image.Env, in.container.Env) {
		name, _, _ := strings.Cut(v, "=")
		if i, ok := at[name]; ok {
			out[i] = v
			continue
		}
		at[name] = len(out)
		out = append(out, v)
	}
	return out
}

func (in specInput) namespaces() []specs.LinuxNamespace {
	pod := in.sandbox.spec
	of := func(name string) string { return fmt.Sprintf("/proc/%d/ns/%s", in.shimPID, name) }
	out := []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.CgroupNamespace}}
	if pod.UserNamespace != nil {
		out = append(out, specs.LinuxNamespace{Type: specs.UserNamespace, Path: of("user")})
	}
	if pod.Network != runtimeiface.NamespaceHost {
		out = append(out,
			specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: of("net")},
			specs.LinuxNamespace{Type: specs.UTSNamespace, Path: of("uts")})
	}
	if pod.IPC != runtimeiface.NamespaceHost {
		out = append(out, specs.LinuxNamespace{Type: specs.IPCNamespace, Path: of("ipc")})
	}
	switch pidMode(pod, in.container) {
	case runtimeiface.NamespaceContainer:
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace})
	case runtimeiface.NamespacePod, runtimeiface.NamespaceTarget:
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: in.pidNS})
	}
	return out
}

func pidMode(pod runtimeiface.SandboxSpec, c runtimeiface.ContainerSpec) runtimeiface.NamespaceMode {
	return cmp.Or(c.PID, pod.PID, runtimeiface.NamespaceContainer)
}

// mounts gives those that every container has, without those that the caller
// replaces, then the caller's, parents first.
func (in specInput) mounts() ([]specs.Mount, string, error) {
	ro := "ro"
	if in.container.Security.Privileged {
		ro = "rw"
	}
	shm := filepath.Join(in.sandbox.dir, shmDir)
	if in.sandbox.spec.IPC == runtimeiface.NamespaceHost {
		shm = "/dev/shm"
	}
	pts := []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
	if u := in.sandbox.spec.UserNamespace; u == nil || isMapped(u.GIDs, ttyGroup) {
		pts = append(pts, "gid="+strconv.Itoa(ttyGroup))
	}
	defaults := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: pts},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "bind", Source: shm, Options: []string{"rbind", "nosuid", "noexec", "nodev", "rw"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", ro}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", ro}},
	}
	for _, name := range []string{hostnameFile, resolvFile} {
		m, err := in.mapMount("UserNamespace", specs.Mount{
			Destination: "/etc/" + name, Type: "bind", Source: filepath.Join(in.sandbox.dir, name),
			Options: []string{"bind", "rprivate", "rw"},
		})
		if err != nil {
			return nil, "", err
		}
		defaults = append(defaults, m)
	}
	propagation := ""
	var theirs []specs.Mount
	for i, m := range in.container.Mounts {
		m.Destination = filepath.Clean(m.Destination)
		m.Options = slices.Clone(m.Options)
		field := fmt.Sprintf("Mounts[%d]", i)
		switch {
		case m.Type == "bind":
			if _, err := os.Stat(m.Source); err != nil {
				return nil, "", invalid(field+".Source", err.Error())
			}
			m.Options = bindOptions(m.Options)
			if err := in.checkPropagation(field, m); err != nil {
				return nil, "", err
			}
			propagation = widest(propagation, m.Options)
			var err error
			if m, err = in.mapMount(field, m); err != nil {
				return nil, "", err
			}
		case m.Type == "image":
			m = volumeMount(m, in.volumes[i])
		case m.Source == "":
			m.Source = "tmpfs"
		}
		theirs = append(theirs, m)
	}
	defaults = slices.DeleteFunc(defaults, func(d specs.Mount) bool {
		return slices.ContainsFunc(theirs, func(m specs.Mount) bool { return m.Destination == d.Destination })
	})
	slices.SortStableFunc(theirs, func(a, b specs.Mount) int {
		return cmp.Compare(strings.Count(a.Destination, "/"), strings.Count(b.Destination, "/"))
	})
	return slices.Concat(defaults, theirs), propagation, nil
}

// checkPropagation refuses what the kernel would take and not do: a mount that
// is private on the node stays private in the container.
func (in specInput) checkPropagation(field string, m specs.Mount) error {
	both := slices.Contains(m.Options, "rshared") || slices.Contains(m.Options, "shared")
	if !both && !slices.Contains(m.Options, "rslave") && !slices.Contains(m.Options, "slave") {
		return nil
	}
	if both && in.userns != nil {
		return notSupported(field+".Options", "has shared: no mount leads from a user namespace to the node")
	}
	point, peers, err := propagationOf(m.Source)
	if err != nil {
		return fmt.Errorf("%s: propagation of %s: %w", field, m.Source, err)
	}
	if peers.shared || !both && peers.slave {
		return nil
	}
	return invalid(field+".Source", fmt.Sprintf("%s is on %s, which is not a shared mount", m.Source, point))
}

func bindOptions(options []string) []string {
	if !slices.Contains(options, "bind") && !slices.Contains(options, "rbind") {
		options = append(options, "rbind")
	}
	for _, p := range []string{"private", "rprivate", "slave", "rslave", "shared", "rshared"} {
		if slices.Contains(options, p) {
			return options
		}
	}
	return append(options, "rprivate")
}

// widest is the propagation of the root that the mounts need.
func widest(now string, options []string) string {
	switch {
	case slices.Contains(options, "rshared") || slices.Contains(options, "shared"):
		return "rshared"
	case now == "" && (slices.Contains(options, "rslave") || slices.Contains(options, "slave")):
		return "rslave"
	}
	return now
}

// oomScoreAdj is not below the agent's own when that may not be.
func oomScoreAdj(want int, own map[string]bool) *int {
	if !own["CAP_SYS_RESOURCE"] {
		data, _ := os.ReadFile("/proc/self/oom_score_adj")
		var have int
		if _, err := fmt.Sscan(string(data), &have); err == nil {
			want = max(want, have)
		}
	}
	return &want
}
