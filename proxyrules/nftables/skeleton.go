package nftables

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/nodekit/nodekit/proxyrules"
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

// setID is the index of a set among those of a family.
type setID int

const (
	setServices setID = iota
	setNodePorts
	setNoEndpoints
	setNodePortNoEndpoints
	setClusterIPs
	setNodePortIPs
	setHairpin
	setEndpoints         // one for each protocol
	setNodePortEndpoints = setEndpoints + setID(len(protocols))
	setCount             = setNodePortEndpoints + setID(len(protocols))
)

// Numbers of nft's data types (nftables v1.0.6 include/datatype.h).
const (
	typeInteger = 4
	typeProto   = 12
	typeService = 13
	typeVerdict = 0xffffff00
	verdictLen  = 16
	flagMap     = 8
)

type set struct {
	name     string
	text     string // what follows "type" or "typeof"
	typeof   bool
	isMap    bool
	keyType  uint32
	keyLen   uint32
	dataType uint32
	dataLen  uint32
	userdata []byte
}

func (s *set) flags() uint32 {
	if s.isMap {
		return flagMap
	}
	return 0
}

// sets lists the sets of a family, by setID.
func (f *family) sets() [setCount]*set {
	address := uint32(4 * f.words)
	verdicts := func(name string, vip bool) *set {
		s := &set{name: name, isMap: true, keyType: typeProto<<6 | typeService, keyLen: 8,
			text: "inet_proto . inet_service : verdict", dataType: typeVerdict, dataLen: verdictLen}
		if vip {
			s.keyType |= f.typeID << 12
			s.keyLen += address
			s.text = f.typeName + " . " + s.text
		}
		s.userdata = userdata(2, 0, nil, nil)
		return s
	}
	addresses := func(name string) *set {
		return &set{name: name, keyType: f.typeID, keyLen: address, text: f.typeName, userdata: userdata(2, -1, nil, nil)}
	}
	out := [setCount]*set{
		setServices:            verdicts("services", true),
		setNodePorts:           verdicts("nodeports", false),
		setNoEndpoints:         verdicts("no-endpoints", true),
		setNodePortNoEndpoints: verdicts("np-no-endpoints", false),
		setClusterIPs:          addresses("cluster-ips"),
		setNodePortIPs:         addresses("nodeport-ips"),
		setHairpin: {name: "hairpin", keyType: f.typeID<<6 | f.typeID, keyLen: 2 * address,
			text: f.typeName + " . " + f.typeName, userdata: userdata(0, -1, nil, nil)},
	}
	for i, p := range protocols {
		daddr, dport := typeofPayload(f.header, f.headerDaddr), typeofPayload(p.header, 2)
		slot := typeofRandom(65536)
		data := fmt.Sprintf("%s daddr . %s dport", f.name, p.lower)
		vip := &set{name: "ep-" + p.lower, isMap: true, typeof: true, dataType: f.typeID<<6 | typeService, dataLen: address + 4}
		nodePort := *vip
		vip.keyType, vip.keyLen = f.typeID<<12|typeService<<6|typeInteger, address+8
		vip.text = fmt.Sprintf("%s . numgen random mod 65536 : %s", data, data)
		vip.userdata = userdata(0, 0, [][]byte{daddr, dport, slot}, [][]byte{daddr, dport})
		nodePort.name = "np" + vip.name
		nodePort.keyType, nodePort.keyLen = typeService<<6|typeInteger, 8
		nodePort.text = fmt.Sprintf("%s dport . numgen random mod 65536 : %s", p.lower, data)
		nodePort.userdata = userdata(0, 0, [][]byte{dport, slot}, [][]byte{daddr, dport})
		out[setEndpoints+setID(i)] = vip
		out[setNodePortEndpoints+setID(i)] = &nodePort
	}
	return out
}

// hook is where a base chain stands.
type hook struct {
	kind     string // nat or filter
	name     string
	number   uint32 // NF_INET_*
	priority int32
}

type chain struct {
	name  string
	hook  *hook // nil: only reached from other chains
	rules []*rule
}

// skeleton makes the chains of a family that no Service changes.
func (f *family) skeleton(node proxyrules.Node, mark uint32) []*chain {
	r := func(format string, args ...any) *rule { return &rule{text: fmt.Sprintf(format, args...)} }
	jump := func(to string) *rule { return r("jump %s", to).verdict(verdictJump, to) }
	address := uint32(4 * f.words)
	daddr := func(r *rule) *rule { return r.payload(0, baseNetwork, f.daddr, address) }
	// front looks a VIP's address, protocol and port up.
	front := func(set string) *rule {
		return daddr(r("%s daddr . meta l4proto . th dport vmap @%s", f.name, set)).
			meta(f.words, metaL4Proto).dport(f.words+1).vmap(0, set)
	}
	nodePort := func(set string) *rule {
		return daddr(r("%s daddr @nodeport-ips meta l4proto . th dport vmap @%s", f.name, set)).
			lookup(0, "nodeport-ips").meta(0, metaL4Proto).dport(1).vmap(0, set)
	}
	fresh := func() []*rule {
		return []*rule{r("ct state new jump refusals").ct(0, ctState).
			bitwise(0, host32(stateNew), host32(0)).cmp(0, opNotEqual, host32(0)).verdict(verdictJump, "refusals")}
	}
	setMark := markRule(mark)

	offCluster := &chain{name: "mark-off-cluster"}
	egress := &chain{name: "egress"}
	f.sourceRules(node, offCluster, egress, setMark)

	return []*chain{
		{"prerouting", &hook{"nat", "prerouting", 0, -100}, []*rule{jump("dispatch")}},
		{"output", &hook{"nat", "output", 3, -100}, []*rule{jump("dispatch")}},
		{"postrouting", &hook{"nat", "postrouting", 4, 100}, []*rule{
			r("meta mark & 0x%08x == 0x%08x jump source-node", mark, mark).meta(0, metaMark).
				bitwise(0, host32(mark), host32(0)).cmp(0, opEqual, host32(mark)).verdict(verdictJump, "source-node"),
			r("ct status dnat %s saddr . %s daddr @hairpin masquerade fully-random", f.name, f.name).ct(0, ctStatus).
				bitwise(0, host32(statusDNAT), host32(0)).cmp(0, opNotEqual, host32(0)).
				payload(0, baseNetwork, f.saddr, address).payload(f.words, baseNetwork, f.daddr, address).
				lookup(0, "hairpin").masquerade(),
			jump("egress"),
		}},
		{"filter-input", &hook{"filter", "input", 1, -99}, fresh()},
		{"filter-forward", &hook{"filter", "forward", 2, -99}, fresh()},
		{"filter-output", &hook{"filter", "output", 3, -99}, fresh()},
		{"dispatch", nil, []*rule{
			daddr(r("%s daddr @cluster-ips jump mark-off-cluster", f.name)).lookup(0, "cluster-ips").verdict(verdictJump, "mark-off-cluster"),
			front("services"),
			nodePort("nodeports"),
		}},
		offCluster,
		{"refusals", nil, []*rule{
			front("no-endpoints"),
			nodePort("np-no-endpoints"),
			daddr(r("%s daddr @cluster-ips goto refuse", f.name)).lookup(0, "cluster-ips").verdict(verdictGoto, "refuse"),
		}},
		// TCP is reset rather than told by ICMP, which is rate-limited, and
		// which an IPv6 socket on this node hears only at its second attempt.
		{"refuse", nil, []*rule{
			r("meta l4proto tcp reject with tcp reset").meta(0, metaL4Proto).cmp(0, opEqual, []byte{6}).reject(rejectReset, 0),
			r("reject").reject(rejectUnreachable, f.unreachable),
		}},
		{"source-node", nil, []*rule{
			r("meta mark set meta mark ^ 0x%08x", mark).meta(0, metaMark).
				bitwise(0, host32(0xffffffff), host32(mark)).setMark(0),
			r("masquerade fully-random").masquerade(),
		}},
		egress,
	}
}

func markRule(mark uint32) *rule {
	r := &rule{text: fmt.Sprintf("meta mark set meta mark | 0x%08x", mark)}
	return r.meta(0, metaMark).bitwise(0, host32(^mark), host32(mark)).setMark(0)
}

// sourceRules fills the chains that say whose address is hidden.
func (f *family) sourceRules(node proxyrules.Node, offCluster, egress *chain, setMark *rule) {
	match := func(field string, offset uint32, p netip.Prefix, then string) *rule {
		r := &rule{text: fmt.Sprintf("%s %s %s %s", f.name, field, p, then)}
		if p.IsSingleIP() {
			r.text = fmt.Sprintf("%s %s %s %s", f.name, field, p.Addr(), then)
		}
		if p.Bits() == 0 {
			r.text = then // matches all
			return r
		}
		return r.prefix(offset, p)
	}
	mine := func(prefixes []netip.Prefix) (out []netip.Prefix) {
		for _, p := range prefixes {
			if f.has(p.Addr()) {
				out = append(out, p)
			}
		}
		return out
	}
	pods := mine(node.PodCIDRs)
	if node.MasqueradeAll {
		offCluster.rules = []*rule{setMark}
	} else if len(pods) > 0 {
		for _, p := range pods {
			offCluster.rules = append(offCluster.rules, match("saddr", f.saddr, p, "return").verdict(verdictReturn, ""))
		}
		offCluster.rules = append(offCluster.rules, setMark)
	}
	if !node.MasqueradeEgress || len(pods) == 0 {
		return
	}
	inside := append(append([]netip.Prefix{f.multicast}, pods...), mine(node.NoMasquerade)...)
	for _, p := range inside {
		egress.rules = append(egress.rules, match("daddr", f.daddr, p, "return").verdict(verdictReturn, ""))
	}
	for _, p := range pods {
		egress.rules = append(egress.rules, match("saddr", f.saddr, p, "masquerade fully-random").masquerade())
	}
}

// balancer names the chain that balances over n endpoints.
type balancer struct {
	protocol   int
	n          int
	nodePort   bool
	masquerade bool
}

func (b balancer) name() string {
	prefix := "lb"
	if b.nodePort {
		prefix = "nlb"
	}
	if b.masquerade {
		prefix = "m" + prefix
	}
	return fmt.Sprintf("%s-%s-%d", prefix, protocols[b.protocol].lower, b.n)
}

func isBalancer(name string) bool {
	prefix, _, _ := strings.Cut(name, "-")
	return prefix == "lb" || prefix == "nlb" || prefix == "mlb" || prefix == "mnlb"
}

func (f *family) balancerChain(b balancer, mark uint32) *chain {
	c := &chain{name: b.name()}
	if b.masquerade {
		plain := b
		plain.masquerade = false
		goTo := &rule{text: "goto " + plain.name()}
		c.rules = []*rule{markRule(mark), goTo.verdict(verdictGoto, plain.name())}
		return c
	}
	c.rules = []*rule{f.pick(b, b.n)}
	if b.n > 1 {
		// A packet that came here just before the Service lost an endpoint may
		// find its slot gone. The first one is there as long as any is.
		c.rules = append(c.rules, f.pick(b, 1))
	}
	return c
}

// pick sends a packet to one of the first n slots of its front.
func (f *family) pick(b balancer, n int) *rule {
	p := protocols[b.protocol]
	r := new(rule)
	r.meta(0, metaL4Proto).cmp(0, opEqual, []byte{p.number})
	word, key, maps := 0, "", "npep-"
	if !b.nodePort {
		r.payload(0, baseNetwork, f.daddr, uint32(4*f.words))
		word, key, maps = f.words, f.name+" daddr . ", "ep-"
	}
	r.dport(word).random(word+1, uint32(n)).lookupTo(0, maps+p.lower, reg(0)).dnat(uint32(f.number), 0, f.words)
	r.text = fmt.Sprintf("dnat %s to %s%s dport . numgen random mod %d map @%s%s", f.name, key, p.lower, n, maps, p.lower)
	return r
}

// What follows writes what nft keeps beside a set so that it can list it:
// tag, length, value; numbers in host order (nftables v1.0.6 src/mnl.c,
// src/expression.c).

func tlv(tag byte, value []byte) []byte { return append([]byte{tag, byte(len(value))}, value...) }

func tlv32(tag byte, v uint32) []byte { return tlv(tag, binary.NativeEndian.AppendUint32(nil, v)) }

// userdata of a set; dataOrder is negative for one that is no map.
func userdata(keyOrder uint32, dataOrder int, key, data [][]byte) []byte {
	out := tlv32(0, keyOrder)
	if dataOrder >= 0 {
		out = append(out, tlv32(1, uint32(dataOrder))...)
	}
	const keyTypeof, dataTypeof, dataInterval = 3, 4, 6
	if key != nil {
		out = append(out, tlv(keyTypeof, typeofConcat(key))...)
	}
	if data != nil {
		out = append(out, tlv(dataTypeof, typeofConcat(data))...)
	}
	if dataOrder >= 0 {
		out = append(out, tlv32(dataInterval, 0)...)
	}
	return out
}

const (
	exprPayload = 7
	exprConcat  = 13
	exprNumgen  = 23
)

func typeofConcat(parts [][]byte) []byte {
	var list []byte
	for i, part := range parts {
		list = append(list, tlv(byte(i), part)...)
	}
	return append(tlv32(0, exprConcat), tlv(1, list)...)
}

func typeofPayload(header, field uint32) []byte {
	return append(tlv32(0, exprPayload), tlv(1, append(tlv32(0, header), tlv32(1, field)...))...)
}

func typeofRandom(modulus uint32) []byte {
	fields := append(tlv32(0, 1), tlv32(1, modulus)...)
	return append(tlv32(0, exprNumgen), tlv(1, append(fields, tlv32(2, 0)...))...)
}
