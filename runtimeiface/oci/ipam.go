package oci

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
)

// addresses gives out the addresses of a subnet. An address is lasting because
// it stands in its sandbox's record; after a restart the records are marked
// used again. Addresses are taken in turn, so that a freed one rests as long
// as it can.
type addresses struct {
	subnet netip.Prefix

	mu   sync.Mutex
	used map[netip.Addr]bool
	last netip.Addr
}

func newAddresses(subnet netip.Prefix) *addresses {
	a := &addresses{subnet: subnet, used: map[netip.Addr]bool{}}
	a.last = a.gateway()
	return a
}

func (a *addresses) gateway() netip.Addr { return a.subnet.Addr().Next() }

// take gives an address that is not used.
func (a *addresses) take() (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	broadcast := lastAddr(a.subnet)
	ip := a.last
	for {
		ip = ip.Next()
		if ip == broadcast || !a.subnet.Contains(ip) {
			ip = a.gateway().Next()
		}
		if ip != broadcast && !a.used[ip] {
			a.used[ip], a.last = true, ip
			return ip, nil
		}
		if ip == a.last || ip == broadcast {
			return netip.Addr{}, fmt.Errorf("no address is free in %v", a.subnet)
		}
	}
}

// mark says that an address is used, and was the newest so far.
func (a *addresses) mark(ip netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.used[ip] = true
	if a.subnet.Contains(ip) {
		a.last = ip
	}
}

func (a *addresses) free(ips []netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, ip := range ips {
		delete(a.used, ip)
	}
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	host := uint32(1)<<(32-p.Bits()) - 1
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|host)
	return netip.AddrFrom4(b)
}
