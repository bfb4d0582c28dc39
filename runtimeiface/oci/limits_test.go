package oci

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci/shim"
)

// Internal: what is refused here is refused before anything is made.

func many(n int, text string) []string { return slices.Repeat([]string{text}, n) }

func manyKeys(n, size int) map[string]string {
	out := map[string]string{}
	for i := range n {
		out[fmt.Sprint("k", i)] = strings.Repeat("x", size)
	}
	return out
}

func TestSandboxesHaveLimits(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for field, change := range map[string]func(*runtimeiface.SandboxSpec){
		"Name":            func(s *runtimeiface.SandboxSpec) { s.Name = long },
		"Namespace":       func(s *runtimeiface.SandboxSpec) { s.Namespace = "a\nb" },
		"UID":             func(s *runtimeiface.SandboxSpec) { s.UID = "a\x00b" },
		"Hostname":        func(s *runtimeiface.SandboxSpec) { s.Hostname = "a\nnameserver 1.2.3.4" },
		"Hostname ":       func(s *runtimeiface.SandboxSpec) { s.Hostname = long },
		"LogDirectory":    func(s *runtimeiface.SandboxSpec) { s.LogDirectory = "/" + long },
		"LogDirectory ":   func(s *runtimeiface.SandboxSpec) { s.LogDirectory = "/a\x00b" },
		"CgroupParent":    func(s *runtimeiface.SandboxSpec) { s.CgroupParent = "/a/../../b" },
		"CgroupParent ":   func(s *runtimeiface.SandboxSpec) { s.CgroupParent = "/a\nb" },
		"CgroupParent  ":  func(s *runtimeiface.SandboxSpec) { s.CgroupParent = "/" + long },
		"CgroupParent   ": func(s *runtimeiface.SandboxSpec) { s.CgroupParent = "a" },
		"Labels":          func(s *runtimeiface.SandboxSpec) { s.Labels = manyKeys(maxTable+1, 1) },
		"Annotations":     func(s *runtimeiface.SandboxSpec) { s.Annotations = manyKeys(2, maxText) },
		"PortMappings": func(s *runtimeiface.SandboxSpec) {
			s.PortMappings = slices.Repeat([]runtimeiface.PortMapping{{Protocol: "TCP", ContainerPort: 1}}, 1<<20)
		},
		"DNS.Servers":     func(s *runtimeiface.SandboxSpec) { s.DNS = &runtimeiface.DNS{Servers: many(1<<20, "1.1.1.1")} },
		"DNS.Searches[1]": func(s *runtimeiface.SandboxSpec) { s.DNS = &runtimeiface.DNS{Searches: []string{"a", long}} },
		"DNS": func(s *runtimeiface.SandboxSpec) {
			s.DNS = &runtimeiface.DNS{Options: []string{"a\nnameserver 1.2.3.4"}}
		},
		"Sysctls":        func(s *runtimeiface.SandboxSpec) { s.Sysctls = manyKeys(maxList+1, 1) },
		"Sysctls[net.a]": func(s *runtimeiface.SandboxSpec) { s.Sysctls = map[string]string{"net.a": "1\n2"} },
		"Sysctls[net.../kernel/core_pattern]": func(s *runtimeiface.SandboxSpec) {
			s.Sysctls = map[string]string{"net.../kernel/core_pattern": "|/x"}
		},
		"Sysctls[kernel.core_pattern]":        func(s *runtimeiface.SandboxSpec) { s.Sysctls = map[string]string{"kernel.core_pattern": "|/x"} },
		"Sysctls[net/../kernel/core_pattern]": func(s *runtimeiface.SandboxSpec) { s.Sysctls = map[string]string{"net/../kernel/core_pattern": "x"} },
		"Sysctls[kernel.shm/../../kernel/hostname]": func(s *runtimeiface.SandboxSpec) {
			s.Sysctls = map[string]string{"kernel.shm/../../kernel/hostname": "x"}
		},
		"RuntimeHandler": func(s *runtimeiface.SandboxSpec) { s.RuntimeHandler = "../../bin/sh" },
		"UserNamespace.UIDs": func(s *runtimeiface.SandboxSpec) {
			ids := slices.Repeat([]specs.LinuxIDMapping{{Size: 1}}, 1<<16)
			s.UserNamespace = &runtimeiface.UserNamespace{UIDs: ids, GIDs: ids}
		},
	} {
		spec := runtimeiface.SandboxSpec{Name: "a", Namespace: "b", UID: "c"}
		change(&spec)
		refused(t, strings.TrimSpace(field), checkSandbox(spec, Config{RuntimeHandlers: map[string]string{"": "runc"}}))
	}
}

func TestContainersHaveLimits(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for field, change := range map[string]func(*runtimeiface.ContainerSpec){
		"Name":                  func(s *runtimeiface.ContainerSpec) { s.Name = long },
		"Image":                 func(s *runtimeiface.ContainerSpec) { s.Image = long },
		"Command":               func(s *runtimeiface.ContainerSpec) { s.Command = many(1<<20, "x") },
		"Command[0]":            func(s *runtimeiface.ContainerSpec) { s.Command = []string{"a\x00b"} },
		"Args[1]":               func(s *runtimeiface.ContainerSpec) { s.Args = []string{"x", long} },
		"Env":                   func(s *runtimeiface.ContainerSpec) { s.Env = many(1<<20, "a=b") },
		"Env[0]":                func(s *runtimeiface.ContainerSpec) { s.Env = []string{"a=" + long} },
		"Command, Args and Env": func(s *runtimeiface.ContainerSpec) { s.Env = many(1<<10, "a="+strings.Repeat("x", 10<<10)) },
		"WorkingDir":            func(s *runtimeiface.ContainerSpec) { s.WorkingDir = "/" + long },
		"WorkingDir ":           func(s *runtimeiface.ContainerSpec) { s.WorkingDir = "/a\x00b" },
		"LogPath":               func(s *runtimeiface.ContainerSpec) { s.LogPath = long },
		"LogPath ":              func(s *runtimeiface.ContainerSpec) { s.LogPath = "../x" },
		"Labels":                func(s *runtimeiface.ContainerSpec) { s.Labels = manyKeys(1, maxText) },
		"Annotations":           func(s *runtimeiface.ContainerSpec) { s.Annotations = manyKeys(1<<16, 1) },
		"Mounts":                func(s *runtimeiface.ContainerSpec) { s.Mounts = make([]specs.Mount, 1<<20) },
		"Mounts[0].Destination": func(s *runtimeiface.ContainerSpec) {
			s.Mounts = []specs.Mount{{Type: "tmpfs", Destination: "/" + long}}
		},
		"Mounts[0].Destination ": func(s *runtimeiface.ContainerSpec) { s.Mounts = []specs.Mount{{Type: "tmpfs", Destination: "/x/.."}} },
		"Mounts[0].Options": func(s *runtimeiface.ContainerSpec) {
			s.Mounts = []specs.Mount{{Type: "tmpfs", Destination: "/x", Options: many(1<<20, "ro")}}
		},
		"Mounts[0]": func(s *runtimeiface.ContainerSpec) {
			s.Mounts = []specs.Mount{{Type: "tmpfs", Destination: "/x", UIDMappings: []specs.LinuxIDMapping{{Size: 1}}}}
		},
		"Devices":                      func(s *runtimeiface.ContainerSpec) { s.Devices = make([]specs.LinuxDevice, 1<<20) },
		"Devices[0].Path":              func(s *runtimeiface.ContainerSpec) { s.Devices = []specs.LinuxDevice{{Path: "/dev/../etc"}} },
		"Security.AddCapabilities":     func(s *runtimeiface.ContainerSpec) { s.Security.AddCapabilities = many(1<<20, "KILL") },
		"Security.SupplementalGroups":  func(s *runtimeiface.ContainerSpec) { s.Security.SupplementalGroups = make([]int64, 1<<20) },
		"Security.MaskedPaths":         func(s *runtimeiface.ContainerSpec) { s.Security.MaskedPaths = many(1<<20, "/x") },
		"Security.ReadonlyPaths[0]":    func(s *runtimeiface.ContainerSpec) { s.Security.ReadonlyPaths = []string{"/proc/../.."} },
		"Security.SeccompProfile":      func(s *runtimeiface.ContainerSpec) { s.Security.SeccompProfile = "/" + long },
		"Resources.Devices":            resources(specs.LinuxResources{Devices: make([]specs.LinuxDeviceCgroup, 1<<20)}),
		"Resources.Devices[0].Access":  resources(specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwx"}}}),
		"Resources.Devices[0].Type":    resources(specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Type: "a\nb"}}}),
		"Resources.Unified[../../x]":   resources(specs.LinuxResources{Unified: map[string]string{"../../x": "1"}}),
		"Resources.Unified":            resources(specs.LinuxResources{Unified: manyKeys(1<<16, 1)}),
		"Resources.CPU.Cpus":           resources(specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: long}}),
		"Resources.HugepageLimits":     resources(specs.LinuxResources{HugepageLimits: make([]specs.LinuxHugepageLimit, 1<<20)}),
		"Resources.BlockIO":            resources(specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{WeightDevice: make([]specs.LinuxWeightDevice, 1<<20)}}),
		"Resources.Network.Priorities": resources(specs.LinuxResources{Network: &specs.LinuxNetwork{Priorities: make([]specs.LinuxInterfacePriority, 1<<20)}}),
	} {
		spec := runtimeiface.ContainerSpec{Name: "a", Image: "b"}
		change(&spec)
		refused(t, strings.TrimSpace(field), checkContainer(runtimeiface.SandboxSpec{LogDirectory: "/x"}, spec))
	}
	refused(t, "Command[0]", commandLimits([]string{long}))
	refused(t, "Command", commandLimits(many(1<<20, "x")))
}

func resources(r specs.LinuxResources) func(*runtimeiface.ContainerSpec) {
	return func(s *runtimeiface.ContainerSpec) { s.Resources = &r }
}

// refused wants an ErrInvalid, or for a handler ErrNotSupported, that names the
// field and is short.
func refused(t *testing.T, field string, err error) {
	t.Helper()
	switch {
	case !errors.Is(err, runtimeiface.ErrInvalid) && !errors.Is(err, runtimeiface.ErrNotSupported):
		t.Errorf("%s: got %v", field, err)
	case !strings.Contains(err.Error(), ": "+field+" "):
		t.Errorf("%s is not named: %.300s", field, err)
	case len(err.Error()) > 64<<10:
		t.Errorf("%s: the error has %d bytes", field, len(err.Error()))
	}
}

// What is within the limits fits into one message to the shim.
func TestLimitsFitTheShim(t *testing.T) {
	spec := runtimeiface.SandboxSpec{Name: "a", Namespace: "b", UID: "c", Sysctls: map[string]string{}}
	ids := make([]shim.IDMapping, 340)
	for i := range ids {
		ids[i] = shim.IDMapping{Container: 1<<32 - 1, Host: 1<<32 - 1, Size: 1<<32 - 1}
	}
	size := 0
	for i := range maxList {
		name := fmt.Sprintf("net.%d", i)
		value := strings.Repeat("x", maxSmall/maxList-len(name))
		size += len(name) + len(value)
		spec.Sysctls[name] = value
	}
	if err := sandboxLimits(spec); err != nil || size != maxSmall {
		t.Fatalf("%d bytes: %v", size, err)
	}
	req := shim.PauseRequest{UIDs: ids, GIDs: ids, Hostname: strings.Repeat("x", 64)}
	for name, value := range spec.Sysctls {
		req.Sysctls = append(req.Sysctls, name, value)
	}
	if _, err := (shim.Message{Op: shim.OpPause, Fields: req.Fields()}).Append(nil); err != nil {
		t.Error(err)
	}
	longest := strings.Repeat("x", maxPath)
	create := shim.CreateRequest{LogDir: longest, LogPath: longest, TrackDir: longest + longest, OOMFile: longest + longest}
	if _, err := (shim.Message{Op: shim.OpCreate, Fields: create.Fields()}).Append(nil); err != nil {
		t.Error(err)
	}
}
