package nftables

import (
	"encoding/binary"
	"net/netip"

	"github.com/nodekit/nodekit/proxyrules"
)

// A token is 1 bit that no other use of the priority field sets, 19 of a group
// (a list of endpoints among whom clients are remembered), and 12 of one of its
// endpoints.
const (
	tokenBit  = 1 << 31
	groupBits = 12
	groupMask = ^uint32(1<<groupBits - 1)
	maxGroups = 1 << (31 - groupBits)
)

// All endpoints of a group may be replaced by others at once.
const _ = uint(1<<groupBits - 2*proxyrules.MaxAffinityEndpoints)

// tokens of one family and protocol.
type tokens struct {
	groups map[proxyrules.Group]*tokenGroup
	taken  map[uint32]bool // numbers of groups
	next   uint32          // the number to try first
}

type tokenGroup struct {
	number uint32
	next   uint32 // the endpoint's number to try first
	taken  map[uint32]bool
	ends   map[netip.AddrPort]*tokenEnd
}

type tokenEnd struct {
	number uint32
	refs   int // slots that hold it
}

func newTokens() *tokens {
	return &tokens{groups: make(map[proxyrules.Group]*tokenGroup), taken: make(map[uint32]bool)}
}

// group makes one. It gets the wanted number, if ok and that is free. It is nil
// if there are too many.
func (t *tokens) group(name proxyrules.Group, number uint32, ok bool) *tokenGroup {
	if len(t.taken) == maxGroups {
		return nil
	}
	if !ok || t.taken[number] {
		for t.taken[t.next] {
			t.next = (t.next + 1) % maxGroups
		}
		number = t.next
		t.next = (t.next + 1) % maxGroups
	}
	g := &tokenGroup{number: number, taken: make(map[uint32]bool), ends: make(map[netip.AddrPort]*tokenEnd)}
	t.taken[number] = true
	t.groups[name] = g
	return g
}

// hold counts one more slot of an endpoint; fresh says that it is the first.
// Then it gets the wanted number, if ok and that is free.
func (g *tokenGroup) hold(addr netip.AddrPort, number uint32, ok bool) (token uint32, fresh bool) {
	e := g.ends[addr]
	if fresh = e == nil; fresh {
		if !ok || g.taken[number] {
			for g.taken[g.next] {
				g.next = (g.next + 1) % (1 << groupBits)
			}
			number = g.next
			g.next = (g.next + 1) % (1 << groupBits)
		}
		e = &tokenEnd{number: number}
		g.taken[number] = true
		g.ends[addr] = e
	}
	e.refs++
	return g.token(e), fresh
}

func (g *tokenGroup) token(e *tokenEnd) uint32 { return tokenBit | g.number<<groupBits | e.number }

// sweep forgets endpoints that no slot holds, and groups without endpoints.
func (t *tokens) sweep(touched map[proxyrules.Group]bool, gone func(token uint32)) {
	for name := range touched {
		g := t.groups[name]
		if g == nil {
			continue
		}
		for addr, e := range g.ends {
			if e.refs == 0 {
				gone(g.token(e))
				delete(g.taken, e.number)
				delete(g.ends, addr)
			}
		}
		if len(g.ends) == 0 {
			delete(t.groups, name)
			delete(t.taken, g.number)
		}
	}
}

func groupNumber(token uint32) uint32 { return token &^ tokenBit >> groupBits }

func endNumber(token uint32) uint32 { return token &^ groupMask }

// Tokens are numbers of this machine's order.
func readToken(b []byte) (uint32, bool) {
	if len(b) != 4 {
		return 0, false
	}
	token := binary.NativeEndian.Uint32(b)
	return token, token&tokenBit != 0
}
