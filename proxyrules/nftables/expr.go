package nftables

import (
	"encoding/binary"
	"net/netip"
)

// Numbers of Linux v6.12 include/uapi/linux/netfilter/nf_tables.h.
const (
	verdictDrop   uint32 = 0
	verdictJump   uint32 = 0xfffffffd
	verdictGoto   uint32 = 0xfffffffc
	verdictReturn uint32 = 0xfffffffb

	baseNetwork   = 1
	baseTransport = 2

	metaPriority = 2
	metaMark     = 3
	metaIifName  = 6
	metaL4Proto  = 16

	fibSourceAddr  = 1 // NFTA_FIB_F_SADDR
	fibAddressType = 3 // NFT_FIB_RESULT_ADDRTYPE
	typeLocal      = 2 // RTN_LOCAL

	dynsetUpdate = 1
	dynsetDelete = 2

	ctState  = 0
	ctStatus = 2

	rejectUnreachable = 0

	opEqual    = 0
	opNotEqual = 1

	stateNew      = 8    // nft's bit of ct state new
	statusDNAT    = 0x20 // IPS_DST_NAT
	masqFully     = 0x10 // NF_NAT_RANGE_PROTO_RANDOM_FULLY
	natDNAT       = 1
	rejectReset   = 1
	numgenRandom  = 1
	firstRegister = 8 // NFT_REG32_00
)

// reg is the register that starts at the given 32-bit word.
func reg(word int) uint32 { return uint32(firstRegister + word) }

// rule is a rule being written: its text for people, its expressions for the
// kernel.
type rule struct {
	text  string
	exprs buffer
}

func (r *rule) expr(name string, fill func(w *buffer)) *rule {
	w := &r.exprs
	elem := w.begin(1) // NFTA_LIST_ELEM
	w.text(1, name)    // NFTA_EXPR_NAME
	data := w.begin(2) // NFTA_EXPR_DATA
	fill(w)
	w.end(data)
	w.end(elem)
	return r
}

func (r *rule) payload(word int, base, offset, length uint32) *rule {
	return r.expr("payload", func(w *buffer) {
		w.u32(1, reg(word))
		w.u32(2, base)
		w.u32(3, offset)
		w.u32(4, length)
	})
}

// dport loads the destination port of TCP, UDP and SCTP.
func (r *rule) dport(word int) *rule { return r.payload(word, baseTransport, 2, 2) }

func (r *rule) meta(word int, key uint32) *rule {
	return r.expr("meta", func(w *buffer) { w.u32(1, reg(word)); w.u32(2, key) })
}

func (r *rule) setMark(word int) *rule { return r.setMeta(word, metaMark) }

func (r *rule) setPriority(word int) *rule { return r.setMeta(word, metaPriority) }

func (r *rule) setMeta(word int, key uint32) *rule {
	return r.expr("meta", func(w *buffer) { w.u32(2, key); w.u32(3, reg(word)) })
}

// iifname compares the name of the link that a packet came in by; '*' at the
// end stands for any letters.
func (r *rule) iifname(name string) *rule {
	letters, open := wildcard(name)
	value := []byte(letters)
	if !open {
		value = append(value, make([]byte, 16-len(value))...)
	}
	return r.meta(0, metaIifName).cmp(0, opEqual, value)
}

// fibSource loads what sort of address the sender's is.
func (r *rule) fibSource() *rule {
	return r.expr("fib", func(w *buffer) {
		w.u32(1, reg(0))
		w.u32(2, fibAddressType)
		w.u32(3, fibSourceAddr)
	})
}

func (r *rule) immediate(word int, value []byte) *rule {
	return r.expr("immediate", func(w *buffer) {
		w.u32(1, reg(word))
		data := w.begin(2)
		w.bytes(1, value)
		w.end(data)
	})
}

// dynset changes the element whose key and data are in registers; timeout in
// milliseconds.
func (r *rule) dynset(set string, op uint32, keyWord, dataWord int, timeout uint64) *rule {
	return r.expr("dynset", func(w *buffer) {
		w.text(1, set)
		w.u32(3, op)
		w.u32(4, reg(keyWord))
		w.u32(5, reg(dataWord))
		if timeout > 0 {
			w.u64(6, timeout)
		}
	})
}

func (r *rule) ct(word int, key uint32) *rule {
	return r.expr("ct", func(w *buffer) { w.u32(1, reg(word)); w.u32(2, key) })
}

func (r *rule) cmp(word int, op uint32, value []byte) *rule {
	return r.expr("cmp", func(w *buffer) {
		w.u32(1, reg(word))
		w.u32(2, op)
		data := w.begin(3)
		w.bytes(1, value)
		w.end(data)
	})
}

// bitwise does register = register & mask ^ xor.
func (r *rule) bitwise(word int, mask, xor []byte) *rule {
	return r.expr("bitwise", func(w *buffer) {
		w.u32(1, reg(word))
		w.u32(2, reg(word))
		w.u32(3, uint32(len(mask)))
		data := w.begin(4)
		w.bytes(1, mask)
		w.end(data)
		data = w.begin(5)
		w.bytes(1, xor)
		w.end(data)
	})
}

func (r *rule) lookup(word int, set string) *rule {
	return r.expr("lookup", func(w *buffer) { w.text(1, set); w.u32(2, reg(word)) })
}

// lookupTo loads a map's value from register word on.
func (r *rule) lookupTo(word int, set string, to uint32) *rule {
	return r.expr("lookup", func(w *buffer) { w.text(1, set); w.u32(2, reg(word)); w.u32(3, to) })
}

// vmap does what the map's verdict says.
func (r *rule) vmap(word int, set string) *rule { return r.lookupTo(word, set, 0) }

// random loads a number of offset to offset+modulus-1.
func (r *rule) random(word int, modulus, offset uint32) *rule {
	return r.expr("numgen", func(w *buffer) {
		w.u32(1, reg(word))
		w.u32(2, modulus)
		w.u32(3, numgenRandom)
		w.u32(4, offset)
	})
}

func (r *rule) dnat(family uint32, addrWord, portWord int) *rule {
	return r.expr("nat", func(w *buffer) {
		w.u32(1, natDNAT)
		w.u32(2, family)
		w.u32(3, reg(addrWord))
		w.u32(5, reg(portWord))
	})
}

func (r *rule) masquerade() *rule {
	return r.expr("masq", func(w *buffer) { w.u32(1, masqFully) })
}

func (r *rule) reject(kind uint32, code byte) *rule {
	return r.expr("reject", func(w *buffer) { w.u32(1, kind); w.bytes(2, []byte{code}) })
}

func (r *rule) verdict(code uint32, chain string) *rule {
	return r.expr("immediate", func(w *buffer) {
		w.u32(1, 0)
		data := w.begin(2)
		putVerdict(w, code, chain)
		w.end(data)
	})
}

func putVerdict(w *buffer, code uint32, chain string) {
	at := w.begin(2)
	w.u32(1, code)
	if chain != "" {
		w.text(2, chain)
	}
	w.end(at)
}

// prefix compares an address field with a network.
func (r *rule) prefix(offset uint32, p netip.Prefix) *rule {
	addr := p.Addr().AsSlice()
	if p.Bits()%8 == 0 && p.Bits() > 0 {
		n := p.Bits() / 8
		return r.payload(0, baseNetwork, offset, uint32(n)).cmp(0, opEqual, addr[:n])
	}
	mask := make([]byte, len(addr))
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return r.payload(0, baseNetwork, offset, uint32(len(addr))).
		bitwise(0, mask, make([]byte, len(addr))).cmp(0, opEqual, addr)
}

func host32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
