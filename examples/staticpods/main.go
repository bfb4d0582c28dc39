// Command staticpods is an agent in one page: it runs the pods of a directory of
// manifests, on a container runtime that is there or without any, and does
// nothing else. SIGTERM ends the agent and not the pods; started again it takes
// them up as they are.
//
//	staticpods --manifests /etc/pods --cri unix:///run/containerd/containerd.sock
//	staticpods --manifests /etc/pods --runtime crun
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"golang.org/x/sync/errgroup"

	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/cgroup"
	"github.com/nodekit/nodekit/podlifecycle/qos"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/runtimeiface/cri"
	"github.com/nodekit/nodekit/runtimeiface/oci"
)

type options struct {
	manifests, root, cgroup, node string
	cri                           string
	runtime, bridge, subnet       string
	verbose                       bool
}

func main() {
	var o options
	flag.StringVar(&o.manifests, "manifests", "", "`directory` of Pods, ConfigMaps and Secrets in YAML or JSON; required")
	flag.StringVar(&o.root, "root", "/var/lib/staticpods", "`directory` of all state")
	flag.StringVar(&o.cgroup, "cgroup", "/staticpods", "`path` of the cgroup above all pods, below / of each hierarchy")
	flag.StringVar(&o.node, "node-name", "staticpods", "`name` of the node; pods get it as a suffix")
	flag.StringVar(&o.cri, "cri", "", "`endpoint` of a runtime's CRI; empty for none, then --runtime is run directly")
	flag.StringVar(&o.runtime, "runtime", "runc", "the OCI runtime's `program`, without --cri")
	flag.StringVar(&o.bridge, "bridge", "staticpods0", "`name` of the pods' bridge, without --cri")
	flag.StringVar(&o.subnet, "subnet", "10.89.0.0/22", "addresses of the pods, without --cri")
	flag.BoolVar(&o.verbose, "v", false, "log every decision")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "staticpods:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if o.manifests == "" {
		return errors.New("--manifests is required")
	}
	root, err := filepath.Abs(o.root)
	if err != nil {
		return err
	}
	o.root = root
	logger := newLogger(o.verbose)
	runtime, err := o.open(ctx, logger)
	if err != nil {
		return err
	}
	manager, err := podlifecycle.New(podlifecycle.Config{
		Runtime: runtime, Root: filepath.Join(o.root, "pods"), LogRoot: filepath.Join(o.root, "logs"), NodeName: o.node,
		QoS: qos.Node{CgroupRoot: path.Join(o.cgroup, "kubepods")}, Cgroups: cgroup.New(), Logger: logger,
	})
	if err != nil {
		return errors.Join(err, runtime.Close())
	}
	directory, err := source.New(source.Config{Path: o.manifests, NodeName: o.node, Logger: logger})
	if err != nil {
		return errors.Join(err, runtime.Close())
	}
	parts, ctx := errgroup.WithContext(ctx)
	parts.Go(func() error { return manager.Run(ctx) })
	parts.Go(func() error { return directory.Run(ctx, manager.Set) })
	return errors.Join(parts.Wait(), runtime.Close())
}

// open gives the runtime: another's, or one that is this program.
func (o options) open(ctx context.Context, logger logr.Logger) (interface {
	podlifecycle.Runtime
	io.Closer
}, error) {
	if o.cri != "" {
		return cri.Dial(ctx, cri.Config{Endpoint: o.cri, Logger: logger})
	}
	subnet, err := netip.ParsePrefix(o.subnet)
	if err != nil {
		return nil, fmt.Errorf("--subnet: %w", err)
	}
	return oci.Open(oci.Config{
		Root: filepath.Join(o.root, "runtime"), CgroupRoot: o.cgroup, RuntimeHandlers: map[string]string{"": o.runtime}, WarmShims: 1,
		Network: oci.Network{Bridge: o.bridge, Subnets: []netip.Prefix{subnet}}, Logger: logger,
	})
}

func newLogger(verbose bool) logr.Logger {
	verbosity := 0
	if verbose {
		verbosity = 4
	}
	return funcr.New(func(prefix, args string) {
		fmt.Fprintln(os.Stderr, time.Now().Format("15:04:05.000"), prefix, args)
	}, funcr.Options{Verbosity: verbosity})
}
