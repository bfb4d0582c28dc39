package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

// FuzzExtract unpacks archives of two arbitrary entries beside a canary.
func FuzzExtract(f *testing.F) {
	kerneltest.Require(f, kerneltest.Root)
	f.Add("a", "../canary", byte(tar.TypeSymlink), "a/x", "", byte(tar.TypeReg))
	f.Add("a", "..", byte(tar.TypeSymlink), "a/canary", "", byte(tar.TypeDir))
	f.Add("a/b", "/", byte(tar.TypeSymlink), "a/b/.wh.canary", "", byte(tar.TypeReg))
	f.Add("x", "../canary", byte(tar.TypeLink), ".wh..wh..opq", "", byte(tar.TypeReg))
	f.Fuzz(func(t *testing.T, name1, link1 string, kind1 byte, name2, link2 string, kind2 byte) {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, hdr := range []*tar.Header{
			{Name: name1, Linkname: link1, Typeflag: kind1, Mode: 0o755},
			{Name: name2, Linkname: link2, Typeflag: kind2, Mode: 0o7777},
		} {
			if err := w.WriteHeader(hdr); err != nil {
				return // no archive can hold it
			}
		}
		_ = w.Close()
		base := t.TempDir()
		canary := filepath.Join(base, "canary")
		if err := os.WriteFile(canary, []byte("alive"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := image.Extract(context.Background(), &buf, filepath.Join(base, "fs"))
		if err != nil && !errors.Is(err, image.ErrRefused) && !errors.Is(err, image.ErrCorrupt) {
			t.Logf("%v", err)
		}
		entries, _ := os.ReadDir(base)
		for _, e := range entries {
			if e.Name() != "fs" && e.Name() != "canary" {
				t.Fatalf("%s was made outside", e.Name())
			}
		}
		data, err := os.ReadFile(canary)
		info, statErr := os.Lstat(canary)
		if err != nil || statErr != nil || string(data) != "alive" || info.Mode() != 0o600 {
			t.Fatalf("the canary changed: %q %v %v", data, info, err)
		}
	})
}
