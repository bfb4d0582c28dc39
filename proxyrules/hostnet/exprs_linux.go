package hostnet

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// ruleSet are rules by chain.
type ruleSet struct{ chains map[string][][]expr.Any }

func (s *ruleSet) add(chain string, parts ...[]expr.Any) {
	var all []expr.Any
	for _, part := range parts {
		all = append(all, part...)
	}
	s.chains[chain] = append(s.chains[chain], all)
}

var (
	loopbacks  = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	multicasts = []netip.Prefix{netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("ff00::/8")}
)

func newRuleSet(want Want) *ruleSet {
	s := &ruleSet{chains: map[string][][]expr.Any{}}
	for _, chain := range []string{chainPrerouting, chainOutput} {
		s.add(chain, toNode(), verdict(expr.VerdictJump, chainHostPorts))
	}
	s.add(chainPostrouting, verdict(expr.VerdictJump, chainHairpin))
	s.add(chainPostrouting, verdict(expr.VerdictJump, chainEgress))

	// An answer to loopback cannot come from another machine.
	for _, p := range loopbacks {
		s.add(chainHostPorts, inNetwork(p, false), verdict(expr.VerdictReturn, ""))
	}
	self := make(map[netip.Addr]bool)
	for _, p := range want.HostPorts {
		pod := p.To.Addr()
		var at []expr.Any
		if p.Address.IsValid() {
			at = inNetwork(netip.PrefixFrom(p.Address, p.Address.BitLen()), false)
		}
		s.add(chainHostPorts, isFamily(pod), at, hasPort(p), toPod(p.To))
		if !self[pod] {
			one := netip.PrefixFrom(pod, pod.BitLen())
			s.add(chainHairpin, translated(), inNetwork(one, true), inNetwork(one, false), []expr.Any{&expr.Masq{}})
			self[pod] = true
		}
	}
	if len(want.Pods) == 0 {
		return s
	}
	for _, list := range [][]netip.Prefix{multicasts, want.Pods, want.Except} {
		for _, p := range list {
			s.add(chainEgress, inNetwork(p, false), verdict(expr.VerdictReturn, ""))
		}
	}
	for _, p := range want.Pods {
		s.add(chainEgress, inNetwork(p, true), []expr.Any{&expr.Masq{FullyRandom: true}})
	}
	return s
}

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

func isFamily(addr netip.Addr) []expr.Any {
	family := byte(unix.NFPROTO_IPV4)
	if addr.Is6() {
		family = unix.NFPROTO_IPV6
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
	}
}

// inNetwork matches the packet's source, or its destination.
func inNetwork(p netip.Prefix, source bool) []expr.Any {
	size := uint32(p.Addr().BitLen() / 8)
	offset := uint32(16) // of the destination in an IPv4 header
	switch {
	case p.Addr().Is4() && source:
		offset = 12
	case p.Addr().Is6() && source:
		offset = 8
	case p.Addr().Is6():
		offset = 24
	}
	out := isFamily(p.Addr())
	if p.Bits() == 0 {
		return out
	}
	mask := make([]byte, size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return append(out,
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Addr().AsSlice()},
	)
}

var protocolNumbers = map[string]byte{"TCP": unix.IPPROTO_TCP, "UDP": unix.IPPROTO_UDP, "SCTP": unix.IPPROTO_SCTP}

func hasPort(p HostPort) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocolNumbers[string(p.Protocol)]}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, p.Port)},
	}
}

func toPod(to netip.AddrPort) []expr.Any {
	family := uint32(unix.NFPROTO_IPV4)
	if to.Addr().Is6() {
		family = unix.NFPROTO_IPV6
	}
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: to.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, to.Port())},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: 1, RegProtoMin: 2},
	}
}

// translated matches what a rule sent elsewhere than it was for.
func translated() []expr.Any {
	const statusDNAT = 1 << 5
	mask := binary.NativeEndian.AppendUint32(nil, statusDNAT)
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: mask},
	}
}

// toNode matches what is for an address of the node.
func toNode() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
	}
}
