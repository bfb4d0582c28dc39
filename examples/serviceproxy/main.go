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

	"golang.org/x/sync/errgroup"

	"github.com/nodekit/nodekit/podlifecycle/source"
	"github.com/nodekit/nodekit/proxyrules"
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
	claimed, err := claim(o.table)
	if err != nil {
		return err
	}
	defer func() { _ = claimed.Close() }()
	logger := newLogger(errOut, o.verbose)
	dialect, err := nftables.Open(nftables.Config{Table: o.table, Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dialect.Close()) }()
	// What it logs of Services and drift, report tells with more.
	proxy, err := proxyrules.New(proxyrules.Config{Dialect: dialect, Node: o.node, Watch: dialect.Watch, Logger: logger.V(1)})
	if err != nil {
		return err
	}
	health, err := proxyhealth.New(proxyhealth.Config{Proxy: proxy, Mode: "nftables", Listen: new(net.ListenConfig).Listen, Logger: logger})
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

// cleanup removes what any run with that table made.
func cleanup(ctx context.Context, o options) error {
	claimed, err := claim(o.table)
	if err != nil {
		return err
	}
	defer func() { _ = claimed.Close() }()
	dialect, err := nftables.Open(nftables.Config{Table: o.table})
	if err != nil {
		return err
	}
	return errors.Join(dialect.Cleanup(ctx), dialect.Close())
}

// claim keeps a second one off the table: two would undo each other's work. The
// name lives in the network namespace, as the table does, and goes with the process.
func claim(table string) (io.Closer, error) {
	socket, err := net.Listen("unix", "@nodekit-serviceproxy table "+table)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("another serviceproxy keeps table %s in this network namespace; end it, or give this one --table", table)
	}
	if err != nil {
		return nil, fmt.Errorf("claim table %s: %w", table, err)
	}
	return socket, nil
}
