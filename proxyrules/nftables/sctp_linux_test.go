package nftables_test

import (
	"net/netip"

	"github.com/nodekit/nodekit/internal/nettest"
	. "github.com/onsi/ginkgo/v2"
)

// serveSCTP answers at a port with the host's name and the address that it sees.
func (h *host) serveSCTP(port uint16) {
	GinkgoHelper()
	for _, addr := range []netip.Addr{h.v4, h.v6} {
		nettest.ServeSCTP(GinkgoT(), h.NetNS, netip.AddrPortFrom(addr, port), func(peer netip.Addr) string { return h.name + " " + peer.String() })
	}
}

// askProto asks over TCP, UDP or SCTP.
func (h *host) askProto(proto string, to netip.AddrPort) (string, error) {
	if proto == "sctp" {
		return nettest.AskSCTP(h.NetNS, to)
	}
	return h.ask(proto, to.String())
}
