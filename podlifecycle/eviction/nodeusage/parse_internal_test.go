package nodeusage

import "testing"

// The parsers are not exported, and no file need be written to fuzz them.
func FuzzKernelText(f *testing.F) {
	f.Add("MemTotal:       16384000 kB\nMemFree: 1 kB\n")
	f.Add("anon 4096\nfile 1\n")
	f.Add("1.36 3.49 4.53 2/3518 3715089\n")
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := fields(text, "MemTotal", "anon"); err == nil && (got["MemTotal"] < 0 || got["anon"] < 0) {
			t.Errorf("negative: %v", got)
		}
		if n, err := tasks(text); err == nil && n < 0 {
			t.Errorf("negative: %d", n)
		}
	})
}
