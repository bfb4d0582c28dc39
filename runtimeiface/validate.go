package runtimeiface

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
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
	bad.mode("PID", s.PID, NamespacePod, NamespaceContainer, NamespaceHost)
	bad.add(s.OOMScoreAdj < -1000 || s.OOMScoreAdj > 1000, "OOMScoreAdj", "is not within -1000 and 1000")
	for i, env := range s.Env {
		bad.add(strings.Index(env, "=") < 1 || strings.Contains(env, "\x00"), fmt.Sprintf("Env[%d]", i), "is not NAME=value")
	}
	for i, m := range s.Mounts {
		field := fmt.Sprintf("Mounts[%d]", i)
		bad.add(!strings.HasPrefix(m.Destination, "/") || filepath.Clean(m.Destination) == "/", field+".Destination",
			"is not an absolute path below /: %s", m.Destination)
		bad.add(m.Type != "bind" && m.Type != "tmpfs", field+".Type", "cannot be %s", m.Type)
		bad.add(m.Type == "bind" && !filepath.IsAbs(m.Source), field+".Source", "is not absolute: %s", m.Source)
	}
	s.Security.check(&bad)
	return errors.Join(bad...)
}

func (s Security) check(bad *faults) {
	known := []SeccompType{"", SeccompUnconfined, SeccompRuntimeDefault, SeccompLocalhost}
	bad.add(!slices.Contains(known, s.Seccomp), "Security.Seccomp", "cannot be %s", s.Seccomp)
	bad.add(s.Seccomp == SeccompLocalhost && !filepath.IsAbs(s.SeccompProfile), "Security.SeccompProfile", "is not an absolute path")
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
