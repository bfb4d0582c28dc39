package metrics

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// TestCutFiles cuts every recorded file of a cgroup at every byte: a figure of
// what is left is that of the whole, or none. Cut between two records, a file that
// is a list cannot be told from a whole one; the kernel gives those whole or not
// at all, and cgroup.procs page by page until its end, as it is read here.
func TestCutFiles(t *testing.T) {
	lists := map[string]bool{"cgroup.procs": true, "io.stat": true}
	cuts := 0
	for version, trees := range map[int]string{1: "testdata/v1/*", 2: "testdata/v2/cgroup"} {
		var l layout
		for i := range l {
			l[i] = place{version, "/"}
		}
		l[controllerPressure].version = 2
		for _, src := range makePlan(l, []uint64{2 << 20}).sources {
			files, err := filepath.Glob(trees + "/kubepods/pod1/c1/" + src.name)
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range files {
				whole, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				var full Sample
				if err := src.parse(whole, &full); err != nil {
					t.Fatalf("%s: %v", file, err)
				}
				for n := range len(whole) {
					cut := whole[:n]
					if lists[src.name] && (n == 0 || bytes.HasSuffix(cut, []byte("\n"))) {
						continue
					}
					cuts++
					var s Sample
					err := src.parse(cut, &s)
					for f := range numFields {
						got, ok := s.Get(f)
						if want, _ := full.Get(f); ok && got != want {
							t.Errorf("%s cut to %q: field %d is %d, not %d", file, cut, f, got, want)
						}
					}
					if err == nil && !(reflect.DeepEqual(s.Devices, full.Devices) && reflect.DeepEqual(s.HugePages, full.HugePages)) {
						t.Errorf("%s cut to %q: other devices or pages, and no error", file, cut)
					}
				}
			}
		}
	}
	if cuts < 1000 {
		t.Errorf("only %d cuts", cuts)
	}
}
