package nftables

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/nodekit/nodekit/proxyrules"
)

// counts says how many fronts stand at an address, or use an endpoint.
type counts map[netip.Addr]int

// familyState is what we know the kernel holds of one family.
type familyState struct {
	present    bool
	balancers  map[balancer]bool
	sources    map[string]bool // chains of source ranges, by name
	tokens     [len(protocols)]*tokens
	clusterIPs counts
	hairpin    counts
	// left are hairpin elements that nobody wants, since when.
	left map[netip.Addr]time.Time
}

// hairpinGrace is how long an endpoint's hairpin element outlives it: a packet
// that was sent to it may still be between its first hook and its last.
const hairpinGrace = time.Second

func newFamilyState() *familyState {
	s := &familyState{balancers: map[balancer]bool{}, sources: map[string]bool{}, clusterIPs: counts{}, hairpin: counts{},
		left: map[netip.Addr]time.Time{}}
	for p := range s.tokens {
		s.tokens[p] = newTokens()
	}
	return s
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
	held        *[setCount]map[string]string
	passed      map[string]string // hairpin elements of a table that goes
	heldTokens  [len(protocols)]map[heldEnd]uint32
	heldNext    [len(protocols)]map[uint32]uint32 // a number beyond those of a group's endpoints
	made        []balancer                        // chains to make
	madeSources [][]netip.Prefix                  // and those of source ranges
	dels, adds  [setCount]chunks
	clusterIPs  counts // differences
	hairpin     counts
	touched     [len(protocols)]map[proxyrules.Group]bool
	elements    int
	err         error
	// What one element is written to.
	key, data [32]byte
}

// heldEnd is an endpoint of a group that has a token in the kernel.
type heldEnd struct {
	group uint32
	addr  string // as encoded
}

func newPlan(f *family, mark uint32, state *familyState) *plan {
	return &plan{family: f, mark: mark, state: state, clusterIPs: counts{}, hairpin: counts{}}
}

// adopt says what the kernel holds.
func (p *plan) adopt(held *[setCount]map[string]string) {
	p.held = held
	for i := range protocols {
		p.heldTokens[i], p.heldNext[i] = make(map[heldEnd]uint32), make(map[uint32]uint32)
		known := p.state.tokens[i]
		for key, addr := range held[setTokens+setID(i)] {
			if token, ok := readToken([]byte(key)); ok {
				group, end := groupNumber(token), endNumber(token)
				p.heldTokens[i][heldEnd{group, addr}] = end
				p.heldNext[i][group] = max(p.heldNext[i][group], (end+1)%(1<<groupBits))
				known.next = max(known.next, (group+1)%maxGroups)
			}
		}
	}
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
	if next, ok := b.needs(); ok {
		p.need(next)
	}
	p.state.balancers[b] = true
	p.made = append(p.made, b)
}

// change plans one change of a front.
func (p *plan) change(c *proxyrules.FrontChange) {
	p.changeFront(c.Old, c.New)
	if c.Old != nil && c.New != nil && c.Old.Affinity > 0 != (c.New.Affinity > 0) ||
		c.Old != nil && c.New != nil && c.Old.Affinity > 0 && c.Old.Group(false) != c.New.Group(false) {
		// All slots are in other maps, or tokens of another group.
		p.drop(c.Old, false, allSlots(c.Old.Endpoints))
		p.drop(c.Old, true, allSlots(c.Old.Inside))
		p.put(c.New, false, allSlots(c.New.Endpoints))
		p.put(c.New, true, allSlots(c.New.Inside))
		return
	}
	p.drop(c.Old, false, c.Slots)
	p.drop(c.Old, true, c.Inside)
	p.put(c.New, false, c.Slots)
	p.put(c.New, true, c.Inside)
}

// allSlots is every slot of a list, as a change from and to what it is.
func allSlots(list []proxyrules.Endpoint) []proxyrules.SlotChange {
	out := make([]proxyrules.SlotChange, len(list))
	for i, e := range list {
		out[i] = proxyrules.SlotChange{Index: i, Old: e.Addr, New: e.Addr}
	}
	return out
}

func listOf(f *proxyrules.Front, inside bool) []proxyrules.Endpoint {
	switch {
	case f == nil:
		return nil
	case inside:
		return f.Inside
	}
	return f.Endpoints
}

// drop removes the old endpoints of slots.
func (p *plan) drop(f *proxyrules.Front, inside bool, slots []proxyrules.SlotChange) {
	list := listOf(f, inside)
	for _, slot := range slots {
		if !slot.Old.IsValid() {
			continue
		}
		id, key := slotKey(p.key[:], f, inside, slot.Index)
		p.del(id, key)
		if !list[slot.Index].Remote {
			p.hairpin[slot.Old.Addr()]--
		}
		if f.Affinity > 0 {
			p.release(f, inside, slot.Old)
		}
	}
}

// put adds the new endpoints of slots.
func (p *plan) put(f *proxyrules.Front, inside bool, slots []proxyrules.SlotChange) {
	list := listOf(f, inside)
	for _, slot := range slots {
		if slot.New.IsValid() {
			p.putOne(f, inside, slot.Index, list[slot.Index])
		}
	}
}

func (p *plan) putOne(f *proxyrules.Front, inside bool, index int, e proxyrules.Endpoint) {
	id, key := slotKey(p.key[:], f, inside, index)
	v := endpointValue(p.data[:], e.Addr)
	if f.Affinity > 0 {
		v = p.token(f, inside, key, e.Addr)
	}
	p.add(id, key, v)
	if !e.Remote {
		p.hairpin[e.Addr.Addr()]++
	}
}

// load plans a front where none is known to be.
func (p *plan) load(f *proxyrules.Front) {
	p.changeFront(nil, f)
	for _, inside := range []bool{false, true} {
		for i, e := range listOf(f, inside) {
			p.putOne(f, inside, i, e)
		}
	}
}

// release counts one slot less of an endpoint's token.
func (p *plan) release(f *proxyrules.Front, inside bool, endpoint netip.AddrPort) {
	i, name := protocolIndex(f.Protocol), f.Group(inside)
	if g := p.state.tokens[i].groups[name]; g != nil && g.ends[endpoint] != nil {
		g.ends[endpoint].refs--
		p.touch(i, name)
	}
}

func (p *plan) touch(protocol int, name proxyrules.Group) {
	if p.touched[protocol] == nil {
		p.touched[protocol] = make(map[proxyrules.Group]bool)
	}
	p.touched[protocol][name] = true
}

// token is that of an endpoint in its group: the one that the kernel holds, or
// a new one.
func (p *plan) token(f *proxyrules.Front, inside bool, slot []byte, endpoint netip.AddrPort) value {
	i := protocolIndex(f.Protocol)
	name := f.Group(inside)
	g := p.state.tokens[i].groups[name]
	if g == nil {
		var number uint32
		ok := false
		if p.held != nil {
			id, _ := slotKey(nil, f, inside, 0)
			number, ok = readToken([]byte(p.held[id][string(slot)]))
			number = groupNumber(number)
		}
		if g = p.state.tokens[i].group(name, number, ok); g != nil {
			// No token that a client may have kept gets another meaning.
			g.next = p.heldNext[i][g.number]
		}
	}
	if g == nil {
		p.err = fmt.Errorf("table %s: more than %d Services with session affinity", p.family.name, maxGroups)
		return value{}
	}
	v := endpointValue(nil, endpoint)
	number, ok := p.heldTokens[i][heldEnd{g.number, string(v.data)}]
	token, fresh := g.hold(endpoint, number, ok)
	if fresh {
		p.add(setTokens+setID(i), host32(token), v)
	}
	return tokenValue(token)
}

// sameWay says that both fronts have the same elements, but for their slots.
func sameWay(a, b *proxyrules.Front) bool {
	return a.Kind == b.Kind && a.Action == b.Action && a.Masquerade == b.Masquerade && a.Affinity == b.Affinity &&
		slices.Equal(a.Sources, b.Sources) && (len(a.Inside) == 0) == (len(b.Inside) == 0) &&
		slotsFor(len(a.Endpoints)) == slotsFor(len(b.Endpoints)) && slotsFor(len(a.Inside)) == slotsFor(len(b.Inside))
}

func (p *plan) changeFront(old, new *proxyrules.Front) {
	if old != nil && new != nil && sameWay(old, new) {
		return
	}
	var gone, come []element
	if old != nil {
		gone = frontElements(old)
		if old.Kind == proxyrules.ClusterIP {
			p.clusterIPs[old.Addr]--
		}
	}
	if new != nil {
		come = frontElements(new)
		if new.Kind == proxyrules.ClusterIP {
			p.clusterIPs[new.Addr]++
		}
		for _, b := range frontBalancers(new) {
			p.need(b)
		}
		if len(new.Sources) > 0 {
			if name := sourcesName(new.Sources); !p.state.sources[name] {
				p.state.sources[name] = true
				p.madeSources = append(p.madeSources, new.Sources)
			}
		}
	}
	same := func(a, b element) bool {
		return a.id == b.id && a.value.code == b.value.code && a.value.chain == b.value.chain
	}
	for _, e := range gone {
		if !slices.ContainsFunc(come, func(c element) bool { return same(c, e) }) {
			p.del(e.id, e.key)
		}
	}
	for _, e := range come {
		if !slices.ContainsFunc(gone, func(g element) bool { return same(g, e) }) {
			p.add(e.id, e.key, e.value)
		}
	}
}

// finish turns counted differences into elements, and removes what the kernel
// holds and nobody wants.
func (p *plan) finish() {
	now := time.Now()
	settle(&p.state.clusterIPs, p.clusterIPs, func(addr netip.Addr, wanted bool) {
		if wanted {
			p.add(setClusterIPs, appendAddr(nil, addr), value{})
		} else {
			p.del(setClusterIPs, appendAddr(nil, addr))
		}
	})
	settle(&p.state.hairpin, p.hairpin, func(addr netip.Addr, wanted bool) {
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
	for key := range p.passed {
		if addr, ok := hairpinOf(key); ok && p.state.hairpin[addr] == 0 {
			p.add(setHairpin, []byte(key), value{})
			p.state.left[addr] = now
		}
	}
	for i, touched := range p.touched {
		p.state.tokens[i].sweep(touched, func(token uint32) { p.del(setTokens+setID(i), host32(token)) })
	}
	if p.held == nil {
		return
	}
	for id := range p.held {
		for _, key := range slices.Sorted(maps.Keys(p.held[id])) {
			if setID(id) == setHairpin {
				if addr, ok := hairpinOf(key); ok {
					p.state.left[addr] = now
					continue
				}
			}
			p.del(setID(id), []byte(key))
		}
	}
}

func hairpinKey(addr netip.Addr) []byte { return appendAddr(appendAddr(nil, addr), addr) }

func hairpinOf(key string) (addr netip.Addr, ok bool) {
	half := len(key) / 2
	addr, ok = netip.AddrFromSlice([]byte(key[:half]))
	return addr, ok && key[:half] == key[half:]
}

// settle adds changes to have and tells which addresses came and went.
func settle(have *counts, changes counts, tell func(addr netip.Addr, wanted bool)) {
	if len(*have) == 0 {
		*have = changes
		for addr, n := range changes {
			if n == 0 {
				delete(*have, addr)
			} else {
				tell(addr, true)
			}
		}
		return
	}
	for addr, change := range changes {
		before := (*have)[addr]
		after := before + change
		if after == 0 {
			delete(*have, addr)
		} else {
			(*have)[addr] = after
		}
		if (before == 0) != (after == 0) {
			tell(addr, after > 0)
		}
	}
}
