package nftables

// In the package itself, since it takes room from the socket, which is exported
// to nobody.

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/proxyrules"
	"golang.org/x/sys/unix"
)

// fronts makes n cluster IPs of one endpoint.
func fronts(n int, endpoint string) *proxyrules.Table {
	var out []*proxyrules.Front
	for i := range n {
		out = append(out, &proxyrules.Front{
			FrontKey: proxyrules.FrontKey{Addr: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Protocol: "TCP", Port: 80},
			Kind:     proxyrules.ClusterIP, Service: fmt.Sprintf("default/s%d", i), Action: proxyrules.Balance,
			Masquerade: proxyrules.MasqueradeOffCluster,
			Endpoints:  []proxyrules.Endpoint{{Addr: netip.MustParseAddrPort(endpoint)}},
		})
	}
	return proxyrules.NewTable(proxyrules.Node{}, out)
}

func TestNoRoomForRefusals(t *testing.T) {
	kerneltest.Require(t, kerneltest.Root)
	ctx := context.Background()
	d, err := Open(Config{Table: "nodekit-test", NetNS: kerneltest.NewNetNS(t).FD()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	first, second := fronts(5000, "10.244.0.1:80"), fronts(5000, "10.244.0.2:80")
	if _, err := d.Sync(ctx, first); err != nil {
		t.Fatal(err)
	}
	// The least that the kernel takes: a transaction with several refusals
	// overflows it.
	if err := unix.SetsockoptInt(d.socket.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
		t.Fatal(err)
	}
	b := newBatch("nodekit-test", d.generation)
	for range 100 {
		b.delChain(families[0], "none")
	}
	b.close()
	if err := d.socket.commit(b); !errors.Is(err, unix.ENOBUFS) {
		t.Fatalf("%v, want ENOBUFS", err)
	}
	// What we think is there is not: every change is refused.
	d.applied = second
	third := fronts(4000, "10.244.0.3:80")
	stats, err := d.Sync(ctx, third)
	if err != nil {
		t.Fatal(err)
	}
	snapshot, err := d.read()
	if err != nil {
		t.Fatal(err)
	}
	if changes := proxyrules.Diff(third, snapshot.table()); len(changes.Fronts) != 0 && slotsDiffer(&changes) {
		t.Errorf("the kernel holds something else: %d fronts, %+v", len(changes.Fronts), stats)
	}
	again, err := d.Sync(ctx, third)
	if err != nil || again != (proxyrules.SyncStats{}) {
		t.Errorf("%+v %v", again, err)
	}
}

func slotsDiffer(changes *proxyrules.Changes) bool {
	for _, c := range changes.Fronts {
		if c.Old == nil || c.New == nil || len(c.Slots) > 0 {
			return true
		}
	}
	return false
}

func TestKernelThatLacksSomething(t *testing.T) {
	ctx := context.Background()
	kerneltest.Require(t, kerneltest.Root)
	d, err := Open(Config{Table: "nodekit-test", NetNS: kerneltest.NewNetNS(t).FD()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	b := newBatch("nodekit-test", 0)
	b.newTable(families[0])
	unknown := &chain{name: "x", rules: []*rule{newRule("none").expr("nonesuch", func(*buffer) {})}}
	b.newChain(families[0], unknown)
	b.rules(families[0], unknown)
	b.close()
	err = lacking(d.commit(b))
	var refused *TransactionError
	if !errors.Is(err, ErrNotSupported) || !errors.As(err, &refused) || refused.What[0] != "chain x rule 0" {
		t.Errorf("%v", err)
	}
	if err := lacking(errChanged); errors.Is(err, ErrNotSupported) {
		t.Error(err)
	}
	if _, err := d.Sync(ctx, fronts(1, "10.244.0.1:80")); err != nil {
		t.Error(err)
	}
}
