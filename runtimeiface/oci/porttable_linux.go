package oci

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// portTable is the table of nf_tables that host ports are made of:
//
//	table inet nodekit-hostport-0123456789ab {
//		map any4  { type inet_proto . inet_service : ipv4_addr . inet_service }
//		map one4  { type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service }
//		set self4 { type ipv4_addr . ipv4_addr }
//		(any6, one6 and self6 likewise)
//		chain ports {
//			meta nfproto ipv4 dnat ip to meta l4proto . ip daddr . th dport map @one4
//			meta nfproto ipv4 dnat ip to meta l4proto . th dport map @any4
//			(the same of IPv6, but for ip6 daddr ::1)
//		}
//		chain prerouting  { type nat hook prerouting priority dstnat; fib daddr type local jump ports }
//		chain output      { type nat hook output priority dstnat; fib daddr type local jump ports }
//		chain postrouting { type nat hook postrouting priority srcnat
//			ip saddr . ip daddr @self4 masquerade
//			ip6 saddr . ip6 daddr @self6 masquerade
//			oifname BRIDGE ip saddr 127.0.0.0/8 masquerade
//		}
//		chain guard { type filter hook prerouting priority raw
//			iifname BRIDGE ip saddr 127.0.0.0/8 drop
//			iifname BRIDGE ip daddr 127.0.0.0/8 drop
//		}
//	}
//
// Only what is for the node itself is translated: a mapping cannot take what
// goes through. Only a pod that calls itself by the node's port, and the node's
// loopback, are masqueraded; all others are seen by their own addresses. The
// kernel takes no answer to ::1 from outside: [::1] is left alone, and refuses.
type portTable struct {
	netNS  int
	bridge string
	table  *nftables.Table
	sets   [setCount]*nftables.Set
}

// The sets and maps of the table. Those of IPv6 follow at setIPv6.
const (
	setAny = iota
	setOne
	setSelf
	setIPv6
	setCount = 2 * setIPv6
)

// elements are by set.
type elements [setCount][]nftables.SetElement

func (e *elements) append(more elements) {
	for i := range more {
		e[i] = append(e[i], more[i]...)
	}
}

var protocolNumbers = map[string]byte{"TCP": unix.IPPROTO_TCP, "UDP": unix.IPPROTO_UDP, "SCTP": unix.IPPROTO_SCTP}

// elements of a pod: one a mapping and family, and one for the pod itself.
func (p *portsOfPod) elements() elements {
	var e elements
	for _, ip := range p.ips {
		family := 0
		if ip.Is6() {
			family = setIPv6
		}
		used := false
		for _, m := range p.mappings {
			if m.HostIP.IsValid() && m.HostIP.Is4() != ip.Is4() {
				continue
			}
			used = true
			key, set := register([]byte{protocolNumbers[m.Protocol]}), setAny
			if m.HostIP.IsValid() && !m.HostIP.IsUnspecified() {
				key, set = append(key, m.HostIP.AsSlice()...), setOne
			}
			e[family+set] = append(e[family+set], nftables.SetElement{
				Key: append(key, portRegister(m.HostPort)...),
				Val: append(ip.AsSlice(), portRegister(m.ContainerPort)...),
			})
		}
		if used {
			e[family+setSelf] = append(e[family+setSelf], nftables.SetElement{Key: append(ip.AsSlice(), ip.AsSlice()...)})
		}
	}
	return e
}

// register pads to the size of a register.
func register(b []byte) []byte { return append(b, make([]byte, 4-len(b))...) }

func portRegister(port uint16) []byte { return register(binary.BigEndian.AppendUint16(nil, port)) }

func newPortTable(name, bridge string, netNS int) *portTable {
	t := &portTable{netNS: netNS, bridge: bridge, table: &nftables.Table{Name: name, Family: nftables.TableFamilyINet}}
	for family, addr := range []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeIP6Addr} {
		suffix := []string{"4", "6"}[family]
		target := nftables.MustConcatSetType(addr, nftables.TypeInetService)
		for i, set := range []nftables.Set{
			setAny:  {Name: "any", IsMap: true, KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService), DataType: target},
			setOne:  {Name: "one", IsMap: true, KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, addr, nftables.TypeInetService), DataType: target},
			setSelf: {Name: "self", KeyType: nftables.MustConcatSetType(addr, addr)},
		} {
			set.Table, set.Name, set.Concatenation = t.table, set.Name+suffix, true
			set.ID = uint32(family*setIPv6 + i + 1) // within one transaction
			t.sets[family*setIPv6+i] = &set
		}
	}
	return t
}

func (t *portTable) conn() (*nftables.Conn, error) {
	return nftables.New(nftables.WithNetNSFd(t.netNS))
}

func (t *portTable) exists() (bool, error) {
	conn, err := t.conn()
	if err != nil {
		return false, err
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	for _, table := range tables {
		if table.Name == t.table.Name {
			return true, err
		}
	}
	return false, err
}

func (t *portTable) delete() error {
	conn, err := t.conn()
	if err != nil {
		return err
	}
	conn.DelTable(t.table)
	return conn.Flush()
}

// add and remove change what the elements are, and nothing else. unix.ENOENT:
// the table or an element is not there.
func (t *portTable) add(e elements) error { return t.change((*nftables.Conn).SetAddElements, e) }

func (t *portTable) remove(e elements) error { return t.change((*nftables.Conn).SetDeleteElements, e) }

func (t *portTable) change(do func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error, e elements) error {
	conn, err := t.conn()
	if err != nil {
		return err
	}
	for i, list := range e {
		if len(list) == 0 {
			continue
		}
		if err := do(conn, t.sets[i], list); err != nil {
			return err
		}
	}
	return conn.Flush()
}

// replace makes the table anew: packets see the old one or the new one.
func (t *portTable) replace(e elements) error {
	conn, err := t.conn()
	if err != nil {
		return err
	}
	conn.AddTable(t.table) // else there might be none to delete
	conn.DelTable(t.table)
	conn.AddTable(t.table)
	for i, set := range t.sets {
		if err := conn.AddSet(set, e[i]); err != nil {
			return err
		}
	}
	t.addRules(conn)
	return conn.Flush()
}

func (t *portTable) addRules(conn *nftables.Conn) {
	rule := func(chain *nftables.Chain, parts ...[]expr.Any) {
		var all []expr.Any
		for _, part := range parts {
			all = append(all, part...)
		}
		conn.AddRule(&nftables.Rule{Table: t.table, Chain: chain, Exprs: all})
	}
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
		return conn.AddChain(&nftables.Chain{Table: t.table, Name: name, Type: kind, Hooknum: hook, Priority: priority})
	}
	ports := conn.AddChain(&nftables.Chain{Table: t.table, Name: "ports"})
	for _, f := range families {
		if f.sets == setIPv6 {
			rule(ports, f.is(), f.loopback(f.destination), verdict(expr.VerdictReturn, ""))
		}
		rule(ports, f.is(), f.translate(t.sets[f.sets+setOne], true))
		rule(ports, f.is(), f.translate(t.sets[f.sets+setAny], false))
	}
	for _, c := range []*nftables.Chain{
		base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest),
		base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest),
	} {
		rule(c, toNode(), verdict(expr.VerdictJump, ports.Name))
	}
	post := base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	guard := base("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	masquerade := []expr.Any{&expr.Masq{}}
	for _, f := range families {
		rule(post, f.is(), f.self(t.sets[f.sets+setSelf]), masquerade)
	}
	ipv4 := families[0]
	rule(post, interfaceIs(expr.MetaKeyOIFNAME, t.bridge), ipv4.is(), ipv4.loopback(ipv4.source), masquerade)
	for _, offset := range []uint32{ipv4.source, ipv4.destination} {
		rule(guard, interfaceIs(expr.MetaKeyIIFNAME, t.bridge), ipv4.is(), ipv4.loopback(offset), verdict(expr.VerdictDrop, ""))
	}
}

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

// family has what differs between IPv4 and IPv6.
type family struct {
	proto               byte // NFPROTO_*
	sets                int  // of portTable
	size                uint32
	source, destination uint32 // offsets in the header
	loopbackNet         netip.Prefix
	portRegister        uint32 // of a map's value, after the address
}

// Registers of nf_tables: 1 to 4 are of 16 bytes, 8 to 23 are quarters of them
// (include/uapi/linux/netfilter/nf_tables.h of Linux 6.12).
const (
	register1 = 1
	quarter0  = 8
)

var families = [2]family{
	{proto: unix.NFPROTO_IPV4, sets: 0, size: 4, source: 12, destination: 16, loopbackNet: netip.MustParsePrefix("127.0.0.0/8"), portRegister: quarter0 + 1},
	{proto: unix.NFPROTO_IPV6, sets: setIPv6, size: 16, source: 8, destination: 24, loopbackNet: netip.MustParsePrefix("::1/128"), portRegister: quarter0 + 4},
}

func (f family) is() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register1, Data: []byte{f.proto}},
	}
}

func (f family) load(offset, to uint32) expr.Any {
	return &expr.Payload{DestRegister: to, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.size}
}

// translate is a dnat to what the map has for protocol, address if asked for,
// and port.
func (f family) translate(m *nftables.Set, withAddress bool) []expr.Any {
	next := uint32(quarter0)
	list := []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: next}}
	next++
	if withAddress {
		list = append(list, f.load(f.destination, next))
		next += f.size / 4
	}
	return append(list,
		&expr.Payload{DestRegister: next, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: quarter0, DestRegister: register1, IsDestRegSet: true, SetName: m.Name, SetID: m.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.proto), RegAddrMin: register1, RegProtoMin: f.portRegister},
	)
}

// self matches what a pod sends to itself.
func (f family) self(set *nftables.Set) []expr.Any {
	return []expr.Any{
		f.load(f.source, quarter0), f.load(f.destination, quarter0+f.size/4),
		&expr.Lookup{SourceRegister: quarter0, SetName: set.Name, SetID: set.ID},
	}
}

// loopback matches a loopback address at an offset of the header.
func (f family) loopback(offset uint32) []expr.Any {
	mask := make([]byte, f.size)
	for i := range f.loopbackNet.Bits() / 8 {
		mask[i] = 0xff
	}
	return []expr.Any{
		f.load(offset, register1),
		&expr.Bitwise{SourceRegister: register1, DestRegister: register1, Len: f.size, Mask: mask, Xor: make([]byte, f.size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register1, Data: f.loopbackNet.Addr().AsSlice()},
	}
}

// toNode matches what is for an address of the node.
func toNode() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: register1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register1, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
	}
}

func interfaceIs(key expr.MetaKey, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{
		&expr.Meta{Key: key, Register: register1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register1, Data: padded},
	}
}
