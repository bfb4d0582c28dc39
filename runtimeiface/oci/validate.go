package oci

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/nodekit/nodekit/runtimeiface"
)

// checkSandbox names the first bad field.
func checkSandbox(spec runtimeiface.SandboxSpec, handlers map[string]string) error {
	_, handler := handlers[spec.RuntimeHandler]
	switch {
	case spec.Name == "":
		return invalid("Name", "is required")
	case spec.Namespace == "":
		return invalid("Namespace", "is required")
	case spec.UID == "":
		return invalid("UID", "is required")
	case len(spec.Hostname) > 64:
		return invalid("Hostname", "is longer than 64 bytes")
	case strings.ContainsAny(spec.Hostname+spec.Name, "\n\x00"):
		return invalid("Hostname", "has a newline or a zero byte")
	case spec.LogDirectory != "" && !filepath.IsAbs(spec.LogDirectory):
		return invalid("LogDirectory", "is not absolute: "+spec.LogDirectory)
	case spec.CgroupParent != "" && (!cleanAbs(spec.CgroupParent) || spec.CgroupParent == "/"):
		return invalid("CgroupParent", "is not a clean absolute path below /: "+spec.CgroupParent)
	case !modeIn(spec.Network, runtimeiface.NamespacePod, runtimeiface.NamespaceHost):
		return invalid("Network", "cannot be "+string(spec.Network))
	case !modeIn(spec.IPC, runtimeiface.NamespacePod, runtimeiface.NamespaceHost):
		return invalid("IPC", "cannot be "+string(spec.IPC))
	case !modeIn(spec.PID, runtimeiface.NamespacePod, runtimeiface.NamespaceContainer, runtimeiface.NamespaceHost):
		return invalid("PID", "cannot be "+string(spec.PID))
	case !handler:
		return notSupported("RuntimeHandler", "is not configured: "+spec.RuntimeHandler)
	}
	for i, p := range spec.PortMappings {
		field := fmt.Sprintf("PortMappings[%d]", i)
		if p.Protocol != "TCP" && p.Protocol != "UDP" && p.Protocol != "SCTP" || p.ContainerPort == 0 {
			return invalid(field, "wants a protocol and a container port")
		}
		if p.HostPort != 0 {
			return notSupported(field+".HostPort", "needs rules that this backend does not make")
		}
	}
	if d := spec.DNS; d != nil {
		for i, s := range d.Servers {
			if _, err := netip.ParseAddr(s); err != nil {
				return invalid(fmt.Sprintf("DNS.Servers[%d]", i), "is no address: "+s)
			}
		}
		if strings.ContainsAny(strings.Join(append(d.Searches, d.Options...), ""), "\n\x00") {
			return invalid("DNS", "has a newline")
		}
	}
	return checkSysctls(spec)
}

// checkSysctls lets through those that the pod's own namespaces hold.
func checkSysctls(spec runtimeiface.SandboxSpec) error {
	for name := range spec.Sysctls {
		field := fmt.Sprintf("Sysctls[%s]", name)
		ipc := strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") ||
			name == "kernel.sem" || strings.HasPrefix(name, "fs.mqueue.")
		net := strings.HasPrefix(name, "net.")
		switch {
		case strings.Contains(name, "..") || strings.ContainsAny(name, "\x00 "):
			return invalid(field, "is no name")
		case !ipc && !net:
			return invalid(field, "is not in a namespace of the pod")
		case ipc && spec.IPC == runtimeiface.NamespaceHost:
			return invalid(field, "belongs to the node: IPC is host")
		case net && spec.Network == runtimeiface.NamespaceHost:
			return invalid(field, "belongs to the node: Network is host")
		}
	}
	return nil
}

func modeIn(m runtimeiface.NamespaceMode, list ...runtimeiface.NamespaceMode) bool {
	for _, v := range list {
		if m == v {
			return true
		}
	}
	return m == ""
}

// checkContainer names the first bad field.
func checkContainer(pod runtimeiface.SandboxSpec, spec runtimeiface.ContainerSpec) error {
	sec := spec.Security
	switch {
	case spec.Name == "":
		return invalid("Name", "is required")
	case spec.Image == "":
		return invalid("Image", "is required")
	case spec.LogPath != "" && (!filepath.IsLocal(spec.LogPath) || filepath.Clean(spec.LogPath) == "."):
		return invalid("LogPath", "is not below the log directory: "+spec.LogPath)
	case spec.LogPath != "" && pod.LogDirectory == "":
		return invalid("LogPath", "wants the sandbox's LogDirectory")
	case spec.WorkingDir != "" && !filepath.IsAbs(spec.WorkingDir):
		return invalid("WorkingDir", "is not absolute: "+spec.WorkingDir)
	case !modeIn(spec.PID, runtimeiface.NamespacePod, runtimeiface.NamespaceContainer, runtimeiface.NamespaceHost):
		return invalid("PID", "cannot be "+string(spec.PID))
	case spec.TTY:
		return notSupported("TTY", "a terminal as the container's streams")
	case sec.Seccomp != "" && sec.Seccomp != runtimeiface.SeccompUnconfined &&
		sec.Seccomp != runtimeiface.SeccompRuntimeDefault && sec.Seccomp != runtimeiface.SeccompLocalhost:
		return invalid("Security.Seccomp", "cannot be "+string(sec.Seccomp))
	case sec.Seccomp == runtimeiface.SeccompLocalhost && !filepath.IsAbs(sec.SeccompProfile):
		return invalid("Security.SeccompProfile", "is not an absolute path")
	case spec.OOMScoreAdj < -1000 || spec.OOMScoreAdj > 1000:
		return invalid("OOMScoreAdj", "is not within -1000 and 1000")
	}
	ids := map[string]*int64{"Security.RunAsUser": sec.RunAsUser, "Security.RunAsGroup": sec.RunAsGroup}
	for i, gid := range sec.SupplementalGroups {
		ids[fmt.Sprintf("Security.SupplementalGroups[%d]", i)] = &gid
	}
	for field, id := range ids {
		if id != nil && (*id < 0 || *id > 1<<31-1) {
			return invalid(field, "is no ID")
		}
	}
	for i, env := range spec.Env {
		if strings.Index(env, "=") < 1 || strings.Contains(env, "\x00") {
			return invalid(fmt.Sprintf("Env[%d]", i), "is not NAME=value")
		}
	}
	for i, m := range spec.Mounts {
		field := fmt.Sprintf("Mounts[%d]", i)
		switch {
		case !filepath.IsAbs(m.Destination) || filepath.Clean(m.Destination) == "/":
			return invalid(field+".Destination", "is not an absolute path below /: "+m.Destination)
		case m.Type != "tmpfs" && m.Type != "bind":
			return invalid(field+".Type", "cannot be "+m.Type)
		case m.Type == "bind" && !filepath.IsAbs(m.Source):
			return invalid(field+".Source", "is not absolute: "+m.Source)
		}
	}
	return nil
}
