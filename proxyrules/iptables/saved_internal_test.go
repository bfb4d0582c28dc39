package iptables

import (
	"reflect"
	"testing"
)

const savedText = `# Generated
*nat
:PREROUTING ACCEPT [0:0]
:NODEKIT-SERVICES - [0:0]
:NODEKITX-SERVICES - [0:0]
-A PREROUTING -m comment --comment "x y" -j NODEKIT-SERVICES
-A PREROUTING -j OTHER
-A NODEKIT-SERVICES -d 10.96.0.10/32 -j NODEKIT-F-0123456789ABCDEF
COMMIT
`

// It is internal: what tools print is no part of the package's face.
func TestParseSaved(t *testing.T) {
	got := parseSaved(savedText, "NODEKIT")
	want := &saved{
		chains: map[string][]string{"nat": {"NODEKIT-SERVICES"}},
		jumps:  map[string][]string{"nat": {`PREROUTING -m comment --comment "x y" -j NODEKIT-SERVICES`}},
		counts: map[string]int{"nat NODEKIT-SERVICES": 1},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	const removal = "*nat\n:NODEKIT-SERVICES - [0:0]\n-D PREROUTING -m comment --comment \"x y\" -j NODEKIT-SERVICES\n-X NODEKIT-SERVICES\nCOMMIT\n"
	if got.removal() != removal {
		t.Error(got.removal())
	}
}

func FuzzParseSaved(f *testing.F) {
	f.Add(savedText)
	f.Add("*\n:\n-A \n-A X -j")
	f.Fuzz(func(t *testing.T, text string) {
		s := parseSaved(text, "NODEKIT")
		if !s.present() && s.removal() != "" {
			t.Error(s.removal())
		}
	})
}
