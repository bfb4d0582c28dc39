// Command quickstart is a whole node in one main: it wires nodekit's five parts
// and nothing else. Run it with --help, or by `make quickstart`.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodekit/nodekit/examples/quickstart/demoimage"
	"github.com/nodekit/nodekit/metrics"
	"github.com/nodekit/nodekit/metrics/burden"
	"github.com/nodekit/nodekit/metrics/machine"
	"github.com/nodekit/nodekit/metrics/summary"
	"github.com/nodekit/nodekit/podlifecycle"
	"github.com/nodekit/nodekit/podlifecycle/cgroup"
	"github.com/nodekit/nodekit/podlifecycle/eviction/nodeusage"
	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/nftables"
	"github.com/nodekit/nodekit/runtimeiface/oci"
	"github.com/nodekit/nodekit/statusserver"
)

func main() {
	options := parseOptions()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, options); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// run makes the parts, introduces them to each other, and runs them until ctx
// ends or the check of --once is through. Then it removes all that it made.
func run(ctx context.Context, o options) (err error) {
	if err := o.validate(); err != nil {
		return err
	}
	logger := newLogger(o.verbose)
	node, err := look(o)
	if err != nil {
		return err
	}
	hardware, err := machine.New(machine.Config{})
	if err != nil {
		return err
	}
	if node.qos.HugePageSizes, err = hugePageSizes(ctx, hardware); err != nil {
		return err
	}
	claimed, err := claim(o)
	if err != nil {
		return err
	}
	defer claimed.Close()
	if o.registry != "" {
		registry, err := demoimage.Open(ctx, o.registry, o.demo)
		if err != nil && ctx.Err() != nil {
			return nil // Ctrl-C before anything was made
		}
		if err != nil {
			return fmt.Errorf("--registry %s: %w", o.registry, err)
		}
		defer registry.Close()
	}

	// What runs containers, and what decides which.
	// Passable, for pods with users of their own; what lies below is not readable.
	if err := os.MkdirAll(o.root, 0o711); err != nil {
		return fmt.Errorf("make root: %w", err)
	}
	runc, err := program("runc")
	if err != nil {
		return err
	}
	runtime, err := oci.Open(oci.Config{Root: filepath.Join(o.root, "runtime"), CgroupRoot: o.cgroup, RuntimeHandlers: map[string]string{"": runc},
		Network: oci.Network{Bridge: o.bridge, Subnets: []netip.Prefix{node.podCIDR}}, Logger: logger.WithName("runtime")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, runtime.Close()) }()
	screen := newScreen(os.Stdout)
	services := &services{} // joins pods and Services, see services.go
	evicting, err := evict(o, runtime)
	if err != nil {
		return err
	}
	manager, err := podlifecycle.New(podlifecycle.Config{Runtime: screen.watchPulls(runtime), Root: filepath.Join(o.root, "pods"),
		LogRoot: filepath.Join(o.root, "logs"), NodeName: node.name, NodeIPs: node.addresses, Hosts: node.hosts, QoS: node.qos,
		Cgroups: cgroup.New(), Eviction: evicting, OnStatus: screen.tell(services.podChanged), Logger: logger.WithName("pods")})
	if err != nil {
		return err
	}
	directory, err := source.New(source.Config{Path: o.manifests, Logger: logger.WithName("manifests")})
	if err != nil {
		return err
	}

	// What brings Services to them.
	rules, err := nftables.Open(nftables.Config{Table: o.table, Logger: logger.WithName("rules")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rules.Close()) }()
	proxy, err := proxyrules.New(proxyrules.Config{Dialect: rules, Node: node.proxy(), Logger: logger.WithName("proxy")})
	if err != nil {
		return err
	}

	// What meters, and what serves all of it.
	usage, err := nodeusage.New(nodeusage.Config{NodeFS: o.root})
	if err != nil {
		return err
	}
	onDisk := &disks{root: filepath.Join(o.root, "pods"), runtime: runtime, manager: manager, usage: usage, logger: logger.WithName("disks")}
	meter, err := metrics.New(metrics.Config{Targets: targets{manager}, Interval: o.interval, OnDisk: onDisk.onDisk, Logger: logger.WithName("metrics")})
	if err != nil {
		return err
	}
	stats, err := summary.New(summary.Config{Meter: meter, NodeName: node.name, MaxAge: o.interval, NodeFS: o.root, ImageFS: o.root, Volumes: onDisk.volumes})
	if err != nil {
		return err
	}
	ranking, err := burden.New(burden.Config{Meter: meter, MaxAge: 2 * o.interval, Requests: requests(manager)})
	if err != nil {
		return err
	}
	server, err := statusserver.New(serve(o, node, runtime, manager, proxy, meter, stats, ranking, hardware, screen, logger))
	if err != nil {
		return err
	}

	// Everything runs until ctx ends; the pods outlive all but the manager.
	services.join(manager, proxy)
	running, stopParts := context.WithCancel(context.WithoutCancel(ctx))
	defer stopParts()
	parts, failed := errgroup.WithContext(running) // a part that fails ends the others in order, not at once
	for _, part := range []func(context.Context) error{manager.Run, services.Run, proxy.Run, meter.Run, server.Run} {
		parts.Go(func() error { return part(running) })
	}
	parts.Go(func() error { return onDisk.run(running, o.disks) })
	reading, stopReading := context.WithCancel(running)
	defer stopReading()
	parts.Go(func() error {
		return directory.Run(reading, func(set source.Set) { manager.Set(set); services.setChanged(set) })
	})

	err = wait(ctx, failed, o, screen, manager)
	stopReading()
	screen.say("stopping the pods and removing what was made")
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	err = errors.Join(err, manager.StopAll(ending))
	stopParts()
	return errors.Join(err, parts.Wait(), proxy.Cleanup(ending), runtime.Purge(ending), removeState(ending, runtime, o))
}

// wait waits for Ctrl-C, for a part that failed, or for the check of --once.
func wait(ctx, failed context.Context, o options, screen *screen, manager *podlifecycle.Manager) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(failed, cancel)()
	if o.once {
		return newCheck(o, screen, manager).run(ctx)
	}
	go func() {
		if newCheck(o, screen, manager).run(ctx) == nil {
			screen.say("all of it works; edit %s and watch, Ctrl-C ends it and leaves nothing behind", o.manifests)
		}
	}()
	<-ctx.Done()
	return nil
}
