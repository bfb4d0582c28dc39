package image_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

func TestCanonical(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	for ref, want := range map[string]string{
		"web":                         "docker.io/library/web:latest",
		"web:1":                       "docker.io/library/web:1",
		"docker.io/web":               "docker.io/library/web:latest",
		"team/web":                    "docker.io/team/web:latest",
		"127.0.0.1:5000/web":          "127.0.0.1:5000/web:latest",
		"localhost:5000/a/b:c":        "localhost:5000/a/b:c",
		"reg.example/web@" + digest:   "reg.example/web@" + digest,
		"reg.example/web:1@" + digest: "reg.example/web@" + digest,
		"":                            "",
		"UPPER":                       "",
		"a b":                         "",
		"web:":                        "",
		"a/../b":                      "",
		"reg.example/a..b":            "",
		"reg.example/a__b/c--d.e:T":   "reg.example/a__b/c--d.e:T",
		"[::1]:5000/a":                "[::1]:5000/a:latest",
		"-reg.example/a":              "",
		"web@sha256:12":               "",
		"web@md5:" + digest[7:]:       "",
		"http://web":                  "",
		"../web":                      "",
		strings.Repeat("a", 2000):     "",
	} {
		got, err := image.Canonical(ref)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("Canonical(%q) = %q, %v; want %q", ref, got, err, want)
		}
		if err != nil && !errors.Is(err, image.ErrInvalidName) {
			t.Errorf("Canonical(%q): %v is not ErrInvalidName", ref, err)
		}
	}
}

func TestLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1:1": true, "127.9.9.9": true,
		"[::1]:5000": true, "::1": true, "[::1]": true, "[::ffff:127.0.0.1]:80": true,
		"localhost.example": false, "127.0.0.1.example:80": false, "10.0.0.1:5000": false,
		"0.0.0.0": false, "": false, "example:443": false, "[fe80::1]:80": false,
	} {
		if got := image.Loopback(host); got != want {
			t.Errorf("Loopback(%q) = %t", host, got)
		}
	}
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{"web", "a/b:c", "[::1]:5000/x", "x@sha256:" + strings.Repeat("0", 64), "docker.io/a", "index.docker.io/a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		once, err := image.Canonical(ref)
		if err != nil {
			return
		}
		twice, err := image.Canonical(once)
		if err != nil || twice != once {
			t.Errorf("%q gives %q, which gives %q, %v", ref, once, twice, err)
		}
	})
}

func TestEntryPath(t *testing.T) {
	for name, want := range map[string]string{
		"a": "a", "./a": "a", "/a": "a", "//a//b/": "a/b", "a/../b": "b", "./": ".", "": ".", "/": ".",
		"..": "", "../a": "", "a/../../b": "", "/..": "", "/../a": "", "a\x00b": "", "..a": "..a", "a/..b": "a/..b",
	} {
		got, err := image.EntryPath(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("EntryPath(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
}

func FuzzEntryPath(f *testing.F) {
	for _, s := range []string{"a", "../a", "/..", "a/../../b", "a/.wh...", ".wh..wh..opq"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		p, err := image.EntryPath(name)
		if err != nil {
			if !errors.Is(err, image.ErrRefused) {
				t.Errorf("%q: %v", name, err)
			}
			return
		}
		for _, part := range strings.Split(p, "/") {
			if part == ".." || part == "" || strings.ContainsRune(part, 0) || part == "." && p != "." {
				t.Errorf("%q gives %q", name, p)
			}
		}
		hidden, _, err := image.Whiteout(p[strings.LastIndexByte(p, '/')+1:])
		if err == nil && (hidden == "." || hidden == "..") {
			t.Errorf("%q hides %q", name, hidden)
		}
	})
}

// FuzzManifest: whatever a registry answers is an image, an index with a
// digest, or an error of a kind.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"digest":"sha256:`+strings.Repeat("a", 64)+`","size":1,"mediaType":"application/vnd.oci.image.manifest.v1+json","platform":{"os":"linux","architecture":"arm","variant":"v7"}}]}`), "", "arm", "v8")
	f.Add([]byte(`{"schemaVersion":1}`), "application/vnd.docker.distribution.manifest.v1+json", "", "")
	f.Add([]byte(`{"config":{},"layers":[]}`), "", "amd64", "")
	f.Fuzz(func(t *testing.T, doc []byte, header, arch, variant string) {
		_, err := image.ReadManifest(doc, header, image.Platform{Architecture: arch, Variant: variant})
		if err != nil && !errors.Is(err, image.ErrCorrupt) && !errors.Is(err, image.ErrNotSupported) && !errors.Is(err, image.ErrNoPlatform) {
			t.Fatal(err)
		}
	})
}
