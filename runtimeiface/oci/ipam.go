package oci

import (
	"fmt"
	"net/netip"
	"sync"
)

// addresses gives out the addresses of a subnet. An address is lasting because
// it stands in its sandbox's record; after a restart the records are marked
// used again. Addresses are taken in turn, so that a freed one rests as long
// as it can.
type addresses struct {
	field  string // of Config
	subnet netip.Prefix

	mu   sync.Mutex
	used map[netip.Addr]string // by whom
	last netip.Addr
}

func newAddresses(field string, subnet netip.Prefix) *addresses {
	a := &addresses{field: field, subnet: subnet, used: map[netip.Addr]string{}}
	a.last = a.gateway()
	return a
}

func (a *addresses) gateway() netip.Addr { return a.subnet.Addr().Next() }

// take gives an address that is not used to a sandbox.
func (a *addresses) take(sandboxID string) (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ip := a.last
	// Past the used ones lie at most the subnet's own, the gateway's and the
	// broadcast address.
	for range len(a.used) + 4 {
		if ip = ip.Next(); !a.subnet.Contains(ip) {
			ip = a.subnet.Addr()
		}
		if a.forPods(ip) && a.used[ip] == "" {
			a.used[ip], a.last = sandboxID, ip
			return ip, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("config: %s: no address is free: %d pods have one each", a.field, len(a.used))
}

// forPods leaves out the bridge's address, the subnet's own (in IPv6 that of
// any router, RFC 4291 section 2.6.1) and the broadcast address of IPv4.
func (a *addresses) forPods(ip netip.Addr) bool {
	broadcast := ip.Is4() && !a.subnet.Contains(ip.Next())
	return a.subnet.Contains(ip) && ip != a.subnet.Addr() && ip != a.gateway() && !broadcast
}

// mark says that an address is used, and was the newest so far.
func (a *addresses) mark(ip netip.Addr, sandboxID string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.forPods(ip) { // else the subnet was another when it was taken
		a.used[ip], a.last = sandboxID, ip
	}
}

func (a *addresses) inUse(ip netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.used[ip] != ""
}

// free is nothing if the sandbox does not have the address, or no more.
func (a *addresses) free(ip netip.Addr, sandboxID string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.used[ip] == sandboxID {
		delete(a.used, ip)
	}
}
