package nftables

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/nodekit/nodekit/proxyrules"
)

// hook is where a base chain stands.
type hook struct {
	kind     string // nat or filter
	name     string
	number   uint32 // NF_INET_*
	priority int32
}

type chain struct {
	name  string
	hook  *hook // nil: only reached from other chains
	rules []*rule
}

// skeleton makes the chains of a family that no Service changes.
func (f *family) skeleton(node proxyrules.Node, mark uint32) []*chain {
	r := newRule
	jump := func(to string) *rule { return r("jump %s", to).verdict(verdictJump, to) }
	goTo := func(to string) *rule { return r("goto %s", to).verdict(verdictGoto, to) }
	address := uint32(4 * f.words)
	daddr := func(r *rule) *rule { return r.payload(0, baseNetwork, f.daddr, address) }
	// front looks a VIP's address, protocol and port up.
	front := func(set string) *rule {
		return daddr(r("%s daddr . meta l4proto . th dport vmap @%s", f.name, set)).
			meta(f.words, metaL4Proto).dport(f.words+1).vmap(0, set)
	}
	port := func(set string) *rule {
		return r("meta l4proto . th dport vmap @%s", set).meta(0, metaL4Proto).dport(1).vmap(0, set)
	}
	nodePort := func(set string) *rule {
		return daddr(r("%s daddr @nodeport-ips meta l4proto . th dport vmap @%s", f.name, set)).
			lookup(0, "nodeport-ips").meta(0, metaL4Proto).dport(1).vmap(0, set)
	}
	fresh := func(to string) *rule {
		return r("ct state new jump %s", to).ct(0, ctState).
			bitwise(0, host32(stateNew), host32(0)).cmp(0, opNotEqual, host32(0)).verdict(verdictJump, to)
	}
	// What was sent to an endpoint is refused nowhere.
	sent := r("ct status dnat return").ct(0, ctStatus).
		bitwise(0, host32(statusDNAT), host32(0)).cmp(0, opNotEqual, host32(0)).verdict(verdictReturn, "")
	setMark := markRule(mark)

	return []*chain{
		{"prerouting", &hook{"nat", "prerouting", 0, -100}, []*rule{jump("dispatch")}},
		{"output", &hook{"nat", "output", 3, -100}, []*rule{jump("dispatch")}},
		// A packet on its way while a transaction ends keeps to the rules of the
		// generation that it began with, and finds in sets and maps only what is of
		// the next (Linux v6.12 net/netfilter/nf_tables_core.c nft_do_chain,
		// include/net/netfilter/nf_tables.h nft_set_elem_active): a chain made just
		// now is empty to it, a map that goes has nothing more, and it would pass a
		// Service by. With the next hook it begins anew. One that was sent to an
		// endpoint does not come here.
		{"prerouting-again", &hook{"nat", "prerouting", 0, -99}, []*rule{jump("dispatch")}},
		{"output-again", &hook{"nat", "output", 3, -99}, []*rule{jump("dispatch")}},
		{"postrouting", &hook{"nat", "postrouting", 4, 100}, []*rule{
			forgetToken(),
			r("meta mark & 0x%08x == 0x%08x jump source-node", mark, mark).meta(0, metaMark).
				bitwise(0, host32(mark), host32(0)).cmp(0, opEqual, host32(mark)).verdict(verdictJump, "source-node"),
			r("ct status dnat %s saddr . %s daddr @hairpin masquerade fully-random", f.name, f.name).ct(0, ctStatus).
				bitwise(0, host32(statusDNAT), host32(0)).cmp(0, opNotEqual, host32(0)).
				payload(0, baseNetwork, f.saddr, address).payload(f.words, baseNetwork, f.daddr, address).
				lookup(0, "hairpin").masquerade(),
			jump("egress"),
		}},
		{"filter-input", &hook{"filter", "input", 1, -99}, []*rule{fresh("refusals")}},
		{"filter-forward", &hook{"filter", "forward", 2, -99}, []*rule{fresh("refusals-elsewhere")}},
		{"filter-output", &hook{"filter", "output", 3, -99}, []*rule{fresh("refusals-elsewhere")}},
		{"dispatch", nil, []*rule{front("source-ranges"), jump("mark-off-cluster"), front("services"), nodePort("nodeports")}},
		{"mark-off-cluster", nil, f.offCluster(node, mark)},
		// Policy Local is not for pods and the node itself.
		{"external-local", nil, append(f.inside(node, "to-inside", "node-to-inside"), front("local"))},
		{"to-inside", nil, []*rule{front("inside")}},
		{"node-to-inside", nil, []*rule{setMark, goTo("to-inside")}},
		{"np-external-local", nil, append(f.inside(node, "np-to-inside", "np-node-to-inside"), port("np-local"))},
		{"np-to-inside", nil, []*rule{port("np-inside")}},
		{"np-node-to-inside", nil, []*rule{setMark, goTo("np-to-inside")}},
		{"refusals", nil, []*rule{sent, front("no-endpoints"), nodePort("np-no-endpoints")}},
		{"refusals-elsewhere", nil, append([]*rule{sent, jump("refusals"),
			f.toClusterIP("goto refuse").verdict(verdictGoto, "refuse")}, f.unknown(node)...)},
		// TCP is reset rather than told by ICMP, which is rate-limited, and
		// which an IPv6 socket on this node hears only at its second attempt.
		{"refuse", nil, []*rule{
			r("meta l4proto tcp reject with tcp reset").meta(0, metaL4Proto).cmp(0, opEqual, []byte{6}).reject(rejectReset, 0),
			r("reject").reject(rejectUnreachable, f.unreachable),
		}},
		{"source-node", nil, []*rule{
			r("meta mark set meta mark ^ 0x%08x", mark).meta(0, metaMark).
				bitwise(0, host32(0xffffffff), host32(mark)).setMark(0),
			r("masquerade fully-random").masquerade(),
		}},
		{"egress", nil, f.egress(node)},
	}
}

func newRule(format string, args ...any) *rule { return &rule{text: fmt.Sprintf(format, args...)} }

func markRule(mark uint32) *rule { return putMark(newRule("%s", markText(mark)), mark) }

func markText(mark uint32) string { return fmt.Sprintf("meta mark set meta mark | 0x%08x", mark) }

func putMark(r *rule, mark uint32) *rule {
	return r.meta(0, metaMark).bitwise(0, host32(^mark), host32(mark)).setMark(0)
}

// match compares an address with a network; what it then does is to be added.
func (f *family) match(field string, offset uint32, p netip.Prefix, then string) *rule {
	if p.Bits() == 0 {
		return newRule("%s", then) // matches all
	}
	if p.IsSingleIP() {
		return newRule("%s %s %s %s", f.name, field, p.Addr(), then).prefix(offset, p)
	}
	return newRule("%s %s %s %s", f.name, field, p, then).prefix(offset, p)
}

func (f *family) of(prefixes []netip.Prefix) (out []netip.Prefix) {
	for _, p := range prefixes {
		if f.has(p.Addr()) {
			out = append(out, p)
		}
	}
	return out
}

// fromPods makes a rule for each way in which pods are known; then is text and
// code is what that means.
func (f *family) fromPods(node proxyrules.Node, then string, code uint32, to string) (rules []*rule) {
	if node.LocalInterface != "" {
		return []*rule{newRule("iifname %q %s", node.LocalInterface, then).iifname(node.LocalInterface).verdict(code, to)}
	}
	for _, p := range node.Local(f.words == 1) {
		rules = append(rules, f.match("saddr", f.saddr, p, then).verdict(code, to))
	}
	return rules
}

// toClusterIP matches what goes to the cluster IP of a Service; what it then does
// is to be added.
func (f *family) toClusterIP(then string) *rule {
	return newRule("%s daddr @cluster-ips %s", f.name, then).
		payload(0, baseNetwork, f.daddr, uint32(4*f.words)).lookup(0, "cluster-ips")
}

// offCluster marks what goes to a cluster IP and does not come from pods. Who
// sends is cheaper to tell than whose address it goes to.
func (f *family) offCluster(node proxyrules.Node, mark uint32) (rules []*rule) {
	if !node.MasqueradeAll {
		if rules = f.fromPods(node, "return", verdictReturn, ""); len(rules) == 0 {
			return nil
		}
	}
	setMark := f.toClusterIP(markText(mark))
	return append(rules, putMark(setMark, mark))
}

// inside sends what comes from pods, and from the node itself, to chains.
func (f *family) inside(node proxyrules.Node, pods, self string) []*rule {
	return append(f.fromPods(node, "goto "+pods, verdictGoto, pods),
		newRule("fib saddr type local goto %s", self).fibSource().cmp(0, opEqual, host32(typeLocal)).verdict(verdictGoto, self))
}

// unknown drops what goes to a cluster IP that no Service has.
func (f *family) unknown(node proxyrules.Node) (rules []*rule) {
	for _, p := range f.of(node.ServiceCIDRs) {
		rules = append(rules, f.match("daddr", f.daddr, p, "drop").verdict(verdictDrop, ""))
	}
	return rules
}

// egress hides pods from what is not of the cluster.
func (f *family) egress(node proxyrules.Node) (rules []*rule) {
	pods := f.of(node.PodCIDRs)
	if !node.MasqueradeEgress || len(pods) == 0 {
		return nil
	}
	inside := append(append([]netip.Prefix{f.multicast}, pods...), f.of(node.NoMasquerade)...)
	for _, p := range inside {
		rules = append(rules, f.match("daddr", f.daddr, p, "return").verdict(verdictReturn, ""))
	}
	for _, p := range pods {
		rules = append(rules, f.match("saddr", f.saddr, p, "masquerade fully-random").masquerade())
	}
	return rules
}

// wildcard splits the name of links into its letters and whether more follow.
func wildcard(name string) (string, bool) { return strings.CutSuffix(name, "*") }
