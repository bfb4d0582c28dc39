package nftables

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/nodekit/nodekit/proxyrules"
)

// Render writes what Sync puts into the kernel as text that nft reads. config
// must be one that Open accepts; its NetNS is not used. Elements are sorted.
func Render(config Config, table *proxyrules.Table) (string, error) {
	if err := config.check(); err != nil {
		return "", err
	}
	changes := proxyrules.Diff(nil, table)
	var b strings.Builder
	for _, f := range families {
		if !wanted(f, table) {
			continue
		}
		f.render(&b, config, table.Node, &changes)
	}
	return b.String(), nil
}

type renderer struct {
	family   *family
	elements [setCount]map[string]string
}

func (f *family) render(b *strings.Builder, config Config, node proxyrules.Node, changes *proxyrules.Changes) {
	r := &renderer{family: f}
	for id := range r.elements {
		r.elements[id] = make(map[string]string)
	}
	balancers := make(map[balancer]bool)
	sources := make(map[string][]netip.Prefix)
	plan := newPlan(f, config.MasqueradeMark, newFamilyState())
	for _, addr := range node.Addresses {
		if f.has(addr) {
			r.element(setNodePortIPs, appendAddr(nil, addr), value{})
		}
	}
	for i := range changes.Fronts {
		front := changes.Fronts[i].New
		if !f.has(front.Addr) {
			continue
		}
		for _, e := range frontElements(front) {
			r.element(e.id, e.key, e.value)
		}
		if front.Kind == proxyrules.ClusterIP {
			r.element(setClusterIPs, appendAddr(nil, front.Addr), value{})
		}
		r.slots(plan, front, false, front.Endpoints)
		r.slots(plan, front, true, front.Inside)
		for _, wants := range frontBalancers(front) {
			for ok := true; ok; wants, ok = wants.needs() {
				balancers[wants] = true
			}
		}
		if len(front.Sources) > 0 {
			sources[sourcesName(front.Sources)] = front.Sources
		}
	}
	fmt.Fprintf(b, "table %s %s {\n", f.name, config.Table)
	for id, s := range f.sets() {
		s.render(b, r.elements[id])
	}
	for _, c := range f.skeleton(node, config.MasqueradeMark) {
		c.render(b)
	}
	names := slices.SortedFunc(maps.Keys(balancers), func(a, b balancer) int {
		if c := cmp.Compare(a.slots, b.slots); c != 0 {
			return c
		}
		return strings.Compare(a.name(), b.name())
	})
	for _, name := range names {
		f.balancerChain(name, config.MasqueradeMark).render(b)
	}
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		f.sourcesChain(sources[name]).render(b)
	}
	b.WriteString("}\n")
}

func (r *renderer) slots(p *plan, front *proxyrules.Front, inside bool, list []proxyrules.Endpoint) {
	for slot, endpoint := range list {
		id, key := slotKey(nil, front, inside, slot)
		v := endpointValue(nil, endpoint.Addr)
		if front.Affinity > 0 {
			token := p.token(front, inside, key, endpoint.Addr)
			r.element(setTokens+setID(protocolIndex(front.Protocol)), token.data, v)
			v = token
		}
		r.element(id, key, v)
		if !endpoint.Remote {
			r.element(setHairpin, hairpinKey(endpoint.Addr.Addr()), value{})
		}
	}
}

func (s *set) render(b *strings.Builder, elements map[string]string) {
	word, keyword := "set", "type"
	if s.isMap {
		word = "map"
	}
	if s.typeof {
		keyword = "typeof"
	}
	fmt.Fprintf(b, "\t%s %s {\n\t\t%s %s\n", word, s.name, keyword, s.text)
	if s.dynamic {
		fmt.Fprintf(b, "\t\tsize %d\n\t\tflags dynamic,timeout\n\t\ttimeout %ds\n", s.size, maxAffinity)
	}
	if len(elements) > 0 {
		b.WriteString("\t\telements = {\n")
		for _, key := range slices.SortedFunc(maps.Keys(elements), func(a, b string) int {
			return bytes.Compare([]byte(a), []byte(b))
		}) {
			fmt.Fprintf(b, "\t\t\t%s,\n", elements[key])
		}
		b.WriteString("\t\t}\n")
	}
	b.WriteString("\t}\n")
}

func (c *chain) render(b *strings.Builder) {
	fmt.Fprintf(b, "\tchain %s {\n", c.name)
	if c.hook != nil {
		fmt.Fprintf(b, "\t\ttype %s hook %s priority %d; policy accept;\n", c.hook.kind, c.hook.name, c.hook.priority)
	}
	for _, rule := range c.rules {
		fmt.Fprintf(b, "\t\t%s\n", rule.text)
	}
	b.WriteString("\t}\n")
}

// element writes one as nft does: 10.96.0.1 . tcp . 80 : goto lb-tcp-2.
func (r *renderer) element(id setID, key []byte, v value) {
	size := 4 * r.family.words
	var parts []string
	rest := key
	addr := func() {
		a, _ := netip.AddrFromSlice(rest[:size])
		parts = append(parts, a.String())
		rest = rest[size:]
	}
	port := func(b []byte) string { return fmt.Sprint(binary.BigEndian.Uint16(b)) }
	proto := func() {
		for _, p := range protocols {
			if p.number == rest[0] {
				parts = append(parts, p.lower)
			}
		}
		rest = rest[4:]
	}
	switch {
	case id == setClusterIPs || id == setNodePortIPs:
		addr()
	case id == setHairpin:
		addr()
		addr()
	case id >= setTokens:
		parts = append(parts, classID(rest))
	case id.bySlot():
		if vip := id < setNodePortEndpoints || id >= setPicks && id < setNodePortPicks; vip {
			addr()
		}
		parts = append(parts, port(rest), fmt.Sprint(binary.NativeEndian.Uint32(rest[4:])))
	default:
		if len(rest) > 8 {
			addr()
		}
		proto()
		parts = append(parts, port(rest))
	}
	text := strings.Join(parts, " . ")
	switch {
	case v.verdict && v.code == verdictDrop:
		text += " : drop"
	case v.verdict && v.code == verdictJump:
		text += " : jump " + v.chain
	case v.verdict:
		text += " : goto " + v.chain
	case len(v.data) == 4:
		text += " : " + classID(v.data)
	case len(v.data) > 0:
		a, _ := netip.AddrFromSlice(v.data[:size])
		text += fmt.Sprintf(" : %s . %s", a, port(v.data[size:]))
	}
	// Slots and tokens are in host order: sort by their number.
	sortKey := string(key)
	if id >= setEndpoints {
		n := len(key) - 4
		sortKey = string(binary.BigEndian.AppendUint32(slices.Clone(key[:n]), binary.NativeEndian.Uint32(key[n:])))
	}
	r.elements[id][sortKey] = text
}

// classID is how nft writes the values of the field that tokens use.
func classID(token []byte) string {
	v := binary.NativeEndian.Uint32(token)
	return fmt.Sprintf("%x:%x", v>>16, v&0xffff)
}

// wanted says whether a family's table is needed: IPv4's always is.
func wanted(f *family, table *proxyrules.Table) bool {
	if f.words == 1 {
		return true
	}
	if len(f.of(table.Node.PodCIDRs))+len(f.of(table.Node.ServiceCIDRs)) > 0 {
		return true
	}
	for front := range table.Fronts() {
		if f.has(front.Addr) {
			return true
		}
	}
	return false
}
