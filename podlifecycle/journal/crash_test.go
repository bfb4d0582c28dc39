package journal_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/nodekit/nodekit/podlifecycle/journal"
)

// A crash after any byte of any write loses nothing that was synced, and what
// is there is a state that once was: no later one without those before it.
func TestCrashAtAnyByte(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "nodekit-journal-") // where a sync costs nothing
	if err != nil {
		dir = t.TempDir()
	}
	defer os.RemoveAll(dir)
	path, crashed := filepath.Join(dir, "journal"), filepath.Join(dir, "crashed")
	rng := rand.New(rand.NewPCG(1, 2))
	j, _, err := journal.Open(journal.Config{Path: path, Slack: 2000})
	if err != nil {
		t.Fatal(err)
	}
	state, rewrites, cuts := map[string]string{}, 0, 0
	before := []byte{}
	for range 120 {
		old := maps.Clone(state)
		key := fmt.Sprint("key", rng.IntN(6))
		if rng.IntN(4) == 0 {
			delete(state, key)
			err = j.Delete(key)
		} else {
			state[key] = string(bytes.Repeat([]byte{byte(rng.IntN(256))}, rng.IntN(90)))
			err = j.Put(key, []byte(state[key]))
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		from := len(before)
		if !bytes.HasPrefix(text, before) {
			// Written anew beside the old one, which a crash before the rename leaves
			// with any part of the new.
			rewrites++
			for _, n := range []int{0, len(text) / 2, len(text)} {
				check(t, crashed, before, text[:n], old, old)
			}
			from = len(text)
		}
		for n := from; n <= len(text); n++ {
			cuts++
			want := old
			if n == len(text) {
				want = state
			}
			check(t, crashed, text[:n], nil, want, old)
		}
		before = text
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	if rewrites == 0 || cuts < 1000 {
		t.Errorf("%d rewrites, %d cuts", rewrites, cuts)
	}
}

// check opens what a crash left: the journal and perhaps a file beside it that
// was to take its place.
func check(t *testing.T, path string, text, beside []byte, want, or map[string]string) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if beside != nil {
		if err := os.WriteFile(path+".new", beside, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	j, found, err := journal.Open(journal.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if got := content(j); !maps.Equal(got, want) && !maps.Equal(got, or) || found.Lost != 0 || found.Quarantined != "" {
		t.Fatalf("%d bytes: %v, want %v; found %+v", len(text), got, want, found)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}
