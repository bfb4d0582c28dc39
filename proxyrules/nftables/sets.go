package nftables

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// setID is the index of a set among those of a family.
type setID int

// Each that stands at VIPs has a twin for node ports, and from setEndpoints on
// each is there for every protocol.
const (
	setServices setID = iota
	setNodePorts
	setLocal // of policy Local: for those who are not inside
	setNodePortLocal
	setInside // of policy Local: for pods and the node itself
	setNodePortInside
	setNoEndpoints
	setNodePortNoEndpoints
	setSourceRanges
	setClusterIPs
	setNodePortIPs
	setHairpin
	setEndpoints
	setNodePortEndpoints = setEndpoints + setID(len(protocols))
	setPicks             = setNodePortEndpoints + setID(len(protocols)) // tokens by slot
	setNodePortPicks     = setPicks + setID(len(protocols))
	setAffinity          = setNodePortPicks + setID(len(protocols)) // tokens by client
	setTokens            = setAffinity + setID(len(protocols))      // endpoints by token
	setCount             = setTokens + setID(len(protocols))
)

// learned says that the kernel itself fills the set.
func (id setID) learned() bool { return id >= setAffinity && id < setTokens }

// bySlot says that the key ends with the index of an endpoint.
func (id setID) bySlot() bool { return id >= setEndpoints && id < setAffinity }

// Numbers of nft's data types (nftables v1.0.6 include/datatype.h).
const (
	typeInteger = 4
	typeProto   = 12
	typeService = 13
	typeClassID = 23
	typeVerdict = 0xffffff00
	verdictLen  = 16
	flagMap     = 8
	flagTimeout = 0x10
	flagDynamic = 0x20

	// maxClients is how many client addresses are remembered for one protocol.
	maxClients = 1 << 20
	// maxAffinity is for how many seconds at most, as the API allows; rules say
	// how long it is.
	maxAffinity = 86400
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
	dynamic  bool   // filled by rules, and what is in it times out
	size     uint32 // the most elements of a dynamic one
	userdata []byte
}

func (s *set) flags() (flags uint32) {
	if s.isMap {
		flags |= flagMap
	}
	if s.dynamic {
		flags |= flagTimeout | flagDynamic
	}
	return flags
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
		setLocal:               verdicts("local", true),
		setNodePortLocal:       verdicts("np-local", false),
		setInside:              verdicts("inside", true),
		setNodePortInside:      verdicts("np-inside", false),
		setNoEndpoints:         verdicts("no-endpoints", true),
		setNodePortNoEndpoints: verdicts("np-no-endpoints", false),
		setSourceRanges:        verdicts("source-ranges", true),
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
		pick, nodePortPick := *vip, nodePort
		for _, s := range []*set{&pick, &nodePortPick} {
			s.text = strings.Replace(s.text, data, "meta priority", 1)
			s.dataType, s.dataLen = typeClassID, 4
		}
		pick.text = fmt.Sprintf("%s . numgen random mod 65536 : meta priority", data)
		pick.name, nodePortPick.name = "pick-"+p.lower, "nppick-"+p.lower
		pick.userdata = userdata(0, 1, [][]byte{daddr, dport, slot}, [][]byte{typeofPriority()})
		nodePortPick.userdata = userdata(0, 1, [][]byte{dport, slot}, [][]byte{typeofPriority()})
		out[setPicks+setID(i)] = &pick
		out[setNodePortPicks+setID(i)] = &nodePortPick
		out[setAffinity+setID(i)] = &set{name: "affinity-" + p.lower, isMap: true, dynamic: true, size: maxClients,
			keyType: typeClassID<<6 | f.typeID, keyLen: 4 + address, dataType: typeClassID, dataLen: 4,
			text: fmt.Sprintf("classid . %s : classid", f.typeName), userdata: userdata(0, 1, nil, nil)}
		out[setTokens+setID(i)] = &set{name: "affinity-ep-" + p.lower, isMap: true,
			keyType: typeClassID, keyLen: 4, dataType: f.typeID<<6 | typeService, dataLen: address + 4,
			text: fmt.Sprintf("classid : %s . inet_service", f.typeName), userdata: userdata(1, 0, nil, nil)}
	}
	return out
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
	if len(data) == 1 {
		out = append(out, tlv(dataTypeof, data[0])...)
	} else if data != nil {
		out = append(out, tlv(dataTypeof, typeofConcat(data))...)
	}
	if dataOrder >= 0 {
		out = append(out, tlv32(dataInterval, 0)...)
	}
	return out
}

const (
	exprPayload = 7
	exprMeta    = 9
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

func typeofPriority() []byte { return append(tlv32(0, exprMeta), tlv(1, tlv32(0, metaPriority))...) }
