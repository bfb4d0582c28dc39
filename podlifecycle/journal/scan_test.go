package journal

// Inside the package, because the scan of arbitrary bytes wants no disk.

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Whatever happens to a byte of a journal, wherever it is cut and whatever of
// its end is there twice: no other record than the one that was hit is lost.
func TestScanEveryDamage(t *testing.T) {
	var whole []byte
	var ends []int
	for i := range 12 {
		value := bytes.Repeat([]byte{byte(i)}, 40*i)
		if i%3 == 0 {
			value = append(value, mark[:]...) // what looks like a record, and is none
		}
		whole = appendRecord(whole, record{opPut, fmt.Sprintf("key/%d", i), value})
		ends = append(ends, len(whole))
	}
	keys := func(text []byte) (found []string, lost, torn int) {
		lost, torn = scan(text, func(r record) { found = append(found, r.key) })
		return found, lost, torn
	}
	all, _, _ := keys(whole)
	for at := range whole {
		hit := slices.IndexFunc(ends, func(end int) bool { return at < end })
		others := slices.Delete(slices.Clone(all), hit, hit+1)
		for _, value := range []byte{0, whole[at] ^ 1, whole[at] ^ 0x80, whole[at] ^ 0xff} {
			if value == whole[at] {
				continue
			}
			bad := slices.Clone(whole)
			bad[at] = value
			if found, lost, torn := keys(bad); !slices.Equal(found, others) || lost+torn == 0 {
				t.Fatalf("byte %d is %x: found %v, %d lost, %d torn", at, value, found, lost, torn)
			}
		}
		if found, lost, torn := keys(whole[:at]); !slices.Equal(found, all[:hit]) || lost != 0 || torn == 0 != (at == 0 || slices.Contains(ends, at)) {
			t.Fatalf("cut at %d: found %v, %d lost, %d torn", at, found, lost, torn)
		}
		// The end from here on is there twice.
		if found, _, _ := keys(append(slices.Clone(whole), whole[at:]...)); len(found) < len(all) || !slices.Equal(found[:len(all)], all) {
			t.Fatalf("twice from %d: found %v", at, found)
		}
	}
}

// The format of version 1 is read, and written, for ever; what a later version
// puts beside it costs nothing.
func TestFormat(t *testing.T) {
	const golden = "d74e4b1a0a000000b7c946cf010300706f6456616c75d74e4b1a06000000a1397557020300706f64"
	text := appendRecord(appendRecord(nil, record{opPut, "pod", []byte("Valu")}), record{opDelete, "pod", nil})
	if got := hex.EncodeToString(text); got != golden {
		t.Errorf("written %s, want %s", got, golden)
	}
	later := appendRecord(nil, record{opPut, "pod", []byte("here")})
	later = appendRecord(later, record{77, "pod", []byte("of a later version")})
	path := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(path, later, 0o600); err != nil {
		t.Fatal(err)
	}
	j, found, err := Open(Config{Path: path})
	if err != nil || found.Quarantined != "" || found.Lost != 0 {
		t.Fatalf("found %+v, %v", found, err)
	}
	if value, ok := j.Get("pod"); !ok || string(value) != "here" {
		t.Errorf("value %q", value)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

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
