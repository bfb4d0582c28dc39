package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
)

// options are the flags.
type options struct {
	root, manifests, listen, registry, demo string
	cgroup, bridge, table, podCIDR, name    string
	interval, timeout, disks                time.Duration
	eviction                                string
	once, verbose                           bool
}

const help = `quickstart runs one node without a cluster and without a daemon.

It serves two small images from a registry on loopback, pulls them, runs the
pods of a directory of manifests as real containers, makes the rules of their
Services, meters them, and serves status and a page. What you edit in the
directory while it runs is done at once, as kubectl apply or delete would.
Ctrl-C ends the pods gracefully and removes all that was made.
After a crash, start it again: it takes up its pods as they are.

It needs Linux, root, runc and nodekit-shim in PATH or beside this program.

Look at it from another terminal; should port 10255 be taken, --listen gives the
status server another, and --registry the images' registry instead of 5010:
  curl -s localhost:10255/pods                                   what runs
  curl -s 'localhost:10255/why/default/web-1?format=text'        why it is as it is
  curl -s 'localhost:10255/proxy/trace?from=10.88.0.2&to=10.96.0.10:80&format=text'
  curl -s localhost:10255/containerLogs/default/client/client?follow=true
  curl -s localhost:10255/stats/summary                          what it uses
  curl -s 'localhost:10255/burden?format=text'                   who burdens the node
  curl -s 'localhost:10255/readyz?verbose'                       what it lacks
  a browser at http://localhost:10255/ui/

Flags:
`

func parseOptions() options {
	var o options
	flag.StringVar(&o.manifests, "manifests", "", "`directory` of Pods, Services, ConfigMaps and Secrets in YAML or JSON; required")
	flag.StringVar(&o.root, "root", "/var/lib/nodekit-quickstart", "`directory` of all state; removed at the end")
	flag.StringVar(&o.listen, "listen", "127.0.0.1:10255", "`address` of the status server and the page; loopback only")
	flag.StringVar(&o.registry, "registry", "127.0.0.1:5010", "`address` of the demo images' registry; empty for none")
	flag.StringVar(&o.demo, "demo", "", "the demo images' `program`; empty for the one beside this program")
	flag.StringVar(&o.podCIDR, "pod-cidr", "10.88.0.0/24", "`subnet` of the pods")
	flag.StringVar(&o.bridge, "bridge", "nodekit0", "`name` of the pods' bridge")
	flag.StringVar(&o.table, "table", "nodekit", "`name` of the nftables table")
	flag.StringVar(&o.cgroup, "cgroup", "/nodekit", "`path` of the cgroup above all pods, below / of each hierarchy")
	flag.StringVar(&o.name, "node-name", "", "`name` of the node; empty for the host's")
	flag.DurationVar(&o.interval, "interval", time.Second, "`time` between two looks of the meter")
	flag.DurationVar(&o.disks, "disk-interval", 30*time.Second, "`time` between two looks at what pods have on disk, through every file of it")
	flag.StringVar(&o.eviction, "eviction", "", "evict pods when less is left than these `thresholds`, such as memory.available<100Mi,nodefs.available<10%, and when they write more than their limits; only pods of system priority are spared; empty for off")
	flag.BoolVar(&o.once, "once", false, "check that all of it works, then end: 0 if it did, 1 with the reason if not")
	flag.DurationVar(&o.timeout, "timeout", 90*time.Second, "`time` that the check may take")
	flag.BoolVar(&o.verbose, "v", false, "log every decision")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), help)
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "quickstart: %q is no flag; --help teaches\n", flag.Arg(0))
		os.Exit(2)
	}
	if o.manifests == "" {
		fmt.Fprintln(os.Stderr, "quickstart: --manifests is required; --help teaches")
		os.Exit(2)
	}
	if root, err := filepath.Abs(o.root); err == nil {
		o.root = root
	}
	if program, err := os.Executable(); err == nil && o.demo == "" {
		o.demo = filepath.Join(filepath.Dir(program), "demo")
	}
	return o
}

// newLogger writes lines to standard error.
func newLogger(verbose bool) logr.Logger {
	verbosity := 0
	if verbose {
		verbosity = 4
	}
	return funcr.New(func(prefix, args string) {
		fmt.Fprintln(os.Stderr, time.Now().Format("15:04:05.000"), prefix, args)
	}, funcr.Options{Verbosity: verbosity})
}
