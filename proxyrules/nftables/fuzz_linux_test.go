package nftables

// In the package itself, since what it fuzzes reads the kernel's words and is
// exported to nobody.

import (
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
		for _, front := range s.table().Fronts {
			if len(front.Endpoints) > proxyrules.MaxEndpoints {
				t.Errorf("%d endpoints", len(front.Endpoints))
			}
		}
		_ = messages(b, func(m message) error { _ = m.errno(); return nil })
	})
}
