package iptables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/internal/kernel"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

var _ proxyrules.Dialect = (*Dialect)(nil)

var errClosed = errors.New("iptables: closed")

// Dialect keeps the chains of one prefix in one network namespace. Its methods
// may be called at the same time; they wait for each other.
type Dialect struct {
	config Config

	mu      sync.Mutex
	netNS   *os.File
	flows   *netlink.Handle // nil with KeepUDPFlows
	closed  bool
	applied *proxyrules.Table // nil: unknown
	wanted  [2]*ruleSet       // that applied came to: IPv4 and IPv6
	last    [2]string         // digests of what was written last
}

// Open looks for the tools and asks the kernel for its tables. It changes
// nothing. The error wraps ErrNotSupported if one of them is not there; IPv6 may
// be absent until a Service needs it.
func Open(config Config) (*Dialect, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	own, err := kernel.OpenNetNS(config.NetNS)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	d := &Dialect{config: config, netNS: own}
	probe := newRuleSet(config, proxyrules.NewTable(proxyrules.Node{}, nil), true).text(nil, nil)
	if _, err := d.run(context.Background(), d.tool(true, "restore"), probe, "--test", "--noflush", "-w"); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrNotSupported, err), own.Close())
	}
	if !config.KeepUDPFlows {
		if d.flows, err = netlink.NewHandleAt(netns.NsHandle(own.Fd()), unix.NETLINK_NETFILTER); err != nil {
			return nil, errors.Join(fmt.Errorf("open conntrack: %w", err), own.Close())
		}
	}
	return d, nil
}

// Close lets go of the kernel and leaves all rules in place.
func (d *Dialect) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	if d.flows != nil {
		d.flows.Close()
	}
	return d.netNS.Close()
}

func (d *Dialect) usable(ctx context.Context) error {
	if d.closed {
		return errClosed
	}
	return ctx.Err()
}

// Load gives nil: endpoints have no index here.
func (d *Dialect) Load(ctx context.Context) (*proxyrules.Table, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return nil, d.usable(ctx)
}

// Sync makes the kernel hold table, which must not be nil. The error is a
// *ToolError if a tool refused; then the kernel may hold part of it, and the
// next Sync writes all. Elements of the stats are rules written.
func (d *Dialect) Sync(ctx context.Context, table *proxyrules.Table) (proxyrules.SyncStats, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var stats proxyrules.SyncStats
	if err := d.usable(ctx); err != nil {
		return stats, err
	}
	changes := proxyrules.Diff(d.applied, table)
	first := d.applied == nil
	d.applied = nil
	for i, v4 := range []bool{true, false} {
		if first || !changes.Empty() || d.wanted[i] == nil {
			d.wanted[i] = newRuleSet(d.config, table, v4)
		}
		written, err := d.syncFamily(ctx, i, needs(table, v4))
		if err != nil {
			return stats, err
		}
		stats.Elements += written
		// All was read; who changed it, if the table did not?
		stats.Full = stats.Full || written > 0 && (first || changes.Empty())
	}
	stats.Full = stats.Full || first
	d.applied = table
	d.forgetFlows(&changes, &stats)
	return stats, nil
}

// needs says whether a family has anything to do.
func needs(table *proxyrules.Table, v4 bool) bool {
	for f := range table.Fronts() {
		if f.Addr.Is4() == v4 {
			return true
		}
	}
	for _, p := range append(table.Node.ServiceCIDRs, table.Node.PodCIDRs...) {
		if p.Addr().Is4() == v4 && (table.Node.MasqueradeEgress || len(table.Node.ServiceCIDRs) > 0) {
			return true
		}
	}
	return false
}

// syncFamily looks at one family, and writes all of it if it is not as wanted.
func (d *Dialect) syncFamily(ctx context.Context, index int, needed bool) (written int, err error) {
	want, v4 := d.wanted[index], d.wanted[index].v4
	there, err := d.save(ctx, v4)
	if err != nil {
		if !needed {
			return 0, nil // neither tools nor tables, and nothing for them to do
		}
		return 0, err
	}
	if !needed && !there.present() || there.as(want) && d.last[index] == want.digest() {
		return 0, nil
	}
	stale, missing := there.differences(want)
	if _, err := d.run(ctx, d.tool(v4, "restore"), want.text(stale, missing), "--noflush", "-w"); err != nil {
		d.last[index] = ""
		return 0, err
	}
	d.last[index] = want.digest()
	for _, rules := range want.rules {
		written += len(rules)
	}
	return written, nil
}

// Cleanup removes all chains of the prefix and the jumps to them, whoever made
// them.
func (d *Dialect) Cleanup(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(ctx); err != nil {
		return err
	}
	d.applied, d.last = nil, [2]string{}
	for _, v4 := range []bool{true, false} {
		there, err := d.save(ctx, v4)
		if err != nil {
			if !v4 {
				continue // without IPv6 there is nothing of ours in it
			}
			return err
		}
		if !there.present() {
			continue
		}
		if _, err := d.run(ctx, d.tool(v4, "restore"), there.removal(), "--noflush", "-w"); err != nil {
			return err
		}
	}
	return nil
}
