// Command serviceproxy serves Services on a node in kube-proxy's place, from a
// directory of Service and EndpointSlice manifests. Run it with --help.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"

	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/iptables"
	"github.com/nodekit/nodekit/proxyrules/nftables"
	"github.com/nodekit/nodekit/proxyrules/proxyhealth"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "serviceproxy:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, errOut io.Writer) error {
	o, err := parse(args, out)
	if err != nil {
		return err
	}
	switch {
	case o.cleanup:
		return cleanup(ctx, o)
	case o.render, o.trace:
		return show(o, out, errOut)
	}
	return serve(ctx, o, errOut)
}

// serve keeps the rules as the files want them until ctx ends. They stay then,
// so that a restart or an update of this program breaks no connection.
func serve(ctx context.Context, o options, errOut io.Writer) (err error) {
	claimed, err := o.claim()
	if err != nil {
		return err
	}
	defer func() { _ = claimed.Close() }()
	logger := newLogger(errOut, o.verbose)
	dialect, watch, err := open(o, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dialect.Close()) }()
	// What it logs of Services and drift, report tells with more.
	proxy, err := proxyrules.New(proxyrules.Config{Dialect: dialect, Node: o.node, Watch: watch, Logger: logger.V(1)})
	if err != nil {
		return err
	}
	health, err := proxyhealth.New(proxyhealth.Config{Proxy: proxy, Mode: o.mode, Listen: new(net.ListenConfig).Listen, Logger: logger})
	if err != nil {
		return err
	}
	directory, err := source.New(source.Config{Path: o.manifests, Logger: logger})
	if err != nil {
		return err
	}
	told := teller{out: errOut, dir: o.manifests}
	parts, ctx := errgroup.WithContext(ctx)
	parts.Go(func() error { return proxy.Run(ctx) })
	parts.Go(func() error { return health.Run(ctx) })
	for _, address := range o.listen {
		parts.Go(func() error { return listen(ctx, address, health.Handler()) })
	}
	parts.Go(func() error { report(ctx, proxy, o, errOut); return nil })
	parts.Go(func() error {
		return directory.Run(ctx, func(set source.Set) {
			told.manifests(set.Problems)
			if unreadable(set) {
				return // the rules stay as they are: no directory is not no Services
			}
			proxy.Set(set.Services, set.EndpointSlices)
		})
	})
	return parts.Wait()
}

// dialect is a way to write rules.
type dialect interface {
	proxyrules.Dialect
	io.Closer
}

// open gives the one of o.mode; watch hears of others' changes, if it can.
func open(o options, logger logr.Logger) (_ dialect, watch func(context.Context, func(proxyrules.Drift)) error, err error) {
	if o.mode == "iptables" {
		d, err := iptables.Open(iptables.Config{Prefix: chainPrefix, Logger: logger})
		return d, nil, err
	}
	d, err := nftables.Open(nftables.Config{Table: o.table, Logger: logger})
	if err != nil {
		return nil, nil, err
	}
	return d, d.Watch, nil
}

// listen serves until ctx ends.
func listen(ctx context.Context, address string, handler http.Handler) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// report tells of what the proxy did that an operator would ask about.
func report(ctx context.Context, proxy *proxyrules.Proxy, o options, out io.Writer) {
	told := teller{out: out, dir: o.manifests}
	for after := uint64(0); ; {
		records, err := proxy.Syncs(ctx, after)
		if err != nil {
			return // ctx has ended
		}
		for _, r := range records {
			after = r.Number
			if r.Err == nil && (r.Stats.Elements > 0 || o.verbose) {
				_, _ = fmt.Fprintf(out, "applied: %d addresses and ports, %d elements changed in %s\n", r.Fronts, r.Stats.Elements, r.Ended.Sub(r.Began).Round(time.Microsecond))
			}
			if d := r.Drift; d != nil {
				_, _ = fmt.Fprintf(out, "table %s was changed by %q (pid %d), repaired %s after\n", o.table, d.Program, d.PID, d.Repaired.Sub(d.Noticed).Round(time.Microsecond))
			}
		}
		told.services(proxy.Status().Problems)
	}
}

// cleanup removes what any run made, in any mode.
func cleanup(ctx context.Context, o options) error {
	for _, o.mode = range modes {
		claimed, err := o.claim()
		if err != nil {
			return err
		}
		d, _, err := open(o, logr.Discard())
		switch {
		case errors.Is(err, nftables.ErrNotSupported) || errors.Is(err, iptables.ErrNotSupported):
			err = nil // so there are no rules of it
		case err == nil:
			err = errors.Join(d.Cleanup(ctx), d.Close())
		}
		if err = errors.Join(err, claimed.Close()); err != nil {
			return fmt.Errorf("%s: %w", o.mode, err)
		}
	}
	return nil
}

// claim keeps a second one off the rules: two would undo each other's work. The
// name lives in the network namespace, as they do, and goes with the process.
func (o options) claim() (io.Closer, error) {
	name := "table " + o.table
	if o.mode == "iptables" {
		name = "chains " + chainPrefix
	}
	socket, err := net.Listen("unix", "@nodekit-serviceproxy "+name)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("another serviceproxy keeps %s in this network namespace; end it, or give this one another --table", name)
	}
	if err != nil {
		return nil, fmt.Errorf("claim %s: %w", name, err)
	}
	return socket, nil
}
