package runtimetest

import (
	"strings"
	"testing"
)

// In the package, because the reader of logs is no business of its users.
func FuzzParseLog(f *testing.F) {
	f.Add([]byte("2016-10-06T00:17:09.669794202Z stdout F text\n"))
	f.Add([]byte("2016-10-06T00:17:09.669794202Z stderr P half\n2016-10-06T00:17:09Z stderr F \n"))
	f.Add([]byte("yesterday stdout F text\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lines, err := parseLog(data)
		if err != nil {
			return
		}
		if want := strings.Count(string(data), "\n"); len(lines) != want {
			t.Fatalf("%q has %d whole lines, read were %d", data, want, len(lines))
		}
	})
}

func TestParseLogRefuses(t *testing.T) {
	for _, text := range []string{
		"no parts\n", "2016-10-06 stdout F text\n", "2016-10-06T00:17:09Z stdin F text\n", "2016-10-06T00:17:09Z stdout X text\n",
	} {
		if lines, err := parseLog([]byte(text)); err == nil {
			t.Errorf("%q was read as %v", text, lines)
		}
	}
}
