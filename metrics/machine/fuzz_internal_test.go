package machine

// In the package itself, for it feeds the parsers, which are its inside.

import (
	"slices"
	"testing"
)

func FuzzParsers(f *testing.F) {
	for _, text := range []string{
		"0-3,8,10-11\n", "8:0", "none [mq-deadline] kyber", "24684084 kB", "10 21",
		"23 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n", "MemTotal:  5 kB\n",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if list := parseList(text); !slices.IsSorted(list) && len(list) > 1<<17 {
			t.Errorf("a list of %d out of %q", len(list), text)
		}
		if n, err := kilobytes(text); err == nil && n%1024 != 0 {
			t.Errorf("%q is %d bytes", text, n)
		}
		for _, m := range parseMounts(text) {
			if m.path == "" || m.device[:5] != "/dev/" {
				t.Errorf("%q gave %+v", text, m)
			}
		}
		parseDev(text)
		scheduler(text)
		distances(text)
		field(text, "MemTotal")
	})
}

func TestParseList(t *testing.T) {
	for text, want := range map[string][]int{
		"0\n": {0}, "0-2,5": {0, 1, 2, 5}, "": nil, "x": nil, "3-1": nil, "0-": nil, "1,": nil, "-1": nil, "0-99999999": nil,
	} {
		if got := parseList(text); !slices.Equal(got, want) {
			t.Errorf("parseList(%q) = %v, want %v", text, got, want)
		}
	}
}
