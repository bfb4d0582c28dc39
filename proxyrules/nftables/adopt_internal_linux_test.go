package nftables

// In the package itself, since it makes few elements count as many.

import (
	"context"
	"maps"
	"testing"

	"github.com/nodekit/nodekit/internal/kerneltest"
)

func TestAdoptWithoutReading(t *testing.T) {
	kerneltest.Require(t, kerneltest.Root)
	ctx := context.Background()
	open := func(ns *kerneltest.NetNS, readable uint32) *Dialect {
		d, err := Open(Config{Table: "nodekit-test", NetNS: ns.FD()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		d.readable = readable
		return d
	}
	left, fresh := kerneltest.NewNetNS(t), kerneltest.NewNetNS(t)
	if _, err := open(left, 0).Sync(ctx, fronts(300, "10.244.0.1:80")); err != nil {
		t.Fatal(err)
	}
	next := fronts(200, "10.244.0.2:80")
	d := open(left, 0)
	loaded, err := d.Load(ctx)
	if err != nil {
		t.Fatal(err)
	}
	told := d.loaded.families[0].count[setServices] > 0 // by kernels since 6.16
	if told && (loaded.Len() != 0 || !d.loaded.families[0].unread[setServices]) {
		t.Errorf("%d fronts were read", loaded.Len())
	}
	if _, err := d.Sync(ctx, next); err != nil {
		t.Fatal(err)
	}
	if _, err := open(fresh, readable).Sync(ctx, next); err != nil {
		t.Fatal(err)
	}
	is, err := d.read() // reads all, now that it has begun
	if err != nil {
		t.Fatal(err)
	}
	want, err := open(fresh, readable).read()
	if err != nil {
		t.Fatal(err)
	}
	for id, elements := range want.families[0].elements {
		if setID(id) != setHairpin && !maps.Equal(elements, is.families[0].elements[id]) {
			t.Errorf("set %d: %d elements, want %d", id, len(is.families[0].elements[id]), len(elements))
		}
	}
	if stats, err := d.Sync(ctx, next); err != nil || stats.Full || stats.Elements > 0 && !told {
		t.Errorf("%+v %v", stats, err)
	}
}
