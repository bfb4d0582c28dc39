package nftables

// In the package itself, since what it fuzzes reads the kernel's words and is
// exported to nobody.

import (
	"net/netip"
	"testing"

	"github.com/nodekit/nodekit/proxyrules"
)

func FuzzAnswers(f *testing.F) {
	var w buffer
	list := w.begin(3)
	var c chunks
	c.element([]byte{10, 96, 0, 1, 0, 80, 0, 0, 1, 0, 0, 0}, &value{data: []byte{10, 244, 0, 1, 0, 80, 0, 0}})
	c.element([]byte{10, 96, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0}, &value{verdict: true, code: verdictGoto, chain: "lb-tcp-1"})
	w.b = append(w.b, c.last.b...)
	w.end(list)
	elements := 0
	if err := elementsOf(w.b, func(string, value) { elements++ }); err != nil || elements != 2 {
		f.Fatal(elements, err)
	}
	f.Add(w.b)
	f.Add(appendHeader(nil, 2, 0, 1, 2, 0))
	f.Add([]byte{3, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var s snapshot
		for i := range s.families {
			for id := range s.families[i].elements {
				s.families[i].elements[id] = make(map[string]string)
			}
		}
		_ = elementsOf(b, func(key string, v value) {
			for i := range s.families {
				for id := range s.families[i].elements {
					s.families[i].elements[id][key] = v.encode()
				}
			}
		})
		// Whatever the kernel holds, a front with affinity finds its tokens.
		for i, family := range families {
			p := newPlan(family, DefaultMark, newFamilyState())
			p.adopt(&s.families[i].elements)
			front := &proxyrules.Front{FrontKey: proxyrules.FrontKey{Addr: netip.MustParseAddr("10.96.0.1"), Protocol: "TCP", Port: 80},
				Kind: proxyrules.ClusterIP, Action: proxyrules.Balance, Affinity: 60,
				Endpoints: []proxyrules.Endpoint{{Addr: netip.MustParseAddrPort("10.244.0.1:80")}, {Addr: netip.MustParseAddrPort("10.244.0.2:80")}}}
			if family.words > 1 {
				continue
			}
			changes := proxyrules.Diff(nil, proxyrules.NewTable(proxyrules.Node{}, []*proxyrules.Front{front}))
			p.change(&changes.Fronts[0])
			p.finish()
			if p.err != nil {
				t.Error(p.err)
			}
			for _, g := range p.state.tokens[0].groups {
				if len(g.ends) != 2 || len(g.taken) != 2 {
					t.Errorf("%d endpoints with %d numbers", len(g.ends), len(g.taken))
				}
			}
		}
		for front := range s.table().Fronts() {
			if len(front.Endpoints) > proxyrules.MaxEndpoints {
				t.Errorf("%d endpoints", len(front.Endpoints))
			}
		}
		_ = messages(b, func(m message) error { _ = m.errno(); return nil })
	})
}
