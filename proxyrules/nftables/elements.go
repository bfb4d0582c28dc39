package nftables

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/nodekit/nodekit/proxyrules"
)

// value is what an element maps to: nothing in a set.
type value struct {
	data    []byte
	verdict bool
	code    uint32
	chain   string
}

func (v value) encode() string {
	if v.verdict {
		return string(binary.BigEndian.AppendUint32(nil, v.code)) + v.chain
	}
	return string(v.data)
}

func appendAddr(b []byte, addr netip.Addr) []byte {
	if addr.Is4() {
		a := addr.As4()
		return append(b, a[:]...)
	}
	a := addr.As16()
	return append(b, a[:]...)
}

// appendPort and appendProto pad to 32 bits, as every part of a concatenation.
func appendPort(b []byte, port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(b, port), 0, 0)
}

func appendProto(b []byte, number byte) []byte { return append(b, number, 0, 0, 0) }

// element is one of a set or map.
type element struct {
	id    setID
	key   []byte
	value value
}

func frontKey(f *proxyrules.Front) []byte {
	key := make([]byte, 0, 24)
	if f.Kind != proxyrules.NodePort {
		key = appendAddr(key, f.Addr)
	}
	return appendPort(appendProto(key, protocols[protocolIndex(f.Protocol)].number), f.Port)
}

// frontElements are those that say what happens at a front, its slots apart.
func frontElements(f *proxyrules.Front) []element {
	key := frontKey(f)
	twin := setID(0)
	if f.Kind == proxyrules.NodePort {
		twin = 1
	}
	out := make([]element, 0, 3)
	add := func(id setID, code uint32, chain string) {
		out = append(out, element{id + twin, key, value{verdict: true, code: code, chain: chain}})
	}
	into := setServices
	if len(f.Inside) > 0 {
		local := "external-local"
		if f.Kind == proxyrules.NodePort {
			local = "np-" + local
		}
		add(setServices, verdictGoto, local)
		add(setInside, verdictGoto, frontBalancer(f, true).name())
		into = setLocal
	}
	switch f.Action {
	case proxyrules.Balance:
		add(into, verdictGoto, frontBalancer(f, false).name())
	case proxyrules.Drop:
		add(setNoEndpoints, verdictDrop, "")
	default:
		add(setNoEndpoints, verdictGoto, "refuse")
	}
	if len(f.Sources) > 0 {
		out = append(out, element{setSourceRanges, key, value{verdict: true, code: verdictJump, chain: sourcesName(f.Sources)}})
	}
	return out
}

// frontBalancer is the chain of the list Endpoints or Inside.
func frontBalancer(f *proxyrules.Front, inside bool) balancer {
	b := balancer{protocol: protocolIndex(f.Protocol), slots: slotsFor(len(f.Endpoints)), affinity: f.Affinity, inside: inside,
		nodePort: f.Kind == proxyrules.NodePort, masquerade: f.Masquerade == proxyrules.MasqueradeAlways}
	if inside {
		b.slots = slotsFor(len(f.Inside))
	}
	return b
}

// frontBalancers are the chains that a front needs.
func frontBalancers(f *proxyrules.Front) (out []balancer) {
	if f.Action == proxyrules.Balance {
		out = append(out, frontBalancer(f, false))
	}
	if len(f.Inside) > 0 {
		out = append(out, frontBalancer(f, true))
	}
	return out
}

// slotKey says where one endpoint of a front stands. It writes the key to buf.
func slotKey(buf []byte, f *proxyrules.Front, inside bool, index int) (setID, []byte) {
	id := setEndpoints
	if f.Affinity > 0 {
		id = setPicks
	}
	key := buf[:0]
	if f.Kind == proxyrules.NodePort {
		id += setNodePortEndpoints - setEndpoints
	} else {
		key = appendAddr(key, f.Addr)
	}
	if inside {
		index += insideSlots
	}
	key = binary.NativeEndian.AppendUint32(appendPort(key, f.Port), uint32(index))
	return id + setID(protocolIndex(f.Protocol)), key
}

// endpointValue is an endpoint's; it is written to buf.
func endpointValue(buf []byte, endpoint netip.AddrPort) value {
	return value{data: appendPort(appendAddr(buf[:0], endpoint.Addr()), endpoint.Port())}
}

func tokenValue(token uint32) value { return value{data: host32(token)} }

// chunks holds encoded elements of one set, in pieces that fit into a netlink
// attribute.
type chunks struct {
	done []buffer
	last buffer
}

const maxChunk = 60_000

// element appends one; v is nil to delete.
func (c *chunks) element(key []byte, v *value) {
	switch {
	case len(c.last.b) > maxChunk:
		c.done = append(c.done, c.last)
		c.last = buffer{b: make([]byte, 0, maxChunk+256)}
	case len(c.last.b) > 1024 && cap(c.last.b) < maxChunk:
		c.last.b = slices.Grow(c.last.b, maxChunk+256) // there will be many
	}
	w := &c.last
	elem := w.begin(1) // NFTA_LIST_ELEM
	k := w.begin(1)    // NFTA_SET_ELEM_KEY
	w.bytes(1, key)
	w.end(k)
	if v != nil && (v.verdict || len(v.data) > 0) {
		d := w.begin(2) // NFTA_SET_ELEM_DATA
		if v.verdict {
			putVerdict(w, v.code, v.chain)
		} else {
			w.bytes(1, v.data)
		}
		w.end(d)
	}
	w.end(elem)
}

// size of all, without what surrounds it.
func (c *chunks) size() int {
	n := len(c.last.b)
	for _, b := range c.done {
		n += len(b.b)
	}
	return n
}

func (c *chunks) all() []buffer {
	if len(c.last.b) == 0 {
		return c.done
	}
	return append(c.done, c.last)
}
