package nftables

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// Numbers of Linux v6.12 include/uapi/linux/netlink.h, netfilter/nfnetlink.h
// and netfilter/nf_tables.h.
const (
	flagRequest = 0x1
	flagAck     = 0x4
	flagDump    = 0x300
	flagCreate  = 0x400
	flagAppend  = 0x800

	subsystem  = 10 << 8
	batchBegin = 0x10
	batchEnd   = 0x11

	msgNewTable    = subsystem
	msgGetTable    = subsystem | 1
	msgDelTable    = subsystem | 2
	msgNewChain    = subsystem | 3
	msgGetChain    = subsystem | 4
	msgDelChain    = subsystem | 5
	msgNewRule     = subsystem | 6
	msgGetRule     = subsystem | 7
	msgDelRule     = subsystem | 8
	msgNewSet      = subsystem | 9
	msgGetSet      = subsystem | 10
	msgDelSet      = subsystem | 11
	msgNewElements = subsystem | 12
	msgGetElements = subsystem | 13
	msgDelElements = subsystem | 14
	msgGetGen      = subsystem | 16

	headerLen = 20 // nlmsghdr and nfgenmsg
)

// batch is a transaction being written.
type batch struct {
	table      string
	generation uint32 // that it follows
	buffer
	seq   uint32
	what  []string // by sequence number, for errors
	setID uint32
}

func newBatch(table string, generation uint32) *batch {
	b := &batch{table: table, generation: generation}
	b.message(batchBegin, 0, 0, 10, "transaction", func() {
		b.u32(1, generation) // NFNL_BATCH_GENID
	})
	return b
}

// message appends one and fills in its length.
func (b *batch) message(kind, flags uint16, family uint8, resource uint16, what string, fill func()) {
	at := len(b.b)
	b.b = appendHeader(b.b, kind, flags|flagRequest, b.seq, family, resource)
	if fill != nil {
		fill()
	}
	binary.NativeEndian.PutUint32(b.b[at:], uint32(len(b.b)-at))
	b.what = append(b.what, what)
	b.seq++
}

func appendHeader(b []byte, kind, flags uint16, seq uint32, family uint8, resource uint16) []byte {
	b = binary.NativeEndian.AppendUint32(b, headerLen)
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, family, 0)
	return binary.BigEndian.AppendUint16(b, resource)
}

// empty says that nothing but the begin is in it.
func (b *batch) empty() bool { return b.seq == 1 }

// close ends the transaction. The message before the end is the one that is
// acknowledged: kernels before 6.10 do not acknowledge the end.
func (b *batch) close() {
	at, last := 0, 0
	for at < len(b.b) {
		last = at
		at += int(binary.NativeEndian.Uint32(b.b[at:]))
	}
	b.b[last+6] |= flagAck
	b.message(batchEnd, 0, 0, 10, "end of transaction", nil)
}

func (b *batch) newTable(f *family) {
	b.message(msgNewTable, flagCreate, f.number, 0, "table "+b.table, func() {
		b.text(1, b.table)
		b.u32(2, 0)
	})
}

func (b *batch) delTable(f *family) {
	b.message(msgDelTable, 0, f.number, 0, "table "+b.table, func() { b.text(1, b.table) })
}

func (b *batch) newSet(f *family, s *set) {
	b.setID++
	b.message(msgNewSet, flagCreate, f.number, 0, "set "+s.name, func() {
		b.text(1, b.table)
		b.text(2, s.name)
		b.u32(3, s.flags())
		b.u32(4, s.keyType)
		b.u32(5, s.keyLen)
		if s.isMap {
			b.u32(6, s.dataType)
			b.u32(7, s.dataLen)
		}
		if s.dynamic {
			at := b.begin(9) // NFTA_SET_DESC
			b.u32(1, s.size)
			b.end(at)
			b.u64(11, maxAffinity*1000)
		}
		b.u32(10, b.setID)
		b.bytes(13, s.userdata)
	})
}

// delSet removes a set that no rule uses any more, with its elements.
func (b *batch) delSet(f *family, s *set) {
	b.message(msgDelSet, 0, f.number, 0, "set "+s.name, func() {
		b.text(1, b.table)
		b.text(2, s.name)
	})
}

func (b *batch) newChain(f *family, c *chain) {
	b.message(msgNewChain, flagCreate, f.number, 0, "chain "+c.name, func() {
		b.text(1, b.table)
		b.text(3, c.name)
		if c.hook == nil {
			return
		}
		at := b.begin(4)
		b.u32(1, c.hook.number)
		b.u32(2, uint32(c.hook.priority))
		b.end(at)
		b.u32(5, 1) // accept
		b.text(7, c.hook.kind)
	})
}

func (b *batch) delChain(f *family, name string) {
	b.message(msgDelChain, 0, f.number, 0, "chain "+name, func() {
		b.text(1, b.table)
		b.text(3, name)
	})
}

func (b *batch) rules(f *family, c *chain) {
	for i, r := range c.rules {
		b.message(msgNewRule, flagCreate|flagAppend, f.number, 0, fmt.Sprintf("chain %s rule %d", c.name, i), func() {
			b.text(1, b.table)
			b.text(2, c.name)
			at := b.begin(4)
			b.b = append(b.b, r.exprs.b...)
			b.end(at)
		})
	}
}

// flushRules removes all rules of the table and keeps its chains.
func (b *batch) flushRules(f *family) {
	b.message(msgDelRule, 0, f.number, 0, "rules of table "+b.table, func() { b.text(1, b.table) })
}

func (b *batch) elements(f *family, s *set, kind uint16, c *chunks) {
	flags := uint16(0)
	if kind == msgNewElements {
		flags = flagCreate
	}
	for _, chunk := range c.all() {
		b.message(kind, flags, f.number, 0, "elements of "+s.name, func() {
			b.text(1, b.table)
			b.text(2, s.name)
			at := b.begin(3)
			b.b = append(b.b, chunk.b...)
			b.end(at)
		})
	}
}

// apply writes what a plan changes, in the order that the kernel wants:
// nothing is removed while something refers to it, nothing is referred to
// before it is there.
func (b *batch) apply(p *plan, sets *[setCount]*set) {
	room := 4096
	for id := range p.adds {
		room += p.adds[id].size() + p.dels[id].size()
	}
	b.b = slices.Grow(b.b, room+room/100)
	for id := range p.dels {
		b.elements(p.family, sets[id], msgDelElements, &p.dels[id])
	}
	b.chains(p)
	for id := range p.adds {
		b.elements(p.family, sets[id], msgNewElements, &p.adds[id])
	}
}

// chains writes the chains that a plan needs.
func (b *batch) chains(p *plan) {
	b.sources(p)
	made := make([]*chain, len(p.made))
	for i, balancer := range p.made {
		made[i] = p.family.balancerChain(balancer, p.mark)
		b.newChain(p.family, made[i])
	}
	for _, c := range made {
		b.rules(p.family, c)
	}
	p.made = nil
}

// sources writes the chains of source ranges that a plan needs.
func (b *batch) sources(p *plan) {
	for _, sources := range p.madeSources {
		c := p.family.sourcesChain(sources)
		b.newChain(p.family, c)
		b.rules(p.family, c)
	}
	p.madeSources = nil
}
