package nftables

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/bits"
	"net/netip"
	"regexp"

	"github.com/nodekit/nodekit/proxyrules"
)

// balancer names a chain that sends a packet to one of n endpoints, which Fronts
// share. slots is n or somewhat more, so that few changes of n are a change of
// chains: those cost more, the more Services there are, as the kernel
// then looks through all verdicts (6.18: 0.1 us for each).
type balancer struct {
	protocol   int
	slots      int
	affinity   int32 // seconds; 0: none
	nodePort   bool
	inside     bool // over the list Inside, whose slots are the upper ones
	masquerade bool
	pick       bool // of affinity: only chooses
}

// insideSlots is where the slots of the list Inside begin.
const insideSlots = proxyrules.MaxEndpoints

// tries is how often a chain picks before it is content with the lower half of
// the slots, which are all taken. More than two tries of three find an endpoint, so
// the odds of two of them are the same but for 1 in 177,147.
const tries = 11

// slotsFor is the least of 1, 2, 3, 4, 6, 8, 12, 16, 24 ... that is not below n: a
// try that finds nothing costs a packet as much as one that does.
func slotsFor(n int) int {
	power := 1 << bits.Len(uint(n-1))
	if less := power / 4 * 3; less >= n {
		return less
	}
	return power
}

func (b balancer) name() string {
	prefix := ""
	if b.masquerade {
		prefix += "m"
	}
	if b.nodePort {
		prefix += "n"
	}
	if b.inside {
		prefix += "i"
	}
	kind := "lb"
	switch {
	case b.pick:
		kind = "pick"
	case b.affinity > 0:
		return fmt.Sprintf("%saff-%s-%d-%d", prefix, protocols[b.protocol].lower, b.slots, b.affinity)
	}
	return fmt.Sprintf("%s%s-%s-%d", prefix, kind, protocols[b.protocol].lower, b.slots)
}

// needs is the chain that this one goes to, if any.
func (b balancer) needs() (balancer, bool) {
	switch {
	case b.masquerade:
		b.masquerade = false
	case b.affinity > 0:
		b.affinity, b.pick = 0, true
	default:
		return b, false
	}
	return b, true
}

// onDemand matches the names of the chains that are made when they are needed.
var onDemand = regexp.MustCompile(`^(m?n?i?lb-[a-z]+-[0-9]+|m?n?i?aff-[a-z]+-[0-9]+-[0-9]+|n?i?pick-[a-z]+-[0-9]+|from-[0-9a-f]{16})$`)

func (f *family) balancerChain(b balancer, mark uint32) *chain {
	c := &chain{name: b.name()}
	next, _ := b.needs()
	switch {
	case b.masquerade:
		c.rules = []*rule{markRule(mark), newRule("goto %s", next.name()).verdict(verdictGoto, next.name())}
	case b.affinity > 0:
		c.rules = f.affinityRules(b, next.name())
	default:
		if b.pick {
			c.rules = append(c.rules, newRule("meta priority set 0").immediate(0, host32(0)).setPriority(0))
		}
		if b.slots > 1 {
			for range tries {
				c.rules = append(c.rules, f.try(b, b.slots)...)
			}
			c.rules = append(c.rules, f.try(b, b.slots/2)...)
		}
		// A packet that came here just before the Service lost endpoints may find
		// that half gone. The first one is there as long as any is.
		c.rules = append(c.rules, f.try(b, 1)...)
	}
	return c
}

// try takes one of the first n slots of the front, if there is an endpoint.
func (f *family) try(b balancer, n int) []*rule {
	maps, word, key := "ep-", 0, ""
	if b.pick {
		maps = "pick-"
	}
	p := protocols[b.protocol]
	r := new(rule)
	r.meta(0, metaL4Proto).cmp(0, opEqual, []byte{p.number})
	if b.nodePort {
		maps = "np" + maps
	} else {
		r.payload(0, baseNetwork, f.daddr, uint32(4*f.words))
		word, key = f.words, f.name+" daddr . "
	}
	random, offset := fmt.Sprintf("numgen random mod %d", n), 0
	if b.inside {
		offset = insideSlots
		random += fmt.Sprintf(" offset %d", offset)
	}
	r.dport(word).random(word+1, uint32(n), uint32(offset)).lookupTo(0, maps+p.lower, reg(0))
	text := fmt.Sprintf("%s%s dport . %s map @%s%s", key, p.lower, random, maps, p.lower)
	if !b.pick {
		r.dnat(uint32(f.number), 0, f.words)
		r.text = fmt.Sprintf("dnat %s to %s", f.name, text)
		return []*rule{r}
	}
	r.text = "meta priority set " + text
	return []*rule{r.setPriority(0), token("return").verdict(verdictReturn, "")}
}

// token matches a packet that holds one.
func token(then string) *rule {
	return newRule("meta priority & 0x%08x == 0x%08x %s", uint32(tokenBit), uint32(tokenBit), then).
		meta(0, metaPriority).bitwise(0, host32(tokenBit), host32(0)).cmp(0, opEqual, host32(tokenBit))
}

// forgetToken leaves no token in a packet that goes out.
func forgetToken() *rule {
	return token("meta priority set 0").immediate(0, host32(0)).setPriority(0)
}

// affinityRules send a client where it was before.
//
// The one field of a packet that rules may use as they like, unless a queueing
// discipline reads it, is its priority; it holds a token: the number of a port
// of a Service, and that of one of its endpoints (see tokens). A candidate is
// picked, kept for the client unless it has one, and what is kept is used. No
// token is valid that names an endpoint that left.
func (f *family) affinityRules(b balancer, pick string) []*rule {
	p := protocols[b.protocol]
	affinity, tokens := "affinity-"+p.lower, "affinity-ep-"+p.lower
	client := fmt.Sprintf("meta priority & 0x%08x . %s saddr", uint32(groupMask), f.name)
	key := func(r *rule) *rule {
		return r.meta(0, metaPriority).bitwise(0, host32(groupMask), host32(0)).
			payload(1, baseNetwork, f.saddr, uint32(4*f.words))
	}
	candidate := func() *rule { return newRule("jump %s", pick).verdict(verdictJump, pick) }
	data := 1 + f.words
	keep := func() *rule {
		return key(newRule("update @%s { %s timeout %ds : meta priority }", affinity, client, b.affinity)).
			meta(data, metaPriority).dynset(affinity, dynsetUpdate, 0, data, uint64(b.affinity)*1000)
	}
	use := func() *rule {
		return newRule("meta l4proto %s dnat %s to meta priority map @%s", p.lower, f.name, tokens).
			meta(0, metaL4Proto).cmp(0, opEqual, []byte{p.number}).
			meta(0, metaPriority).lookupTo(0, tokens, reg(0)).dnat(uint32(f.number), 0, f.words)
	}
	return []*rule{
		candidate(),
		keep(),
		key(newRule("meta priority set %s map @%s", client, affinity)).lookupTo(0, affinity, reg(0)).setPriority(0),
		use(),
		// It was at an endpoint that left.
		key(newRule("delete @%s { %s : meta priority }", affinity, client)).
			meta(data, metaPriority).dynset(affinity, dynsetDelete, 0, data, 0),
		candidate(), keep(), use(),
	}
}

// sourcesName names the chain that lets only certain networks in.
func sourcesName(sources []netip.Prefix) string {
	hash := sha256.New()
	for _, p := range sources {
		_, _ = fmt.Fprintln(hash, p)
	}
	return "from-" + hex.EncodeToString(hash.Sum(nil)[:8])
}

func (f *family) sourcesChain(sources []netip.Prefix) *chain {
	c := &chain{name: sourcesName(sources)}
	for _, p := range sources {
		c.rules = append(c.rules, f.match("saddr", f.saddr, p, "return").verdict(verdictReturn, ""))
	}
	c.rules = append(c.rules, newRule("drop").verdict(verdictDrop, ""))
	return c
}
