package runtimetest

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodekit/nodekit/runtimeiface"
)

// signals of linux on every architecture but mips and sparc, without "SIG".
var signals = map[string]int32{
	"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "BUS": 7, "FPE": 8, "KILL": 9,
	"USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15, "STKFLT": 16, "CHLD": 17,
	"CONT": 18, "STOP": 19, "TSTP": 20, "TTIN": 21, "TTOU": 22, "URG": 23, "XCPU": 24, "XFSZ": 25,
	"VTALRM": 26, "PROF": 27, "WINCH": 28, "IO": 29, "PWR": 30, "SYS": 31,
}

func (f *Fake) checkContainer(spec runtimeiface.ContainerSpec) error {
	sec := spec.Security
	switch {
	case spec.Name == "":
		return invalid("Name", "is required")
	case spec.Image == "":
		return invalid("Image", "is required")
	case spec.LogPath != "" && !filepath.IsLocal(spec.LogPath):
		return invalid("LogPath", "leaves the log directory: "+spec.LogPath)
	case spec.WorkingDir != "" && !strings.HasPrefix(spec.WorkingDir, "/"):
		return invalid("WorkingDir", "is not absolute: "+spec.WorkingDir)
	case spec.StopSignal != "" && signals[strings.TrimPrefix(spec.StopSignal, "SIG")] == 0:
		return invalid("StopSignal", "is no signal: "+spec.StopSignal)
	case !oneOf(spec.PID, "", runtimeiface.NamespacePod, runtimeiface.NamespaceContainer, runtimeiface.NamespaceHost):
		return invalid("PID", "cannot be "+string(spec.PID))
	case !oneOf(sec.Seccomp, "", runtimeiface.SeccompUnconfined, runtimeiface.SeccompRuntimeDefault, runtimeiface.SeccompLocalhost):
		return invalid("Security.Seccomp", "cannot be "+string(sec.Seccomp))
	case sec.Seccomp == runtimeiface.SeccompLocalhost && !filepath.IsAbs(sec.SeccompProfile):
		return invalid("Security.SeccompProfile", "is not an absolute path")
	}
	for i, env := range spec.Env {
		if strings.Index(env, "=") < 1 {
			return invalid(fmt.Sprintf("Env[%d]", i), "is not NAME=value")
		}
	}
	for i, m := range spec.Mounts {
		field := fmt.Sprintf("Mounts[%d]", i)
		switch {
		case !strings.HasPrefix(m.Destination, "/"):
			return invalid(field+".Destination", "is not absolute: "+m.Destination)
		case m.Type == "tmpfs":
		case m.Type != "bind":
			return invalid(field+".Type", "cannot be "+m.Type)
		case !filepath.IsAbs(m.Source):
			return invalid(field+".Source", "is not absolute: "+m.Source)
		default:
			if err := f.stat(m.Source); err != nil {
				return invalid(field+".Source", err.Error())
			}
		}
	}
	return nil
}

// copySandboxSpec copies what outlives the call.
func copySandboxSpec(spec runtimeiface.SandboxSpec) runtimeiface.SandboxSpec {
	spec.Labels, spec.Annotations = maps.Clone(spec.Labels), maps.Clone(spec.Annotations)
	spec.Sysctls, spec.PortMappings = maps.Clone(spec.Sysctls), slices.Clone(spec.PortMappings)
	if spec.DNS != nil {
		dns := *spec.DNS
		dns.Servers, dns.Searches, dns.Options = slices.Clone(dns.Servers), slices.Clone(dns.Searches), slices.Clone(dns.Options)
		spec.DNS = &dns
	}
	return spec
}

// copySpec copies what outlives the call.
func copySpec(spec runtimeiface.ContainerSpec) runtimeiface.ContainerSpec {
	spec.Command, spec.Args, spec.Env = slices.Clone(spec.Command), slices.Clone(spec.Args), slices.Clone(spec.Env)
	spec.Labels, spec.Annotations = maps.Clone(spec.Labels), maps.Clone(spec.Annotations)
	spec.Mounts, spec.Devices = slices.Clone(spec.Mounts), slices.Clone(spec.Devices)
	return spec
}

func (p Process) copy() Process {
	p.Argv, p.Env = slices.Clone(p.Argv), slices.Clone(p.Env)
	return p
}
