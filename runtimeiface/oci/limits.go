package oci

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Limits of what a caller may give, far above what pods need, so that nobody
// fills memory or disk with one request, and so that what the kernel or the
// shim's protocol would refuse later is told by field.
const (
	maxName     = 512
	maxPath     = 4095        // PATH_MAX without its zero
	maxArgument = 128<<10 - 1 // MAX_ARG_STRLEN without its zero, Linux 6.18 include/uapi/linux/binfmts.h
	maxCommand  = 6 << 20     // of all arguments and the environment, the most that execve takes
	maxWords    = 64 << 10    // entries of arguments or environment
	maxTable    = 4096        // entries of labels, of annotations
	maxText     = 1 << 20     // bytes of labels, of annotations
	maxList     = 1024        // entries of other lists
	maxSmall    = 64 << 10    // bytes of tables that go to the shim, in one message
	maxFaults   = 32          // errors told at once
	maxGroups   = 64 << 10    // NGROUPS_MAX
)

// limits collects what is too much, or cannot be a name or path.
type limits []error

func (l *limits) add(bad bool, field, format string, args ...any) {
	if bad && len(*l) < maxFaults {
		*l = append(*l, invalid(field, fmt.Sprintf(format, args...)))
	}
}

// count gives how many of n entries are to be looked at.
func (l *limits) count(field string, n, most int) int {
	l.add(n > most, field, "has %d entries, more than %d", n, most)
	return min(n, most)
}

func (l *limits) text(field, s string, most int) {
	l.add(len(s) > most, field, "is longer than %d bytes", most)
	l.add(strings.IndexByte(s, 0) >= 0, field, "has a zero byte")
}

// word is text that is shown in lines of its own.
func (l *limits) word(field, s string, most int) {
	l.text(field, s, most)
	l.add(strings.IndexFunc(s, unicode.IsControl) >= 0, field, "has a control character")
}

func (l *limits) texts(field string, list []string, entries, each int) {
	for i := range l.count(field, len(list), entries) {
		l.text(fmt.Sprintf("%s[%d]", field, i), list[i], each)
	}
}

func (l *limits) table(field string, m map[string]string, entries, all int) {
	size := 0
	for name, value := range m {
		size += len(name) + len(value)
	}
	l.count(field, len(m), entries)
	l.add(size > all, field, "have %d bytes together, more than %d", size, all)
}

func sandboxLimits(spec runtimeiface.SandboxSpec) error {
	var l limits
	l.word("Name", spec.Name, maxName)
	l.word("Namespace", spec.Namespace, maxName)
	l.word("UID", spec.UID, maxName)
	l.word("Hostname", spec.Hostname, maxName)
	l.text("LogDirectory", spec.LogDirectory, maxPath)
	l.word("CgroupParent", spec.CgroupParent, maxPath)
	l.table("Labels", spec.Labels, maxTable, maxText)
	l.table("Annotations", spec.Annotations, maxTable, maxText)
	l.count("PortMappings", len(spec.PortMappings), maxList)
	if d := spec.DNS; d != nil {
		l.texts("DNS.Servers", d.Servers, maxList, maxName)
		l.texts("DNS.Searches", d.Searches, maxList, maxName)
		l.texts("DNS.Options", d.Options, maxList, maxName)
	}
	l.table("Sysctls", spec.Sysctls, maxList, maxSmall)
	if len(spec.Sysctls) <= maxList {
		for _, name := range slices.Sorted(maps.Keys(spec.Sysctls)) {
			l.word(fmt.Sprintf("Sysctls[%.64s]", name), name, maxName)
			l.text(fmt.Sprintf("Sysctls[%.64s]", name), spec.Sysctls[name], maxPath)
			l.add(strings.Contains(spec.Sysctls[name], "\n"), fmt.Sprintf("Sysctls[%.64s]", name), "has a newline")
		}
	}
	return errors.Join(l...)
}

func containerLimits(spec runtimeiface.ContainerSpec) error {
	var l limits
	l.word("Name", spec.Name, maxName)
	l.text("Image", spec.Image, maxPath)
	l.texts("Command", spec.Command, maxWords, maxArgument)
	l.texts("Args", spec.Args, maxWords, maxArgument)
	l.texts("Env", spec.Env, maxWords, maxArgument)
	size := 0
	for _, list := range [][]string{spec.Command, spec.Args, spec.Env} {
		for _, s := range list {
			size += len(s) + 1
		}
	}
	l.add(size > maxCommand, "Command, Args and Env", "have %d bytes together, more than %d", size, maxCommand)
	l.text("WorkingDir", spec.WorkingDir, maxPath)
	l.text("LogPath", spec.LogPath, maxPath)
	l.table("Labels", spec.Labels, maxTable, maxText)
	l.table("Annotations", spec.Annotations, maxTable, maxText)
	for i := range l.count("Mounts", len(spec.Mounts), maxList) {
		l.mount(fmt.Sprintf("Mounts[%d]", i), spec.Mounts[i])
	}
	for i := range l.count("Devices", len(spec.Devices), maxList) {
		l.device(fmt.Sprintf("Devices[%d]", i), spec.Devices[i])
	}
	l.security(spec.Security)
	if spec.Resources != nil {
		l.resources(*spec.Resources)
	}
	return errors.Join(l...)
}

// commandLimits is for the command of an exec.
func commandLimits(command []string) error {
	var l limits
	l.texts("Command", command, maxWords, maxArgument)
	return errors.Join(l...)
}

// resourceLimits is for those of an update.
func resourceLimits(r specs.LinuxResources) error {
	var l limits
	l.resources(r)
	return errors.Join(l...)
}

func (l *limits) mount(field string, m specs.Mount) {
	l.text(field+".Destination", m.Destination, maxPath)
	l.text(field+".Source", m.Source, maxPath)
	l.texts(field+".Options", m.Options, maxList, maxPath)
	l.add(len(m.UIDMappings)+len(m.GIDMappings) > 0, field, "cannot have mappings of its own: they are the sandbox's UserNamespace's")
}

func (l *limits) device(field string, d specs.LinuxDevice) {
	l.word(field+".Path", d.Path, maxPath)
	l.add(!strings.HasPrefix(d.Path, "/") || path.Clean(d.Path) != d.Path || d.Path == "/", field+".Path",
		"is not a clean absolute path below /: %.200q", d.Path)
	l.add(!slices.Contains([]string{"", "c", "u", "b"}, d.Type), field+".Type", "cannot be %.20q", d.Type)
	l.add(d.Major < 0 || d.Minor < 0 || d.Major >= 1<<12 || d.Minor >= 1<<20, field, "has numbers that no device has")
}

func (l *limits) security(s runtimeiface.Security) {
	l.texts("Security.AddCapabilities", s.AddCapabilities, maxList, maxName)
	l.texts("Security.DropCapabilities", s.DropCapabilities, maxList, maxName)
	l.count("Security.SupplementalGroups", len(s.SupplementalGroups), maxGroups)
	l.text("Security.SeccompProfile", s.SeccompProfile, maxPath)
	l.text("Security.AppArmorProfile", s.AppArmorProfile, maxName)
	if label := s.SELinux; label != nil {
		for _, part := range []string{label.User, label.Role, label.Type, label.Level} {
			l.text("Security.SELinux", part, maxName)
		}
	}
	for _, list := range []struct {
		field string
		paths []string
	}{{"Security.MaskedPaths", s.MaskedPaths}, {"Security.ReadonlyPaths", s.ReadonlyPaths}} {
		l.texts(list.field, list.paths, maxList, maxPath)
		for i := range min(len(list.paths), maxList) {
			p := list.paths[i]
			l.add(!path.IsAbs(p) || path.Clean(p) != p || p == "/", fmt.Sprintf("%s[%d]", list.field, i), "is not a clean absolute path below /: %.200q", p)
		}
	}
}

func (l *limits) resources(r specs.LinuxResources) {
	for i := range l.count("Resources.Devices", len(r.Devices), maxList) {
		field, d := fmt.Sprintf("Resources.Devices[%d]", i), r.Devices[i]
		l.add(!slices.Contains([]string{"", "a", "b", "c"}, d.Type), field+".Type", "cannot be %.20q", d.Type)
		l.add(len(d.Access) > 3 || strings.Trim(d.Access, "rwm") != "", field+".Access", "is not of r, w and m: %.20q", d.Access)
	}
	l.count("Resources.HugepageLimits", len(r.HugepageLimits), maxList)
	l.count("Resources.Rdma", len(r.Rdma), maxList)
	l.table("Resources.Unified", r.Unified, maxList, maxSmall)
	if len(r.Unified) <= maxList {
		for _, name := range slices.Sorted(maps.Keys(r.Unified)) {
			l.word(fmt.Sprintf("Resources.Unified[%.64s]", name), name, maxName)
			l.add(name == "" || strings.Contains(name, "/"), fmt.Sprintf("Resources.Unified[%.64s]", name), "is no file of a cgroup")
		}
	}
	if r.CPU != nil {
		l.word("Resources.CPU.Cpus", r.CPU.Cpus, maxPath)
		l.word("Resources.CPU.Mems", r.CPU.Mems, maxPath)
	}
	if b := r.BlockIO; b != nil {
		l.count("Resources.BlockIO", len(b.WeightDevice)+len(b.ThrottleReadBpsDevice)+len(b.ThrottleWriteBpsDevice)+
			len(b.ThrottleReadIOPSDevice)+len(b.ThrottleWriteIOPSDevice), maxList)
	}
	if n := r.Network; n != nil {
		l.count("Resources.Network.Priorities", len(n.Priorities), maxList)
	}
}
