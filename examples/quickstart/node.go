package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"github.com/nodekit/nodekit/metrics/machine"
	"github.com/nodekit/nodekit/podlifecycle/hostfiles"
	"github.com/nodekit/nodekit/podlifecycle/qos"
	"github.com/nodekit/nodekit/proxyrules"
	"github.com/nodekit/nodekit/runtimeiface/oci"
)

// node is what the parts must know of the machine.
type node struct {
	name      string
	addresses []netip.Addr // the primary first
	podCIDR   netip.Prefix
	hosts     hostfiles.Node
	qos       qos.Node
}

func look(o options) (n node, err error) {
	if n.podCIDR, err = netip.ParsePrefix(o.podCIDR); err != nil {
		return n, err
	}
	if n.name = o.name; n.name == "" {
		if n.name, err = os.Hostname(); err != nil {
			return n, err
		}
	}
	if n.addresses, err = addresses(n.podCIDR); err != nil {
		return n, err
	}
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return n, err
	}
	if n.hosts.ResolvConf, err = hostfiles.ParseResolvConf(bytes.NewReader(resolv)); err != nil {
		return n, err
	}
	if n.hosts.Hosts, err = os.ReadFile("/etc/hosts"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return n, err
	}
	n.qos.CgroupRoot = path.Join(o.cgroup, "kubepods")
	return n, nil
}

// hugePageSizes are those that the machine has, in bytes.
func hugePageSizes(ctx context.Context, hardware *machine.Machine) (sizes []int64, err error) {
	info, err := hardware.MachineInfo(ctx)
	if err != nil {
		return nil, err
	}
	for _, pages := range info.HugePages {
		sizes = append(sizes, int64(pages.PageSize)<<10) // they are told in KiB
	}
	return sizes, nil
}

// claim makes sure that no other quickstart has this bridge or table, which it
// would take from under that one's pods. Abstract sockets are names of the
// network namespace, as bridges and tables are, and the kernel takes them back
// from the dead.
func claim(o options) (io.Closer, error) {
	var all closers
	for _, name := range []string{"bridge " + o.bridge, "table " + o.table} {
		socket, err := net.Listen("unix", "@nodekit-quickstart "+name)
		if err != nil {
			_ = all.Close()
			if errors.Is(err, syscall.EADDRINUSE) {
				return nil, fmt.Errorf("%s is another quickstart's that runs here; give this one --root, --cgroup, --bridge, --table, --pod-cidr, --listen and --registry of its own", name)
			}
			return nil, fmt.Errorf("claim %s: %w", name, err)
		}
		all = append(all, socket)
	}
	return all, nil
}

type closers []io.Closer

func (all closers) Close() error {
	var errs []error
	for _, one := range all {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}

// addresses of the machine at which node ports answer, IPv4 and not the pods'.
func addresses(podCIDR netip.Prefix) ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var found []netip.Addr
	for _, one := range all {
		prefix, err := netip.ParsePrefix(one.String())
		if err != nil {
			continue
		}
		if addr := prefix.Addr(); addr.Is4() && addr.IsGlobalUnicast() && !podCIDR.Contains(addr) {
			found = append(found, addr)
		}
	}
	return found, nil
}

// primary is the address that the node sends from.
func (n node) primary() netip.Addr {
	if len(n.addresses) == 0 {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return n.addresses[0]
}

func (n node) proxy() proxyrules.Node {
	return proxyrules.Node{Name: n.name, Addresses: n.addresses, PodCIDRs: []netip.Prefix{n.podCIDR}, MasqueradeEgress: true}
}

// removeState removes images and directories, once nothing is mounted there.
func removeState(ctx context.Context, runtime *oci.Runtime, o options) error {
	images, err := runtime.ListImages(ctx)
	if err != nil {
		return err
	}
	for _, image := range images {
		if err := runtime.RemoveImage(ctx, image.ID); err != nil {
			return err
		}
	}
	if err := runtime.Close(); err != nil {
		return err
	}
	for _, part := range []string{"runtime", "pods", "logs"} {
		if err := os.RemoveAll(filepath.Join(o.root, part)); err != nil {
			return err
		}
	}
	if err := os.Remove(o.root); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w (something that is not the quickstart's lies there)", err)
	}
	return nil
}
