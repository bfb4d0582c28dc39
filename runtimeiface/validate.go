package runtimeiface

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxHostname is the kernel's limit of a host name.
const maxHostname = 64

// faults collects bad fields.
type faults []error

func (f *faults) add(bad bool, field, format string, args ...any) {
	if bad {
		*f = append(*f, fmt.Errorf("%w: %s %s", ErrInvalid, field, fmt.Sprintf(format, args...)))
	}
}

func (f *faults) mode(field string, mode NamespaceMode, allowed ...NamespaceMode) {
	f.add(mode != "" && !slices.Contains(allowed, mode), field, "cannot be %s", mode)
}

// Validate reports all fields that no backend can honour, each as an
// ErrInvalid with the field's name. What one backend lacks is for it to say.
func (s SandboxSpec) Validate() error {
	var bad faults
	bad.add(s.Name == "", "Name", "is required")
	bad.add(s.Namespace == "", "Namespace", "is required")
	bad.add(s.UID == "", "UID", "is required")
	bad.add(len(s.Hostname) > maxHostname, "Hostname", "is longer than %d bytes", maxHostname)
	bad.add(strings.ContainsAny(s.Hostname+s.Name, "\n\x00"), "Hostname", "has a newline or a zero byte")
	bad.add(s.LogDirectory != "" && !filepath.IsAbs(s.LogDirectory), "LogDirectory", "is not absolute: %s", s.LogDirectory)
	bad.add(s.CgroupParent != "" && !belowRoot(s.CgroupParent), "CgroupParent", "is not a clean absolute path below /: %s", s.CgroupParent)
	bad.mode("Network", s.Network, NamespacePod, NamespaceHost)
	bad.mode("IPC", s.IPC, NamespacePod, NamespaceHost)
	bad.mode("PID", s.PID, NamespacePod, NamespaceContainer, NamespaceHost)
	for i, p := range s.PortMappings {
		known := p.Protocol == "TCP" || p.Protocol == "UDP" || p.Protocol == "SCTP"
		bad.add(!known || p.ContainerPort == 0, fmt.Sprintf("PortMappings[%d]", i), "wants a protocol and a container port")
	}
	if u := s.UserNamespace; u != nil {
		bad.add(s.Network == NamespaceHost || s.PID == NamespaceHost || s.IPC == NamespaceHost, "UserNamespace",
			"excludes mode host of Network, PID and IPC")
		checkMappings(&bad, "UserNamespace.UIDs", u.UIDs)
		checkMappings(&bad, "UserNamespace.GIDs", u.GIDs)
	}
	if s.DNS != nil {
		for i, server := range s.DNS.Servers {
			_, err := netip.ParseAddr(server)
			bad.add(err != nil, fmt.Sprintf("DNS.Servers[%d]", i), "is no address: %s", server)
		}
		words := strings.Join(slices.Concat(s.DNS.Searches, s.DNS.Options), "")
		bad.add(strings.ContainsAny(words, "\n\x00"), "DNS", "has a newline or a zero byte")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Sysctls)) {
		s.checkSysctl(&bad, name)
	}
	return errors.Join(bad...)
}

// maxMappings is the kernel's limit of lines in uid_map, since Linux 4.15.
const maxMappings = 340

func checkMappings(bad *faults, field string, list []specs.LinuxIDMapping) {
	bad.add(len(list) == 0 || len(list) > maxMappings, field, "has %d ranges, not 1 to %d", len(list), maxMappings)
	overlap := func(a, b, sizeA, sizeB uint32) bool {
		return uint64(a) < uint64(b)+uint64(sizeB) && uint64(b) < uint64(a)+uint64(sizeA)
	}
	root := false
	for i, m := range list[:min(len(list), maxMappings)] {
		at := fmt.Sprintf("%s[%d]", field, i)
		last := uint64(max(m.ContainerID, m.HostID)) + uint64(m.Size)
		bad.add(m.Size == 0 || last > math.MaxUint32, at, "has no size, or one past the last ID")
		root = root || m.ContainerID == 0
		for j, o := range list[:i] {
			if overlap(m.ContainerID, o.ContainerID, m.Size, o.Size) || overlap(m.HostID, o.HostID, m.Size, o.Size) {
				bad.add(true, at, "overlaps with range %d", j)
				break // one is enough: there may be many
			}
		}
	}
	bad.add(len(list) > 0 && !root, field, "does not map ID 0")
}

// checkSysctl lets through those that the pod's own namespaces hold.
func (s SandboxSpec) checkSysctl(bad *faults, name string) {
	field := fmt.Sprintf("Sysctls[%s]", name)
	ipc := strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") ||
		name == "kernel.sem" || strings.HasPrefix(name, "fs.mqueue.")
	net := strings.HasPrefix(name, "net.")
	bad.add(strings.Contains(name, "..") || strings.ContainsAny(name, "\x00 "), field, "is no name")
	bad.add(!ipc && !net, field, "is not in a namespace of the pod")
	bad.add(ipc && s.IPC == NamespaceHost, field, "belongs to the node: IPC is host")
	bad.add(net && s.Network == NamespaceHost, field, "belongs to the node: Network is host")
}

// Validate reports all fields that no backend can honour, each as an ErrInvalid
// with the field's name. Whether the image, the sources of mounts and the
// sandbox's LogDirectory are there is for the backend to find.
func (s ContainerSpec) Validate() error {
	var bad faults
	bad.add(s.Name == "", "Name", "is required")
	bad.add(s.Image == "", "Image", "is required")
	bad.add(s.LogPath != "" && (!filepath.IsLocal(s.LogPath) || filepath.Clean(s.LogPath) == "."), "LogPath",
		"is not below the log directory: %s", s.LogPath)
	bad.add(s.WorkingDir != "" && !strings.HasPrefix(s.WorkingDir, "/"), "WorkingDir", "is not absolute: %s", s.WorkingDir)
	bad.mode("PID", s.PID, NamespacePod, NamespaceContainer, NamespaceHost, NamespaceTarget)
	bad.add((s.PID == NamespaceTarget) != (s.PIDTarget != ""), "PIDTarget", "is for PID target, and needed there")
	bad.add(s.OOMScoreAdj < -1000 || s.OOMScoreAdj > 1000, "OOMScoreAdj", "is not within -1000 and 1000")
	for i, env := range s.Env {
		bad.add(strings.Index(env, "=") < 1 || strings.Contains(env, "\x00"), fmt.Sprintf("Env[%d]", i), "is not NAME=value")
	}
	for i, m := range s.Mounts {
		field := fmt.Sprintf("Mounts[%d]", i)
		bad.add(!strings.HasPrefix(m.Destination, "/") || filepath.Clean(m.Destination) == "/", field+".Destination",
			"is not an absolute path below /: %s", m.Destination)
		bad.add(!slices.Contains([]string{"bind", "tmpfs", "image"}, m.Type), field+".Type", "cannot be %s", m.Type)
		bad.add(m.Type == "bind" && !filepath.IsAbs(m.Source), field+".Source", "is not absolute: %s", m.Source)
		if m.Type == "image" {
			bad.add(m.Source == "", field+".Source", "is required: an image's ID")
			bad.add(slices.Contains(m.Options, "rw"), field+".Options", "cannot have rw: images are read-only")
			sub, _ := ImageSubpath(m.Options)
			bad.add(sub != "" && (!filepath.IsLocal(sub) || strings.Contains(sub, "\x00")), field+".Options", "has a subpath that leaves the image: %s", sub)
		}
	}
	s.Security.check(&bad)
	return errors.Join(bad...)
}

func (s Security) check(bad *faults) {
	known := []SeccompType{"", SeccompUnconfined, SeccompRuntimeDefault, SeccompLocalhost}
	bad.add(!slices.Contains(known, s.Seccomp), "Security.Seccomp", "cannot be %s", s.Seccomp)
	bad.add(s.Seccomp == SeccompLocalhost && !filepath.IsAbs(s.SeccompProfile), "Security.SeccompProfile", "is not an absolute path")
	bad.add(!slices.Contains([]AppArmorType{"", AppArmorUnconfined, AppArmorRuntimeDefault, AppArmorLocalhost}, s.AppArmor),
		"Security.AppArmor", "cannot be %s", s.AppArmor)
	bad.add(s.AppArmor == AppArmorLocalhost && strings.TrimSpace(s.AppArmorProfile) == "", "Security.AppArmorProfile", "is required")
	for field, names := range map[string][]string{"Security.AddCapabilities": s.AddCapabilities, "Security.DropCapabilities": s.DropCapabilities} {
		for _, name := range names {
			bad.add(name == "" || strings.HasPrefix(name, "CAP_") || strings.ToUpper(name) != name, field, "has no capability's name: %q", name)
		}
	}
	id := func(field string, value *int64) {
		bad.add(value != nil && (*value < 0 || *value > 1<<31-1), field, "is no ID")
	}
	id("Security.RunAsUser", s.RunAsUser)
	id("Security.RunAsGroup", s.RunAsGroup)
	for i := range s.SupplementalGroups {
		id(fmt.Sprintf("Security.SupplementalGroups[%d]", i), &s.SupplementalGroups[i])
	}
}

// belowRoot is for paths of cgroups, which have slashes on every system.
func belowRoot(path string) bool {
	return strings.HasPrefix(path, "/") && path != "/" && !strings.HasSuffix(path, "/") &&
		!strings.Contains(path, "//") && !strings.Contains(path+"/", "/./") && !strings.Contains(path+"/", "/../")
}
