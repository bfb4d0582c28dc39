package nftables

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"time"

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

// frontElement is the one that says what happens at a front.
func frontElement(f *proxyrules.Front) (setID, []byte, value) {
	nodePort := f.Kind == proxyrules.NodePort
	p := protocolIndex(f.Protocol)
	var key []byte
	if !nodePort {
		key = appendAddr(key, f.Addr)
	}
	key = appendPort(appendProto(key, protocols[p].number), f.Port)
	in, none := setServices, setNoEndpoints
	if nodePort {
		in, none = setNodePorts, setNodePortNoEndpoints
	}
	switch f.Action {
	case proxyrules.Drop:
		return none, key, value{verdict: true, code: verdictDrop}
	case proxyrules.Balance:
		return in, key, value{verdict: true, code: verdictGoto, chain: frontBalancer(f).name()}
	default:
		return none, key, value{verdict: true, code: verdictGoto, chain: "refuse"}
	}
}

func frontBalancer(f *proxyrules.Front) balancer {
	return balancer{protocol: protocolIndex(f.Protocol), n: len(f.Endpoints),
		nodePort: f.Kind == proxyrules.NodePort, masquerade: f.Masquerade == proxyrules.MasqueradeAlways}
}

// slotElement is one endpoint of a front.
func slotElement(f *proxyrules.Front, index int, endpoint netip.AddrPort) (setID, []byte, value) {
	id := setEndpoints + setID(protocolIndex(f.Protocol))
	key := make([]byte, 0, 24)
	if f.Kind == proxyrules.NodePort {
		id = setNodePortEndpoints + setID(protocolIndex(f.Protocol))
	} else {
		key = appendAddr(key, f.Addr)
	}
	key = binary.NativeEndian.AppendUint32(appendPort(key, f.Port), uint32(index))
	if !endpoint.IsValid() {
		return id, key, value{}
	}
	return id, key, value{data: appendPort(appendAddr(make([]byte, 0, 20), endpoint.Addr()), endpoint.Port())}
}

// counts says how many fronts stand at an address, or use an endpoint.
type counts map[netip.Addr]int

// familyState is what we know the kernel holds of one family.
type familyState struct {
	present    bool
	balancers  map[balancer]bool
	clusterIPs counts
	hairpin    counts
	// left are hairpin elements that nobody wants, since when.
	left map[netip.Addr]time.Time
}

// hairpinGrace is how long an endpoint's hairpin element outlives it: a packet
// that was sent to it may still be between its first hook and its last.
const hairpinGrace = time.Second

func newFamilyState() *familyState {
	return &familyState{balancers: map[balancer]bool{}, clusterIPs: counts{}, hairpin: counts{}, left: map[netip.Addr]time.Time{}}
}

// overdue says whether elements have outlived their grace.
func (s *familyState) overdue(now time.Time) bool {
	for _, since := range s.left {
		if now.Sub(since) >= hairpinGrace {
			return true
		}
	}
	return false
}

// plan collects what one transaction does to one family.
type plan struct {
	family *family
	mark   uint32
	state  *familyState
	// held is what the kernel holds that is not known to be wanted; nil when
	// exact changes are known.
	held       *[setCount]map[string]string
	made       []balancer // chains to make
	dels, adds [setCount]chunks
	clusterIPs counts // differences
	hairpin    counts
	elements   int
}

func newPlan(f *family, mark uint32, state *familyState) *plan {
	return &plan{family: f, mark: mark, state: state, clusterIPs: counts{}, hairpin: counts{}}
}

func (p *plan) add(id setID, key []byte, v value) {
	if p.held != nil {
		if have, ok := p.held[id][string(key)]; ok {
			delete(p.held[id], string(key))
			if have == v.encode() {
				return
			}
			p.del(id, key)
		}
	}
	p.adds[id].element(key, &v)
	p.elements++
}

func (p *plan) del(id setID, key []byte) {
	p.dels[id].element(key, nil)
	p.elements++
}

func (p *plan) need(b balancer) {
	if p.state.balancers[b] {
		return
	}
	if b.masquerade {
		plain := b
		plain.masquerade = false
		p.need(plain)
	}
	p.state.balancers[b] = true
	p.made = append(p.made, b)
}

// change plans one change of a front.
func (p *plan) change(c *proxyrules.FrontChange) {
	p.changeFront(c.Old, c.New)
	for _, slot := range c.Slots {
		// A front that changed its kind has its slots in other maps.
		if slot.Old.IsValid() {
			id, key, _ := slotElement(c.Old, slot.Index, netip.AddrPort{})
			p.del(id, key)
			p.hairpin[slot.Old.Addr()]--
		}
		if slot.New.IsValid() {
			p.add(slotElement(c.New, slot.Index, slot.New))
			p.hairpin[slot.New.Addr()]++
		}
	}
}

func (p *plan) changeFront(old, new *proxyrules.Front) {
	var oldID, newID setID = -1, -1
	var oldKey, newKey []byte
	var oldValue, newValue value
	if old != nil {
		oldID, oldKey, oldValue = frontElement(old)
		if old.Kind == proxyrules.ClusterIP {
			p.clusterIPs[old.Addr]--
		}
	}
	if new != nil {
		newID, newKey, newValue = frontElement(new)
		if new.Kind == proxyrules.ClusterIP {
			p.clusterIPs[new.Addr]++
		}
		if new.Action == proxyrules.Balance {
			p.need(frontBalancer(new))
		}
	}
	if oldID == newID && oldValue.code == newValue.code && oldValue.chain == newValue.chain {
		return
	}
	if old != nil {
		p.del(oldID, oldKey)
	}
	if new != nil {
		p.add(newID, newKey, newValue)
	}
}

// finish turns counted differences into elements, and removes what the kernel
// holds and nobody wants.
func (p *plan) finish() {
	now := time.Now()
	settle(p.state.clusterIPs, p.clusterIPs, func(addr netip.Addr, wanted bool) {
		if wanted {
			p.add(setClusterIPs, appendAddr(nil, addr), value{})
		} else {
			p.del(setClusterIPs, appendAddr(nil, addr))
		}
	})
	settle(p.state.hairpin, p.hairpin, func(addr netip.Addr, wanted bool) {
		_, there := p.state.left[addr]
		switch {
		case !wanted:
			p.state.left[addr] = now
		case there:
			delete(p.state.left, addr)
		default:
			p.add(setHairpin, hairpinKey(addr), value{})
		}
	})
	for addr, since := range p.state.left {
		if now.Sub(since) >= hairpinGrace {
			p.del(setHairpin, hairpinKey(addr))
			delete(p.state.left, addr)
		}
	}
	if p.held == nil {
		return
	}
	for id := range p.held {
		for _, key := range slices.Sorted(maps.Keys(p.held[id])) {
			if half := len(key) / 2; setID(id) == setHairpin && key[:half] == key[half:] {
				addr, _ := netip.AddrFromSlice([]byte(key[:half]))
				p.state.left[addr] = now
				continue
			}
			p.del(setID(id), []byte(key))
		}
	}
}

func hairpinKey(addr netip.Addr) []byte { return appendAddr(appendAddr(nil, addr), addr) }

// settle adds changes to have and tells which addresses came and went.
func settle(have, changes counts, tell func(addr netip.Addr, wanted bool)) {
	for addr, change := range changes {
		before := have[addr]
		after := before + change
		if after == 0 {
			delete(have, addr)
		} else {
			have[addr] = after
		}
		if (before == 0) != (after == 0) {
			tell(addr, after > 0)
		}
	}
}

// chunks holds encoded elements of one set, in pieces that fit into a netlink
// attribute.
type chunks struct {
	done []buffer
	last buffer
}

const maxChunk = 60_000

// element appends one; v is nil to delete.
func (c *chunks) element(key []byte, v *value) {
	if len(c.last.b) > maxChunk {
		c.done = append(c.done, c.last)
		c.last = buffer{b: make([]byte, 0, maxChunk+256)}
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

func (c *chunks) all() []buffer {
	if len(c.last.b) == 0 {
		return c.done
	}
	return append(c.done, c.last)
}
