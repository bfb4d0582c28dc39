package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/nodekit/nodekit/podlifecycle/journal"
)

func open(t testing.TB, path string) (*journal.Journal, journal.Found) {
	t.Helper()
	j, found, err := journal.Open(journal.Config{Path: path, Slack: 4096})
	if err != nil {
		t.Fatal(err)
	}
	return j, found
}

func content(j *journal.Journal) map[string]string {
	all := map[string]string{}
	for _, key := range j.Keys("") {
		value, _ := j.Get(key)
		all[key] = string(value)
	}
	return all
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "below", "journal")
	j, found := open(t, path)
	if found != (journal.Found{}) {
		t.Errorf("a new journal found %+v", found)
	}
	want := map[string]string{}
	for i := range 500 { // several rewrites
		key := fmt.Sprintf("key/%d", i%40)
		want[key] = string(bytes.Repeat([]byte{byte(i)}, i))
		if err := j.Put(key, []byte(want[key])); err != nil {
			t.Fatal(err)
		}
		if i%7 == 0 {
			delete(want, key)
			if err := j.Delete(key); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	// Without Close, as a kill leaves it.
	again, found := open(t, path)
	if got := content(again); !maps.Equal(got, want) || found.Lost+found.Torn != 0 || found.Quarantined != "" {
		t.Errorf("found %+v, %d keys, want %d", found, len(got), len(want))
	}
	if info, err := os.Stat(path); err != nil || info.Size() > 64<<10 {
		t.Errorf("size %v, %v: superseded records are kept", info.Size(), err)
	}
	if err := errors.Join(again.Close(), j.Close()); err != nil {
		t.Error(err)
	}
	if err := j.Put("a", nil); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("put after close: %v", err)
	}
	if err := j.Put(string(make([]byte, 1<<16)), nil); !errors.Is(err, journal.ErrTooLarge) {
		t.Errorf("large key: %v", err)
	}
}

// Every length of a file that a crash can leave gives a prefix of what was put.
func TestCutAnywhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _ := open(t, path)
	for i := range 10 {
		if err := j.Put(fmt.Sprint(i), []byte{1, 2, 3, byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		j, found := open(t, path)
		keys := j.Keys("")
		for i, key := range keys {
			if key != fmt.Sprint(i) {
				t.Fatalf("cut at %d: keys %v", n, keys)
			}
		}
		if len(keys) != n/(len(whole)/10) || found.Lost != 0 || found.Quarantined != "" {
			t.Fatalf("cut at %d: %d keys, %+v", n, len(keys), found)
		}
		if err := errors.Join(j.Put("more", []byte("x")), j.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// Damage of any one byte costs at most one record, and leaves a copy.
func TestDamageAnywhere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "journal")
	j, _ := open(t, path)
	for i := range 8 {
		if err := j.Put(fmt.Sprint(i), bytes.Repeat([]byte{byte(i)}, 5)); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		for _, flip := range []byte{1, 0x80, 0xff} {
			bad := slices.Clone(whole)
			bad[n] ^= flip
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			j, found := open(t, path)
			if got := len(j.Keys("")); got != 7 {
				t.Fatalf("byte %d ^ %x: %d keys left, %+v", n, flip, got, found)
			}
			if found.Lost == 0 && found.Torn == 0 {
				t.Fatalf("byte %d ^ %x: not noticed", n, flip)
			}
			if found.Quarantined != "" {
				if kept, err := os.ReadFile(found.Quarantined); err != nil || !bytes.Equal(kept, bad) {
					t.Fatalf("copy of the damaged file: %v", err)
				}
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			if again, found := open(t, path); found.Lost+found.Torn != 0 || len(again.Keys("")) != 7 {
				t.Fatalf("not repaired: %+v", found)
			} else if err := again.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if copies, _ := filepath.Glob(path + ".damaged-*"); len(copies) != 3 {
		t.Errorf("copies kept: %v", copies)
	}
}

// A directory in its place is set aside like any other damage.
func TestUnreadable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	j, found := open(t, path)
	if found.Err == nil || found.Quarantined == "" {
		t.Errorf("found %+v", found)
	}
	if err := errors.Join(j.Put("a", []byte("b")), j.Close()); err != nil {
		t.Error(err)
	}
}

func TestConcurrentUse(t *testing.T) {
	j, _ := open(t, filepath.Join(t.TempDir(), "journal"))
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for n := range 50 {
				key := fmt.Sprintf("%d/%d", i, n%5)
				if err := errors.Join(j.Put(key, bytes.Repeat([]byte{byte(n)}, 100)), j.Sync()); err != nil {
					t.Error(err)
				}
				if value, ok := j.Get(key); !ok || value[0] != byte(n) {
					t.Errorf("%s is %v", key, value)
				}
			}
		})
	}
	group.Wait()
	if n := len(j.Keys("")); n != 40 {
		t.Errorf("%d keys", n)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

func FuzzOpen(f *testing.F) {
	path := filepath.Join(f.TempDir(), "journal")
	j, _ := open(f, path)
	for i := range 5 {
		if err := j.Put(fmt.Sprint(i), []byte("value")); err != nil {
			f.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:20])
	f.Add([]byte{0xd7, 'N', 'K', 0x1a, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "journal")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		j, _ := open(t, path)
		before := content(j)
		if err := errors.Join(j.Put("new", []byte("v")), j.Close()); err != nil {
			t.Fatal(err)
		}
		before["new"] = "v"
		again, found := open(t, path)
		if got := content(again); !maps.Equal(got, before) || found.Lost+found.Torn != 0 {
			t.Fatalf("found %+v: %v, want %v", found, got, before)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func ExampleJournal() {
	dir, err := os.MkdirTemp("", "journal")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "journal")

	j, _, err := journal.Open(journal.Config{Path: path})
	if err != nil {
		panic(err)
	}
	if err := errors.Join(j.Put("pod/a", []byte("Running")), j.Put("pod/a", []byte("Succeeded")), j.Sync()); err != nil {
		panic(err)
	}

	// The program is killed, and a bit of the newest record rots.
	text, _ := os.ReadFile(path)
	text[len(text)-1] ^= 1
	if err := os.WriteFile(path, text, 0o600); err != nil {
		panic(err)
	}

	j, found, err := journal.Open(journal.Config{Path: path})
	if err != nil {
		panic(err)
	}
	value, _ := j.Get("pod/a")
	fmt.Println(string(value), found.Lost > 0, filepath.Base(found.Quarantined))
	fmt.Println(j.Close())
	// Output:
	// Running true journal.damaged-000001
	// <nil>
}
