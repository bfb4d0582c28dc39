package oci_test

import (
	"context"
	"path"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/oci"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// careless is this backend, less something that it was asked for.
type careless struct {
	*oci.Runtime
	sandbox   func(*runtimeiface.SandboxSpec)
	container func(*runtimeiface.ContainerSpec)
	status    func(*runtimeiface.Container)
	exec      func(context.Context, string, runtimeiface.ExecSpec) (int, error)
	update    func(context.Context, string, specs.LinuxResources) error
}

func (c *careless) RunSandbox(ctx context.Context, spec runtimeiface.SandboxSpec) (string, error) {
	if c.sandbox != nil {
		spec = spec.Clone()
		c.sandbox(&spec)
	}
	return c.Runtime.RunSandbox(ctx, spec)
}

func (c *careless) CreateContainer(ctx context.Context, id string, spec runtimeiface.ContainerSpec) (string, error) {
	if c.container != nil {
		spec = spec.Clone()
		c.container(&spec)
	}
	return c.Runtime.CreateContainer(ctx, id, spec)
}

func (c *careless) ContainerStatus(ctx context.Context, id string) (runtimeiface.Container, error) {
	got, err := c.Runtime.ContainerStatus(ctx, id)
	if c.status != nil {
		c.status(&got)
	}
	return got, err
}

func (c *careless) Exec(ctx context.Context, id string, spec runtimeiface.ExecSpec) (int, error) {
	if c.exec != nil {
		return c.exec(ctx, id, spec)
	}
	return c.Runtime.Exec(ctx, id, spec)
}

func (c *careless) UpdateContainer(ctx context.Context, id string, r specs.LinuxResources) error {
	if c.update != nil {
		return c.update(ctx, id, r)
	}
	return c.Runtime.UpdateContainer(ctx, id, r)
}

// options changes those of all bind mounts.
func options(change func([]string) []string) func(*careless) {
	return containers(func(s *runtimeiface.ContainerSpec) {
		for i, m := range s.Mounts {
			if m.Type == "bind" {
				s.Mounts[i].Options = change(slices.Clone(m.Options))
			}
		}
	})
}

func containers(change func(*runtimeiface.ContainerSpec)) func(*careless) {
	return func(c *careless) { c.container = change }
}

func sandboxes(change func(*runtimeiface.SandboxSpec)) func(*careless) {
	return func(c *careless) { c.sandbox = change }
}

// defects are what the kernel's cases must notice.
var defects = []struct {
	name string
	seen []string
	make func(*careless)
}{
	{"a user namespace is left out", []string{"userns/IDs", "userns/node's"},
		sandboxes(func(s *runtimeiface.SandboxSpec) { s.UserNamespace = nil })},
	{"modes of host are left out", []string{"namespace/node's", "forward/pod's own"},
		sandboxes(func(s *runtimeiface.SandboxSpec) { s.Network, s.PID, s.IPC = "", "", "" })},
	{"every pod has the node's namespaces", []string{"namespace/pod's", "network/apart", "process/PID namespace", "ipc/*"},
		sandboxes(func(s *runtimeiface.SandboxSpec) {
			s.Network, s.PID, s.IPC = runtimeiface.NamespaceHost, runtimeiface.NamespaceHost, runtimeiface.NamespaceHost
		})},
	{"sysctls and ports are left out", []string{"process/sysctl", "network/ports of the node"},
		sandboxes(func(s *runtimeiface.SandboxSpec) { s.Sysctls, s.PortMappings = nil, nil })},
	{"what the process may do is left out", []string{
		"security/seccomp *", "security/masked paths", "security/privileged", "security/capabilities of others",
		"process/user", "process/strict groups", "process/no new privileges", "process/capabilities", "root/read-only",
	}, containers(func(s *runtimeiface.ContainerSpec) { s.Security = runtimeiface.Security{} })},
	{"nothing is masked", []string{"security/default paths"}, containers(func(s *runtimeiface.ContainerSpec) {
		s.Security.MaskedPaths, s.Security.ReadonlyPaths = []string{}, []string{}
	})},
	{"every container is privileged", []string{"security/devices", "security/default paths", "process/capabilities", "mount/given"},
		func(c *careless) {
			c.sandbox = func(s *runtimeiface.SandboxSpec) { s.Privileged = true }
			c.container = func(s *runtimeiface.ContainerSpec) { s.Security.Privileged = true }
		}},
	{"every system call is filtered", []string{"security/unconfined"},
		containers(func(s *runtimeiface.ContainerSpec) { s.Security.Seccomp = runtimeiface.SeccompRuntimeDefault })},
	{"devices are left out", []string{"security/devices"},
		containers(func(s *runtimeiface.ContainerSpec) { s.Devices = nil })},
	{"limits are left out", []string{"process/limits", "process/OOM", "update/running"},
		containers(func(s *runtimeiface.ContainerSpec) { s.Resources = nil })},
	{"a PID mode of the container is left out", []string{"process/PID namespace", "namespace/target"},
		containers(func(s *runtimeiface.ContainerSpec) { s.PID, s.PIDTarget = "", "" })},
	{"subpaths are left out", []string{"image volume/subpath"}, containers(func(s *runtimeiface.ContainerSpec) {
		for i, m := range s.Mounts {
			_, s.Mounts[i].Options = runtimeiface.ImageSubpath(m.Options)
		}
	})},
	{"mounts of images are empty and writable", []string{"image volume/files"}, containers(func(s *runtimeiface.ContainerSpec) {
		for i, m := range s.Mounts {
			if m.Type == "image" {
				s.Mounts[i] = specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: m.Destination}
			}
		}
	})},
	{"mounts are private", []string{"mount/propagation", "mount/shared"}, options(func(o []string) []string {
		return slices.DeleteFunc(o, func(s string) bool { return s == "rslave" || s == "rshared" })
	})},
	{"mounts are slaves", []string{"mount/propagation"}, options(func(o []string) []string {
		return append(slices.DeleteFunc(o, func(s string) bool { return s == "rprivate" }), "rslave")
	})},
	{"rro is ro", []string{"mount/recursive read-only"}, options(func(o []string) []string {
		for i, s := range o {
			o[i] = strings.Replace(s, "rro", "ro", 1)
		}
		return o
	})},
	{"mounts are writable", []string{"mount/read-only bind"}, options(func(o []string) []string {
		return slices.DeleteFunc(o, func(s string) bool { return s == "ro" })
	})},
	{"an OOM kill is told as any other", []string{"process/OOM", "process/OOM of a child"}, func(c *careless) {
		c.status = func(s *runtimeiface.Container) {
			if s.Reason == runtimeiface.ReasonOOMKilled {
				s.Reason = runtimeiface.ReasonError
			}
		}
	}},
	{"a command goes on when its ctx ends", []string{"exec/time-out kills *"}, func(c *careless) {
		c.exec = func(ctx context.Context, id string, spec runtimeiface.ExecSpec) (int, error) {
			type result struct {
				code int
				err  error
			}
			done := make(chan result, 1)
			go func() {
				code, err := c.Runtime.Exec(context.WithoutCancel(ctx), id, spec)
				done <- result{code, err}
			}()
			select {
			case r := <-done:
				return r.code, r.err
			case <-ctx.Done():
				return -1, ctx.Err()
			}
		}
	}},
	{"updates change nothing", []string{"update/running", "update/created"}, func(c *careless) {
		c.update = func(context.Context, string, specs.LinuxResources) error { return nil }
	}},
}

var _ = Describe("a backend that leaves out what it was asked for", Ordered, ContinueOnFailure, func() {
	var e *env
	BeforeAll(func() { e = newEnv(GinkgoTB()) })

	for _, d := range defects {
		for _, pattern := range d.seen {
			var found []runtimetest.Case
			for _, c := range runtimetest.Cases() {
				if ok, err := path.Match(pattern, c.Name); ok && err == nil {
					found = append(found, c)
				}
			}
			It("is noticed: "+d.name+": "+pattern, func(ctx SpecContext) {
				Expect(found).NotTo(BeEmpty(), "no case has that name")
				for _, c := range found {
					rt := &careless{Runtime: e.rt}
					d.make(rt)
					err := c.Run(ctx, runtimetest.Subject{
						Runtime: rt, Images: e.images, LogRoot: e.logs, Kernel: true, UserNS: true, Seccomp: true,
					})
					Expect(err).To(HaveOccurred(), c.Name)
					GinkgoWriter.Println(c.Name+":", err)
				}
			}, NodeTimeout(20*time.Minute))
		}
	}
})
