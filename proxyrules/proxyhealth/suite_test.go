package proxyhealth_test

import (
	"context"
	"flag"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/proxyrules/proxyhealth"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestProxyhealth(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(time.Minute) // for a machine that is busy
	RunSpecs(t, "proxyrules/proxyhealth")
}

// fakeProxy tells what it is told to.
type fakeProxy struct {
	mu      sync.Mutex
	status  proxyrules.Status
	table   *proxyrules.Table
	records []proxyrules.SyncRecord
	more    chan struct{} // closed at each change
}

var _ proxyhealth.Proxy = (*fakeProxy)(nil)

func newFakeProxy() *fakeProxy { return &fakeProxy{more: make(chan struct{})} }

// set changes it, and wakes who waits for records.
func (p *fakeProxy) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	close(p.more)
	p.more = make(chan struct{})
}

func (p *fakeProxy) record(r proxyrules.SyncRecord) {
	p.set(func() {
		r.Number = uint64(len(p.records) + 1)
		p.records = append(p.records, r)
	})
}

func (p *fakeProxy) Status() proxyrules.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

func (p *fakeProxy) Table() *proxyrules.Table {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.table
}

func (p *fakeProxy) Syncs(ctx context.Context, after uint64) ([]proxyrules.SyncRecord, error) {
	for {
		p.mu.Lock()
		records, more := p.records[after:], p.more
		p.mu.Unlock()
		if len(records) > 0 {
			return records, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-more:
		}
	}
}

// table has fronts of both families, one of them without a local endpoint, and
// health checks.
func table(addresses []netip.Addr, checks ...proxyrules.HealthCheck) *proxyrules.Table {
	front := func(addr string, kind proxyrules.Kind, action proxyrules.Action) *proxyrules.Front {
		return &proxyrules.Front{FrontKey: proxyrules.FrontKey{Addr: netip.MustParseAddr(addr), Protocol: "TCP", Port: 80},
			Kind: kind, Service: "default/web", Action: action, Masquerade: proxyrules.MasqueradeOffCluster}
	}
	t := proxyrules.NewTable(proxyrules.Node{Addresses: addresses}, []*proxyrules.Front{
		front("10.96.0.10", proxyrules.ClusterIP, proxyrules.Reject), front("10.96.0.11", proxyrules.ClusterIP, proxyrules.Drop),
		front("fd00:96::10", proxyrules.ClusterIP, proxyrules.Reject),
	})
	t.HealthChecks = checks
	return t
}
