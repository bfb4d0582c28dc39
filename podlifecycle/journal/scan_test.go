package journal

// Inside the package, because the scan of arbitrary bytes wants no disk.

import (
	"bytes"
	"testing"
)

func FuzzScan(f *testing.F) {
	var whole []byte
	for _, key := range []string{"a", "b", "c"} {
		whole = appendRecord(whole, record{opPut, key, []byte("value of " + key)})
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-3])
	f.Add(append(bytes.Clone(whole), mark[:]...))
	f.Fuzz(func(t *testing.T, text []byte) {
		var sound []byte
		lost, torn := scan(text, func(r record) { sound = appendRecord(sound, r) })
		if len(sound)+lost+torn != len(text) {
			t.Fatalf("%d bytes sound, %d lost, %d torn of %d", len(sound), lost, torn, len(text))
		}
		again := 0
		lost, torn = scan(sound, func(record) { again++ })
		if lost+torn != 0 {
			t.Fatalf("what was found sound is not: %d lost, %d torn", lost, torn)
		}
	})
}
