package nftables

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// family is what differs between IPv4 and IPv6.
type family struct {
	name         string // of nft
	number       uint8  // NFPROTO_*
	words        int    // 32-bit words of an address
	saddr, daddr uint32 // offsets in the network header
	typeID       uint32 // nft's number of the address type
	typeName     string
	unreachable  byte // ICMP code of port unreachable
	multicast    netip.Prefix
	unspecified  netip.Addr
	// nft's numbers of the header and its daddr field, for typeof
	header, headerDaddr uint32
}

var families = [2]*family{
	{"ip", 2, 1, 12, 16, 7, "ipv4_addr", 3, netip.MustParsePrefix("224.0.0.0/4"), netip.IPv4Unspecified(), 12, 12},
	{"ip6", 10, 4, 8, 24, 8, "ipv6_addr", 4, netip.MustParsePrefix("ff00::/8"), netip.IPv6Unspecified(), 13, 9},
}

func (f *family) has(addr netip.Addr) bool { return addr.Is4() == (f.words == 1) }

type protocol struct {
	name   corev1.Protocol
	lower  string
	number byte
	header uint32 // nft's number, for typeof
}

var protocols = [3]protocol{
	{corev1.ProtocolTCP, "tcp", 6, 8},
	{corev1.ProtocolUDP, "udp", 17, 6},
	{corev1.ProtocolSCTP, "sctp", 132, 10},
}

func protocolIndex(name corev1.Protocol) int {
	for i := range protocols {
		if protocols[i].name == name {
			return i
		}
	}
	return -1
}
