package oci

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-logr/logr"

	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

// Defaults that a zero Config field stands for.
const (
	DefaultBridge     = "nodekit0"
	DefaultSubnet     = "10.88.0.0/24"
	DefaultCgroupRoot = "/nodekit"
	DefaultShmBytes   = 64 << 20
)

// Config says where a Runtime lives and what it uses. Two Runtimes on one
// machine need a Root, a Network.Bridge and Network.Subnets each.
type Config struct {
	// Root is a directory on a disk, made if absent. Required, absolute. All
	// state lies below it.
	Root string
	// ShimPath is the program nodekit-shim. "" looks beside the running
	// program, then in PATH.
	ShimPath string
	// RuntimeHandlers names OCI runtimes, by path or by name in PATH, for
	// SandboxSpec.RuntimeHandler; "" is the default one, runc if not given.
	RuntimeHandlers map[string]string
	// RuntimeArgs are arguments of a handler's program before the command, such
	// as --platform=kvm for gVisor's runsc. Nil for none. What is made with them
	// is ended with them, also when a later Config has others.
	RuntimeArgs map[string][]string
	// Network is the pods' network. Its zero value is a bridge with DefaultSubnet.
	Network Network
	// CgroupDriver says who makes the cgroups of containers: "cgroupfs", the OCI
	// runtime, or "systemd", as scopes, at the OCI runtime's request. "" is
	// "cgroupfs". Sandboxes that are there keep the one that they were made with.
	CgroupDriver string
	// CgroupRoot is the parent of the cgroups of sandboxes without
	// CgroupParent, absolute from each hierarchy's root; with systemd a slice
	// such as /a.slice/a-b.slice. "" is DefaultCgroupRoot, with systemd
	// DefaultCgroupRoot + ".slice".
	CgroupRoot string
	// ShmBytes is the size of a pod's /dev/shm. 0 is DefaultShmBytes.
	ShmBytes int64
	// WarmShims is how many shims are started ahead, while no sandbox is being
	// made, and wait in namespaces of their own: the next RunSandbox takes one,
	// if it wants new namespaces of network, UTS and IPC and no user namespace.
	// Each takes about 1 MiB and makes a start about 2 ms shorter. They end with
	// Close, or with the agent. At most 64, 0 for none.
	WarmShims int
	// Images configures the image store: mirrors, credentials, plain HTTP, the
	// free space that a pull leaves. Its Root is Root/images if empty, its
	// Logger is Logger.
	Images image.Config
	// Logger takes a line for each sandbox and container made and removed, and
	// for what was repaired. Zero discards.
	Logger logr.Logger
}

// withDefaults reports all bad fields together.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("config: "+format, args...)) }
	if !filepath.IsAbs(c.Root) {
		bad("Root %q is not an absolute path", c.Root)
	}
	c.Root = filepath.Clean(c.Root)
	c.RuntimeHandlers = maps.Clone(c.RuntimeHandlers)
	if c.RuntimeHandlers == nil {
		c.RuntimeHandlers = map[string]string{}
	}
	if c.RuntimeHandlers[""] == "" {
		c.RuntimeHandlers[""] = "runc"
	}
	for name := range c.RuntimeHandlers {
		if strings.ContainsAny(name, "/\x00") || name == "." || name == ".." || name == "default" {
			bad("RuntimeHandlers: %q cannot be a name", name)
		}
	}
	args := map[string][]string{}
	for name, list := range c.RuntimeArgs {
		if _, ok := c.RuntimeHandlers[name]; !ok {
			bad("RuntimeArgs: %q is no handler", name)
		}
		args[name] = slices.Clone(list)
	}
	c.RuntimeArgs = args
	c.Network = c.Network.withDefaults(c.Root, bad)
	c.CgroupDriver = cmp.Or(c.CgroupDriver, cgroupfsDriver)
	if c.CgroupDriver != cgroupfsDriver && c.CgroupDriver != systemdDriver {
		bad("CgroupDriver %q is neither %s nor %s", c.CgroupDriver, cgroupfsDriver, systemdDriver)
	}
	if c.CgroupRoot == "" {
		c.CgroupRoot = DefaultCgroupRoot
		if c.CgroupDriver == systemdDriver {
			c.CgroupRoot += sliceSuffix
		}
	}
	if !cleanAbs(c.CgroupRoot) || c.CgroupRoot == "/" {
		bad("CgroupRoot %q is not a clean absolute path below /", c.CgroupRoot)
	} else if err := checkCgroup(c.CgroupDriver, c.CgroupRoot); err != nil {
		bad("CgroupRoot %q %w", c.CgroupRoot, err)
	}
	if c.ShmBytes == 0 {
		c.ShmBytes = DefaultShmBytes
	}
	if c.ShmBytes < 0 {
		bad("ShmBytes is negative")
	}
	if c.WarmShims < 0 || c.WarmShims > 64 {
		bad("WarmShims %d is not within 0 and 64", c.WarmShims)
	}
	images := c.Images
	if c.Images.Root == "" {
		c.Images.Root = filepath.Join(c.Root, "images")
		images.Root = "/" // what is wrong with Root is told
	}
	c.Images.Logger = c.Logger
	if err := images.Validate(); err != nil {
		bad("Images: %w", err)
	}
	return c, errors.Join(errs...)
}

func cleanAbs(path string) bool { return filepath.IsAbs(path) && filepath.Clean(path) == path }
