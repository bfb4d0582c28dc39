// Command nodemonitor meters a machine as cAdvisor does, at a fraction of its
// price: every cgroup, or the containers of a CRI runtime, for Prometheus and on
// a page with curves. Run it with --help.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"golang.org/x/sync/errgroup"

	"github.com/nodekit/nodekit/metrics"
	"github.com/nodekit/nodekit/metrics/burden"
	"github.com/nodekit/nodekit/metrics/discovery"
	"github.com/nodekit/nodekit/metrics/machine"
	"github.com/nodekit/nodekit/metrics/summary"
	"github.com/nodekit/nodekit/statusserver"
)

const help = `nodemonitor meters this machine as cAdvisor does: every cgroup, or the containers
of a CRI runtime. It changes nothing and needs no runtime; as root it sees all.

  nodemonitor                                        every cgroup, on 127.0.0.1:9101
  nodemonitor --below /system.slice                  those of one part of the machine
  nodemonitor --cri unix:///run/containerd/containerd.sock
                                                     pods and containers, by name

Look at it from another terminal:
  curl -s localhost:9101/metrics                     for Prometheus, cAdvisor's families
  curl -s localhost:9101/metrics/resource            for metrics-server
  curl -s localhost:9101/stats/summary               the kubelet's Summary API
  curl -s localhost:9101/spec                        what the machine is made of
  curl -s 'localhost:9101/burden?format=text'        who burdens this machine now
  a browser at http://localhost:9101/ui/

Prometheus:
  scrape_configs: [{job_name: node, static_configs: [{targets: ["localhost:9101"]}]}]

--listen takes a loopback address only: who may ask is whoever is on this machine.
To let others in, put a proxy before it that authenticates them.

Flags:
`

type options struct {
	listen, below, cri, name, labels string
	interval, cold, disks            time.Duration
	descriptors                      int
	verbose, sockets                 bool
}

func main() {
	var o options
	flag.StringVar(&o.listen, "listen", "127.0.0.1:9101", "`address` of metrics and page; loopback only")
	flag.StringVar(&o.below, "below", "/", "meter the cgroups below this `path`; not with --cri")
	flag.StringVar(&o.cri, "cri", "", "`endpoint` of a runtime's CRI, whose containers are metered; empty for every cgroup")
	flag.StringVar(&o.name, "node-name", "", "`name` of the node; empty for the host's")
	flag.StringVar(&o.labels, "labels", "compat", "compat has cAdvisor's labels, lean only container, namespace and pod")
	flag.DurationVar(&o.interval, "interval", time.Second, "`time` between two looks at CPU and memory")
	flag.DurationVar(&o.cold, "cold-interval", 10*time.Second, "`time` between two looks at disks, network, pressure and processes")
	flag.DurationVar(&o.disks, "disk-interval", time.Minute, "`time` between two questions to the runtime of --cri what each container has on disk; 0 for none")
	flag.BoolVar(&o.sockets, "sockets", false, "count open sockets, which takes a look at every open file each half minute")
	flag.IntVar(&o.descriptors, "descriptors", 0, "files kept open for speed, at most; 0 for 4096, -1 for none")
	flag.BoolVar(&o.verbose, "v", false, "log every decision")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), help)
		flag.PrintDefaults()
	}
	flag.Parse()
	// A round makes no garbage and a scrape next to none, so little is left for
	// the collector to win: rather a small heap than a seldom one.
	debug.SetGCPercent(25)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "nodemonitor:", err)
		os.Exit(1)
	}
}

func (o options) validate() error {
	var errs []error
	if flag.NArg() > 0 {
		errs = append(errs, fmt.Errorf("%q is no flag; --help teaches", flag.Arg(0)))
	}
	if o.labels != "compat" && o.labels != "lean" {
		errs = append(errs, fmt.Errorf("--labels: %q is neither compat nor lean", o.labels))
	}
	host, _, err := net.SplitHostPort(o.listen)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		errs = append(errs, fmt.Errorf("--listen: %q is not an address of loopback with a port", o.listen))
	}
	if o.disks < 0 {
		errs = append(errs, fmt.Errorf("--disk-interval: %s is negative", o.disks))
	}
	if o.cri != "" && o.below != "/" {
		errs = append(errs, errors.New("--below and --cri: only one can say what is metered"))
	}
	return errors.Join(errs...)
}

// run makes the parts, introduces them to each other, and runs them until ctx ends.
func run(ctx context.Context, o options, out io.Writer) error {
	if err := o.validate(); err != nil {
		return err
	}
	if o.name == "" {
		var err error
		if o.name, err = os.Hostname(); err != nil {
			return err
		}
	}
	logger := newLogger(o.verbose)
	var meter *metrics.Meter
	var pods *pods // of --cri
	find := discovery.Config{Below: o.below, Logger: logger.WithName("discovery"),
		OnChange: func(emptied ...string) { meter.Refresh(emptied...) }}
	if o.cri != "" {
		var err error
		if pods, err = dial(ctx, o.cri, logger.WithName("cri")); err != nil {
			return err
		}
		defer pods.Close()
		find.Describe = pods.describe
		find.OnChange = func(emptied ...string) { pods.look(); meter.Refresh(emptied...) }
	}
	found, err := discovery.New(find)
	if err != nil {
		return err
	}
	cfg := metrics.Config{Targets: found, Interval: o.interval, ColdInterval: o.cold, Descriptors: o.descriptors, Sockets: o.sockets, Logger: logger.WithName("metrics")}
	if pods != nil {
		cfg.OnDisk = pods.onDisk
	}
	if o.labels == "lean" {
		cfg.Labels = metrics.Lean
	}
	if meter, err = metrics.New(cfg); err != nil {
		return err
	}
	stats, err := summary.New(summary.Config{Meter: meter, NodeName: o.name, MaxAge: 2 * o.interval, NodeFS: "/"})
	if err != nil {
		return err
	}
	hardware, err := machine.New(machine.Config{})
	if err != nil {
		return err
	}
	ranking, err := burden.New(burden.Config{Meter: meter, MaxAge: 2 * o.interval})
	if err != nil {
		return err
	}
	server, err := statusserver.New(serve(o, meter, stats, hardware, ranking, pods, out, logger.WithName("server")))
	if err != nil {
		return err
	}
	parts, ctx := errgroup.WithContext(ctx)
	for _, part := range []func(context.Context) error{found.Run, meter.Run, server.Run} {
		parts.Go(func() error { return part(ctx) })
	}
	if pods != nil {
		parts.Go(func() error { return pods.Run(ctx, func() { found.Rename(); meter.Refresh() }) })
		if o.disks > 0 {
			parts.Go(func() error { return pods.weigh(ctx, o.disks) })
		}
	}
	return parts.Wait()
}

// serve says what is served, to whom: all of it, to this machine.
func serve(o options, meter *metrics.Meter, stats *summary.Provider, hardware *machine.Machine, ranking *burden.Ranking,
	pods *pods, out io.Writer, logger logr.Logger) statusserver.Config {
	all := func(write func(context.Context, io.Writer) error) statusserver.MetricsFunc {
		return func(ctx context.Context, w io.Writer) error {
			if err := hardware.WriteMetrics(ctx, w); err != nil {
				return err
			}
			return write(ctx, w)
		}
	}
	text, open := all(meter.WriteCAdvisor), all(meter.WriteCAdvisorOpenMetrics)
	cfg := statusserver.Config{
		Listeners:        []statusserver.Listener{{Address: o.listen, Authorizer: statusserver.Every{statusserver.LoopbackOnly{}, statusserver.ReadOnly{}}}},
		NodeName:         o.name,
		UI:               true,
		Spec:             hardware,
		Stats:            stats,
		Burden:           statusserver.BurdenFunc(func(ctx context.Context) (fmt.Stringer, error) { return ranking.Report(ctx) }),
		Metrics:          text,
		ContainerMetrics: text,
		ResourceMetrics:  statusserver.MetricsFunc(meter.WriteResource),
		OpenMetrics: map[string]statusserver.MetricsWriter{
			"/metrics": open, "/metrics/cadvisor": open, "/metrics/resource": statusserver.MetricsFunc(meter.WriteResourceOpenMetrics)},
		OnListen: func(bound []net.Addr) {
			fmt.Fprintf(out, "metrics on http://%s/metrics, the page on http://%s/ui/\n", bound[0], bound[0])
		},
		Logger: logger,
	}
	if pods != nil {
		cfg.Pods = statusserver.PodsFunc(pods.list)
	}
	return cfg
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
