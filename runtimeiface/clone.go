package runtimeiface

import (
	"maps"
	"slices"
)

// Clone shares no map or slice that a backend keeps with the caller.
func (s SandboxSpec) Clone() SandboxSpec {
	s.Labels, s.Annotations, s.Sysctls = maps.Clone(s.Labels), maps.Clone(s.Annotations), maps.Clone(s.Sysctls)
	s.PortMappings = slices.Clone(s.PortMappings)
	if s.UserNamespace != nil {
		s.UserNamespace = &UserNamespace{slices.Clone(s.UserNamespace.UIDs), slices.Clone(s.UserNamespace.GIDs)}
	}
	if s.DNS != nil {
		s.DNS = &DNS{slices.Clone(s.DNS.Servers), slices.Clone(s.DNS.Searches), slices.Clone(s.DNS.Options)}
	}
	return s
}

// Clone shares no map or slice that a backend keeps with the caller; Resources
// and the content of mounts and devices are shared, and nobody may change them.
func (s ContainerSpec) Clone() ContainerSpec {
	s.Labels, s.Annotations = maps.Clone(s.Labels), maps.Clone(s.Annotations)
	s.Command, s.Args, s.Env = slices.Clone(s.Command), slices.Clone(s.Args), slices.Clone(s.Env)
	s.Mounts, s.Devices = slices.Clone(s.Mounts), slices.Clone(s.Devices)
	return s
}

// Match tells whether the filter selects the sandbox.
func (f SandboxFilter) Match(s Sandbox) bool {
	return (f.ID == "" || f.ID == s.ID) && (f.UID == "" || f.UID == s.UID) &&
		(f.State == "" || f.State == s.State) && hasLabels(s.Labels, f.Labels)
}

// Match tells whether the filter selects the container.
func (f ContainerFilter) Match(c Container) bool {
	return (f.ID == "" || f.ID == c.ID) && (f.SandboxID == "" || f.SandboxID == c.SandboxID) &&
		(f.State == "" || f.State == c.State) && hasLabels(c.Labels, f.Labels)
}

func hasLabels(have, want map[string]string) bool {
	for name, value := range want {
		if got, ok := have[name]; !ok || got != value {
			return false
		}
	}
	return true
}
