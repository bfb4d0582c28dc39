package cri

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// What runc's spec hides, which a CRI wants to be told: no path means none there.
var (
	defaultMasked = []string{
		"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
		"/sys/devices/virtual/powercap",
	}
	defaultReadonly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// containerConfig names the first bad field, or gives all that does not depend
// on the sandbox.
func containerConfig(spec runtimeiface.ContainerSpec) (*api.ContainerConfig, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	signal, err := stopSignal(spec.StopSignal)
	if err != nil {
		return nil, err
	}
	config := &api.ContainerConfig{
		Metadata: &api.ContainerMetadata{Name: spec.Name, Attempt: spec.Attempt},
		Image:    &api.ImageSpec{Image: spec.Image, UserSpecifiedImage: spec.Image},
		Command:  slices.Clone(spec.Command), Args: slices.Clone(spec.Args), WorkingDir: spec.WorkingDir,
		LogPath: spec.LogPath, Stdin: spec.Stdin, StdinOnce: spec.StdinOnce, Tty: spec.TTY, StopSignal: signal,
	}
	for _, env := range spec.Env {
		name, value, _ := strings.Cut(env, "=")
		config.Envs = append(config.Envs, &api.KeyValue{Key: name, Value: []byte(value)})
	}
	if config.Mounts, err = mounts(spec.Mounts); err != nil {
		return nil, err
	}
	if config.Devices, err = devices(spec.Devices); err != nil {
		return nil, err
	}
	resources, err := resources(spec.Resources)
	if err != nil {
		return nil, err
	}
	resources.OomScoreAdj = int64(spec.OOMScoreAdj)
	config.Linux = &api.LinuxContainerConfig{Resources: resources, SecurityContext: securityContext(spec.Security)}
	return config, nil
}

// stopSignal reads "SIGTERM", "TERM", "SIGRTMIN+3".
func stopSignal(name string) (api.Signal, error) {
	if name == "" {
		return api.Signal_SIGNAL_RUNTIME_DEFAULT, nil
	}
	word := strings.ToUpper(name)
	word = strings.NewReplacer("+", "PLUS", "-", "MINUS").Replace(strings.TrimPrefix(word, "SIG"))
	n, ok := api.Signal_value["SIGNAL_SIG"+word]
	if !ok {
		return 0, invalid("StopSignal", "cannot be "+name)
	}
	return api.Signal(n), nil
}

func mounts(list []specs.Mount) ([]*api.Mount, error) {
	var out []*api.Mount
	for i, m := range list {
		field := fmt.Sprintf("Mounts[%d]", i)
		switch {
		case m.Type == "tmpfs":
			return nil, notSupported(field+".Type", "cannot be tmpfs: the CRI mounts paths of the host")
		case len(m.UIDMappings)+len(m.GIDMappings) > 0:
			return nil, notSupported(field, "has mappings of IDs")
		}
		mount, options := &api.Mount{ContainerPath: m.Destination}, m.Options
		if m.Type == "image" {
			mount.ImageSubPath, options = runtimeiface.ImageSubpath(options)
			if mount.ImageSubPath = path.Clean(mount.ImageSubPath); mount.ImageSubPath == "." {
				mount.ImageSubPath = ""
			}
			// Nothing is mounted below an image: "ro" says it all.
			options = slices.DeleteFunc(options, func(o string) bool { return o == "ro" || o == "rro" })
			mount.Readonly, mount.Image = true, &api.ImageSpec{Image: m.Source, UserSpecifiedImage: m.Source}
		} else if _, err := os.Stat(m.Source); err != nil { // runtimes would make a directory of it
			return nil, invalid(field+".Source", err.Error())
		} else {
			mount.HostPath = m.Source
		}
		for _, option := range options {
			if err := mountOption(mount, option); err != nil {
				return nil, fmt.Errorf("%s.Options: %w", field, err)
			}
		}
		if mount.RecursiveReadOnly && mount.Propagation != api.MountPropagation_PROPAGATION_PRIVATE {
			return nil, notSupported(field+".Options", "are rro and a propagation that is not private")
		}
		out = append(out, mount)
	}
	return out, nil
}

func mountOption(m *api.Mount, option string) error {
	switch option {
	case "bind", "rbind", "rw", "suid", "dev", "exec": // a CRI's mounts are all rbind
	case "ro":
		m.Readonly = true
	case "rro":
		m.Readonly, m.RecursiveReadOnly = true, true
	case "private", "rprivate":
		m.Propagation = api.MountPropagation_PROPAGATION_PRIVATE
	case "slave", "rslave":
		m.Propagation = api.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case "shared", "rshared":
		m.Propagation = api.MountPropagation_PROPAGATION_BIDIRECTIONAL
	case "nosuid", "nodev", "noexec":
		m.MountOptions = append(m.MountOptions, option)
	default:
		return notSupported("option", option)
	}
	return nil
}

func securityContext(s runtimeiface.Security) *api.LinuxContainerSecurityContext {
	out := &api.LinuxContainerSecurityContext{
		Privileged: s.Privileged, ReadonlyRootfs: s.ReadOnlyRootFS, NoNewPrivs: s.NoNewPrivileges,
		SupplementalGroups: slices.Clone(s.SupplementalGroups),
		Capabilities:       &api.Capability{AddCapabilities: slices.Clone(s.AddCapabilities), DropCapabilities: slices.Clone(s.DropCapabilities)},
		MaskedPaths:        slices.Clone(s.MaskedPaths), ReadonlyPaths: slices.Clone(s.ReadonlyPaths),
	}
	if s.StrictGroups {
		out.SupplementalGroupsPolicy = api.SupplementalGroupsPolicy_Strict
	}
	if s.RunAsUser != nil {
		out.RunAsUser = &api.Int64Value{Value: *s.RunAsUser}
	}
	if s.RunAsGroup != nil {
		out.RunAsGroup = &api.Int64Value{Value: *s.RunAsGroup}
	}
	if s.MaskedPaths == nil && !s.Privileged {
		out.MaskedPaths = defaultMasked
	}
	if s.ReadonlyPaths == nil && !s.Privileged {
		out.ReadonlyPaths = defaultReadonly
	}
	switch s.Seccomp {
	case "", runtimeiface.SeccompUnconfined:
		out.Seccomp = &api.SecurityProfile{ProfileType: api.SecurityProfile_Unconfined}
	case runtimeiface.SeccompRuntimeDefault:
		out.Seccomp = &api.SecurityProfile{ProfileType: api.SecurityProfile_RuntimeDefault}
	case runtimeiface.SeccompLocalhost:
		out.Seccomp = &api.SecurityProfile{ProfileType: api.SecurityProfile_Localhost, LocalhostRef: s.SeccompProfile}
	}
	switch s.AppArmor {
	case "": // the runtime's choice, as the kubelet leaves it
	case runtimeiface.AppArmorUnconfined:
		out.Apparmor = &api.SecurityProfile{ProfileType: api.SecurityProfile_Unconfined}
	case runtimeiface.AppArmorRuntimeDefault:
		out.Apparmor = &api.SecurityProfile{ProfileType: api.SecurityProfile_RuntimeDefault}
	case runtimeiface.AppArmorLocalhost:
		out.Apparmor = &api.SecurityProfile{ProfileType: api.SecurityProfile_Localhost, LocalhostRef: s.AppArmorProfile}
	}
	if l := s.SELinux; l != nil {
		out.SelinuxOptions = &api.SELinuxOption{User: l.User, Role: l.Role, Type: l.Type, Level: l.Level}
	}
	return out
}
