package main

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit/nodekit/internal/kerneltest"
)

const (
	// podNet holds endpoints and clients.
	podNet = "10.128.0.0/9"
	// endpointNet holds the addresses of endpoints, all of one machine here.
	endpointNet = "10.128.0.0/10"
	clientIP    = "10.255.0.2"
	serverIP    = "10.254.0.2"
)

// proxyWorld is a node with its API server, a pod that connects, and a machine
// that has all endpoints' addresses: a network namespace each.
type proxyWorld struct {
	node, client, server *kerneltest.NetNS
	api                  *fakeAPI
	url                  string
	accepting            *acceptor
}

func newProxyWorld() (_ *proxyWorld, err error) {
	w := &proxyWorld{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	for _, ns := range []**kerneltest.NetNS{&w.node, &w.client, &w.server} {
		if *ns, err = kerneltest.OpenNetNS(); err != nil {
			return nil, err
		}
	}
	if err := w.node.Do(w.plugNode); err != nil {
		return nil, err
	}
	for _, end := range []struct {
		ns   *kerneltest.NetNS
		addr string
	}{{w.client, clientIP}, {w.server, serverIP}} {
		if err := end.ns.Do(func() error { return plugEnd(end.addr) }); err != nil {
			return nil, err
		}
	}
	err = w.server.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: network(endpointNet), Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST})
	})
	if err != nil {
		return nil, fmt.Errorf("endpoints: %w", err)
	}
	if w.accepting, err = accept(w.server); err != nil {
		return nil, err
	}
	var listener net.Listener
	if err := w.node.Do(func() (err error) { listener, err = net.Listen("tcp", "127.0.0.1:0"); return err }); err != nil {
		return nil, err
	}
	w.api, w.url = newFakeAPI(listener), "http://"+listener.Addr().String()
	return w, nil
}

func (w *proxyWorld) close() error {
	var errs []error
	if w.api != nil {
		errs = append(errs, w.api.close())
	}
	if w.accepting != nil {
		errs = append(errs, w.accepting.close())
	}
	for _, ns := range []*kerneltest.NetNS{w.node, w.client, w.server} {
		if ns != nil {
			errs = append(errs, ns.Close())
		}
	}
	return errors.Join(errs...)
}

func network(text string) *net.IPNet {
	_, n, err := net.ParseCIDR(text)
	if err != nil {
		panic(err) // a constant of this package
	}
	return n
}

func (w *proxyWorld) plugNode() error {
	for path, value := range map[string]string{"ipv4/ip_forward": "1", "ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0"} {
		if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0); err != nil {
			return err
		}
	}
	for _, end := range []struct {
		name    string
		ns      *kerneltest.NetNS
		route   string
		gateway net.IP // nil: the other end itself
	}{{"client", w.client, clientIP + "/32", nil}, {"server", w.server, podNet, net.ParseIP(serverIP)}} {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: end.name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(end.ns.FD())}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("add link: %w", err)
		}
		if err := netlink.LinkSetUp(veth); err != nil {
			return err
		}
		route := &netlink.Route{LinkIndex: veth.Attrs().Index, Dst: network(end.route), Scope: netlink.SCOPE_LINK}
		if end.gateway != nil {
			route.Scope, route.Gw, route.Flags = netlink.SCOPE_UNIVERSE, end.gateway, int(netlink.FLAG_ONLINK)
		}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("route: %w", err)
		}
	}
	link, err := netlink.LinkByName("client")
	if err != nil {
		return err
	}
	return netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(nodeIP), Mask: net.CIDRMask(24, 32)}})
}

// plugEnd sets up a machine whose only way leads to the node.
func plugEnd(addr string) error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(addr), Mask: net.CIDRMask(32, 32)}}); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(nodeIP), Flags: int(netlink.FLAG_ONLINK)})
}
