package nftables

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"

	"github.com/nodekit/nodekit/proxyrules"
)

// balancer names the chain that balances over n endpoints. Fronts share it.
type balancer struct {
	protocol   int
	n          int
	affinity   int32 // seconds; 0: none
	nodePort   bool
	inside     bool // over the list Inside, whose slots are the upper ones
	masquerade bool
}

// insideSlots is where the slots of the list Inside begin.
const insideSlots = proxyrules.MaxEndpoints

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
	if b.affinity > 0 {
		return fmt.Sprintf("%saff-%s-%d-%d", prefix, protocols[b.protocol].lower, b.n, b.affinity)
	}
	return fmt.Sprintf("%slb-%s-%d", prefix, protocols[b.protocol].lower, b.n)
}

// onDemand matches the names of the chains that are made when they are needed.
var onDemand = regexp.MustCompile(`^(m?n?i?lb-[a-z]+-[0-9]+|m?n?i?aff-[a-z]+-[0-9]+-[0-9]+|from-[0-9a-f]{16})$`)

func (f *family) balancerChain(b balancer, mark uint32) *chain {
	c := &chain{name: b.name()}
	if b.masquerade {
		plain := b
		plain.masquerade = false
		c.rules = []*rule{markRule(mark), newRule("goto %s", plain.name()).verdict(verdictGoto, plain.name())}
		return c
	}
	if b.affinity > 0 {
		c.rules = f.affinityRules(b)
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

// slot looks one of the first n slots of the front up in a map, whose value
// goes to register 0 and on.
func (f *family) slot(b balancer, n int, maps string) (r *rule, text string) {
	p := protocols[b.protocol]
	r = new(rule)
	r.meta(0, metaL4Proto).cmp(0, opEqual, []byte{p.number})
	word, key := 0, ""
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
	return r, fmt.Sprintf("%s%s dport . %s map @%s%s", key, p.lower, random, maps, p.lower)
}

// pick sends a packet to one of the first n slots of its front.
func (f *family) pick(b balancer, n int) *rule {
	r, text := f.slot(b, n, "ep-")
	r.dnat(uint32(f.number), 0, f.words)
	r.text = fmt.Sprintf("dnat %s to %s", f.name, text)
	return r
}

// affinityRules send a client where it was before.
//
// The one field of a packet that rules may use as they like, unless a queueing
// discipline reads it, is its priority; it holds a token: the number of a port
// of a Service, and that of one of its endpoints (see tokens). A candidate is
// picked, kept for the client unless it has one, and what is kept is used. No
// token is valid that names an endpoint that left.
func (f *family) affinityRules(b balancer) []*rule {
	p := protocols[b.protocol]
	affinity, tokens := "affinity-"+p.lower, "affinity-ep-"+p.lower
	client := fmt.Sprintf("meta priority & 0x%08x . %s saddr", uint32(groupMask), f.name)
	key := func(r *rule) *rule {
		return r.meta(0, metaPriority).bitwise(0, host32(groupMask), host32(0)).
			payload(1, baseNetwork, f.saddr, uint32(4*f.words))
	}
	candidate := func(n int) *rule {
		r, text := f.slot(b, n, "pick-")
		r.text = "meta priority set " + text
		return r.setPriority(0)
	}
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
		candidate(b.n),
		keep(),
		key(newRule("meta priority set %s map @%s", client, affinity)).lookupTo(0, affinity, reg(0)).setPriority(0),
		use(),
		// It was at an endpoint that left.
		key(newRule("delete @%s { %s : meta priority }", affinity, client)).
			meta(data, metaPriority).dynset(affinity, dynsetDelete, 0, data, 0),
		candidate(b.n), keep(), use(),
		// See balancerChain.
		candidate(1), use(),
	}
}

// forgetToken leaves no token in a packet that goes out.
func forgetToken() *rule {
	return newRule("meta priority & 0x%08x == 0x%08x meta priority set 0", uint32(tokenBit), uint32(tokenBit)).
		meta(0, metaPriority).bitwise(0, host32(tokenBit), host32(0)).cmp(0, opEqual, host32(tokenBit)).
		immediate(0, host32(0)).setPriority(0)
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
