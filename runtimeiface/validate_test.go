package runtimeiface_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
)

func goodSandbox() runtimeiface.SandboxSpec {
	return runtimeiface.SandboxSpec{
		Name: "web", Namespace: "default", UID: "1", LogDirectory: "/logs", CgroupParent: "/kubepods/pod1",
		PortMappings: []runtimeiface.PortMapping{{Protocol: "TCP", ContainerPort: 80}},
		DNS:          &runtimeiface.DNS{Servers: []string{"10.96.0.2"}},
		Sysctls:      map[string]string{"net.core.somaxconn": "1", "kernel.shmmax": "1"},
		Labels:       map[string]string{"a": "b"},
		UserNamespace: &runtimeiface.UserNamespace{
			UIDs: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 10}, {ContainerID: 10, HostID: 200000, Size: 10}},
			GIDs: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}},
		},
	}
}

// mapping changes the first and the second range of users.
func mapping(change func(first, second *specs.LinuxIDMapping)) func(*runtimeiface.SandboxSpec) {
	return func(s *runtimeiface.SandboxSpec) { change(&s.UserNamespace.UIDs[0], &s.UserNamespace.UIDs[1]) }
}

func TestSandboxSpecValidate(t *testing.T) {
	if err := goodSandbox().Validate(); err != nil {
		t.Fatal(err)
	}
	for field, change := range map[string]func(*runtimeiface.SandboxSpec){
		"Name":                        func(s *runtimeiface.SandboxSpec) { s.Name = "" },
		"Namespace":                   func(s *runtimeiface.SandboxSpec) { s.Namespace = "" },
		"UID":                         func(s *runtimeiface.SandboxSpec) { s.UID = "" },
		"Hostname":                    func(s *runtimeiface.SandboxSpec) { s.Hostname = strings.Repeat("h", 65) },
		"LogDirectory":                func(s *runtimeiface.SandboxSpec) { s.LogDirectory = "logs" },
		"CgroupParent":                func(s *runtimeiface.SandboxSpec) { s.CgroupParent = "/a/../b" },
		"Network":                     func(s *runtimeiface.SandboxSpec) { s.Network = runtimeiface.NamespaceContainer },
		"IPC":                         func(s *runtimeiface.SandboxSpec) { s.IPC = "other" },
		"PID":                         func(s *runtimeiface.SandboxSpec) { s.PID = "other" },
		"PortMappings[0]":             func(s *runtimeiface.SandboxSpec) { s.PortMappings[0].Protocol = "tcp" },
		"DNS.Servers[0]":              func(s *runtimeiface.SandboxSpec) { s.DNS.Servers[0] = "dns.example" },
		"DNS":                         func(s *runtimeiface.SandboxSpec) { s.DNS.Options = []string{"a\nnameserver 1.2.3.4"} },
		"Sysctls[kernel.panic]":       func(s *runtimeiface.SandboxSpec) { s.Sysctls["kernel.panic"] = "1" },
		"Sysctls[net.core.somaxconn]": func(s *runtimeiface.SandboxSpec) { s.Network = runtimeiface.NamespaceHost },
		"Sysctls[kernel.shmmax]":      func(s *runtimeiface.SandboxSpec) { s.IPC = runtimeiface.NamespaceHost },
		"UserNamespace":               func(s *runtimeiface.SandboxSpec) { s.Network, s.Sysctls = runtimeiface.NamespaceHost, nil },
		"UserNamespace.UIDs":          func(s *runtimeiface.SandboxSpec) { s.UserNamespace.UIDs = nil },
		"UserNamespace.GIDs":          func(s *runtimeiface.SandboxSpec) { s.UserNamespace.GIDs = make([]specs.LinuxIDMapping, 341) },
		"UserNamespace.UIDs[1]":       mapping(func(_, b *specs.LinuxIDMapping) { b.Size = 0 }),
		"Sysctls[net../../x]":         func(s *runtimeiface.SandboxSpec) { s.Sysctls["net../../x"] = "1" },
	} {
		spec := goodSandbox()
		change(&spec)
		if err := spec.Validate(); !errors.Is(err, runtimeiface.ErrInvalid) || !strings.Contains(err.Error(), field+" ") {
			t.Errorf("%s: got %v", field, err)
		}
	}
	for what, change := range map[string]func(*runtimeiface.SandboxSpec){
		"UserNamespace excludes":         func(s *runtimeiface.SandboxSpec) { s.PID = runtimeiface.NamespaceHost },
		"UserNamespace excludes mode":    func(s *runtimeiface.SandboxSpec) { s.IPC = runtimeiface.NamespaceHost },
		"UIDs[1] overlaps with range 0":  mapping(func(_, b *specs.LinuxIDMapping) { b.ContainerID = 9 }),
		"UIDs[1] overlaps with":          mapping(func(_, b *specs.LinuxIDMapping) { b.HostID = 100009 }),
		"UIDs[1] has no size, or one":    mapping(func(_, b *specs.LinuxIDMapping) { b.HostID = 1<<32 - 5 }),
		"UserNamespace.UIDs does not":    mapping(func(a, _ *specs.LinuxIDMapping) { a.ContainerID = 1; a.Size = 9 }),
		"UserNamespace.GIDs has 0":       func(s *runtimeiface.SandboxSpec) { s.UserNamespace.GIDs = []specs.LinuxIDMapping{} },
		"UserNamespace.UIDs has 341":     func(s *runtimeiface.SandboxSpec) { s.UserNamespace.UIDs = make([]specs.LinuxIDMapping, 341) },
		"UIDs[0] has no size, or one":    mapping(func(a, _ *specs.LinuxIDMapping) { a.Size = 1<<32 - 1 }),
		"PID cannot be target":           func(s *runtimeiface.SandboxSpec) { s.PID = runtimeiface.NamespaceTarget },
		"UserNamespace.GIDs[0] has no s": func(s *runtimeiface.SandboxSpec) { s.UserNamespace.GIDs[0].HostID = 1<<32 - 1 },
	} {
		spec := goodSandbox()
		change(&spec)
		if err := spec.Validate(); !errors.Is(err, runtimeiface.ErrInvalid) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	err := runtimeiface.SandboxSpec{}.Validate()
	for _, field := range []string{"Name", "Namespace", "UID"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%v does not name %s", err, field)
		}
	}
}

func goodContainer() runtimeiface.ContainerSpec {
	return runtimeiface.ContainerSpec{
		Name: "app", Image: "sha256:1", LogPath: "app/0.log", WorkingDir: "/srv", Env: []string{"A=b"},
		Mounts: []specs.Mount{
			{Destination: "/data", Type: "bind", Source: "/host"}, {Destination: "/tmp", Type: "tmpfs"},
			{Destination: "/image", Type: "image", Source: "sha256:2", Options: []string{"ro", "subpath=a/b"}},
		},
		PID: runtimeiface.NamespaceTarget, PIDTarget: "1",
		Security: runtimeiface.Security{RunAsUser: new(int64(1)), SupplementalGroups: []int64{2}},
		Labels:   map[string]string{"a": "b"},
	}
}

func TestContainerSpecValidate(t *testing.T) {
	if err := goodContainer().Validate(); err != nil {
		t.Fatal(err)
	}
	for field, change := range map[string]func(*runtimeiface.ContainerSpec){
		"Name":                           func(s *runtimeiface.ContainerSpec) { s.Name = "" },
		"Image":                          func(s *runtimeiface.ContainerSpec) { s.Image = "" },
		"LogPath":                        func(s *runtimeiface.ContainerSpec) { s.LogPath = "../x" },
		"WorkingDir":                     func(s *runtimeiface.ContainerSpec) { s.WorkingDir = "srv" },
		"PID":                            func(s *runtimeiface.ContainerSpec) { s.PID = "other" },
		"OOMScoreAdj":                    func(s *runtimeiface.ContainerSpec) { s.OOMScoreAdj = 1001 },
		"Env[0]":                         func(s *runtimeiface.ContainerSpec) { s.Env[0] = "=b" },
		"Mounts[0].Destination":          func(s *runtimeiface.ContainerSpec) { s.Mounts[0].Destination = "/x/.." },
		"Mounts[0].Source":               func(s *runtimeiface.ContainerSpec) { s.Mounts[0].Source = "host" },
		"Mounts[1].Type":                 func(s *runtimeiface.ContainerSpec) { s.Mounts[1].Type = "proc" },
		"Mounts[2].Source":               func(s *runtimeiface.ContainerSpec) { s.Mounts[2].Source = "" },
		"Mounts[2].Options":              func(s *runtimeiface.ContainerSpec) { s.Mounts[2].Options = []string{"rw"} },
		"PIDTarget":                      func(s *runtimeiface.ContainerSpec) { s.PIDTarget = "" },
		"Security.Seccomp":               func(s *runtimeiface.ContainerSpec) { s.Security.Seccomp = "other" },
		"Security.SeccompProfile":        func(s *runtimeiface.ContainerSpec) { s.Security.Seccomp = runtimeiface.SeccompLocalhost },
		"Security.AddCapabilities":       func(s *runtimeiface.ContainerSpec) { s.Security.AddCapabilities = []string{"CAP_KILL"} },
		"Security.DropCapabilities":      func(s *runtimeiface.ContainerSpec) { s.Security.DropCapabilities = []string{"kill"} },
		"Security.RunAsUser":             func(s *runtimeiface.ContainerSpec) { *s.Security.RunAsUser = -1 },
		"Security.SupplementalGroups[0]": func(s *runtimeiface.ContainerSpec) { s.Security.SupplementalGroups[0] = 1 << 31 },
	} {
		spec := goodContainer()
		change(&spec)
		if err := spec.Validate(); !errors.Is(err, runtimeiface.ErrInvalid) || !strings.Contains(err.Error(), field+" ") {
			t.Errorf("%s: got %v", field, err)
		}
	}
}

func TestSubpathsStayInTheImage(t *testing.T) {
	for sub, good := range map[string]bool{
		"": true, "a": true, "a/b": true, "a/../b": true, "./a": true, "..": false, "../a": false, "a/../../b": false, "/a": false, "a\x00": false,
	} {
		spec := goodContainer()
		spec.Mounts[2].Options = []string{"subpath=" + sub}
		if err := spec.Validate(); (err == nil) != good {
			t.Errorf("subpath %q: %v", sub, err)
		}
	}
	for mode, target := range map[runtimeiface.NamespaceMode]string{
		runtimeiface.NamespacePod: "1", runtimeiface.NamespaceHost: "1", "": "1", runtimeiface.NamespaceTarget: "",
	} {
		spec := goodContainer()
		spec.PID, spec.PIDTarget = mode, target
		if err := spec.Validate(); !errors.Is(err, runtimeiface.ErrInvalid) {
			t.Errorf("PID %q with target %q: %v", mode, target, err)
		}
	}
}

func TestClonesShareNothingThatChanges(t *testing.T) {
	sandbox := goodSandbox()
	clone := sandbox.Clone()
	clone.Labels["a"], clone.PortMappings[0].Protocol, clone.DNS.Servers[0] = "x", "UDP", "::1"
	clone.Sysctls["net.core.somaxconn"] = "2"
	clone.UserNamespace.UIDs[0].HostID, clone.UserNamespace.GIDs[0].Size = 7, 7
	if !reflect.DeepEqual(sandbox, goodSandbox()) {
		t.Errorf("changed by its clone: %+v", sandbox)
	}
	container := goodContainer()
	other := container.Clone()
	other.Labels["a"], other.Env[0], other.Mounts[0].Source = "x", "X=y", "/x"
	if !reflect.DeepEqual(container, goodContainer()) {
		t.Errorf("changed by its clone: %+v", container)
	}
}

func TestFiltersMatch(t *testing.T) {
	sandbox := runtimeiface.Sandbox{ID: "1", UID: "u", State: runtimeiface.SandboxReady, Labels: map[string]string{"a": "b", "c": "d"}}
	for _, c := range []struct {
		filter runtimeiface.SandboxFilter
		want   bool
	}{
		{runtimeiface.SandboxFilter{}, true},
		{runtimeiface.SandboxFilter{ID: "1", UID: "u", State: runtimeiface.SandboxReady, Labels: map[string]string{"a": "b"}}, true},
		{runtimeiface.SandboxFilter{ID: "2"}, false},
		{runtimeiface.SandboxFilter{UID: "v"}, false},
		{runtimeiface.SandboxFilter{State: runtimeiface.SandboxNotReady}, false},
		{runtimeiface.SandboxFilter{Labels: map[string]string{"a": ""}}, false},
		{runtimeiface.SandboxFilter{Labels: map[string]string{"x": ""}}, false},
	} {
		if got := c.filter.Match(sandbox); got != c.want {
			t.Errorf("%+v: %v", c.filter, got)
		}
	}
	container := runtimeiface.Container{ID: "1", SandboxID: "s", State: runtimeiface.ContainerRunning}
	for _, c := range []struct {
		filter runtimeiface.ContainerFilter
		want   bool
	}{
		{runtimeiface.ContainerFilter{ID: "1", SandboxID: "s", State: runtimeiface.ContainerRunning}, true},
		{runtimeiface.ContainerFilter{SandboxID: "t"}, false},
		{runtimeiface.ContainerFilter{State: runtimeiface.ContainerExited}, false},
	} {
		if got := c.filter.Match(container); got != c.want {
			t.Errorf("%+v: %v", c.filter, got)
		}
	}
}
