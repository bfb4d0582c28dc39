package statusserver

import (
	"net/netip"
	"net/url"
	"path"
	"strings"
	"testing"
)

// In the package, because the parsers of requests are not exported.

func FuzzLogOptions(f *testing.F) {
	f.Add("follow=true&tailLines=10&sinceTime=2024-01-02T03:04:05Z&stream=All")
	f.Add("limitBytes=0&sinceSeconds=-1")
	f.Fuzz(func(t *testing.T, query string) {
		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		opts, err := logOptions(values)
		if err != nil {
			return
		}
		if opts.TailLines != nil && *opts.TailLines < 0 || opts.LimitBytes != nil && *opts.LimitBytes < 1 ||
			opts.SinceSeconds != nil && *opts.SinceSeconds < 1 || opts.SinceSeconds != nil && opts.SinceTime != nil {
			t.Fatalf("%q passed as %+v", query, opts)
		}
	})
}

func FuzzKnownHost(f *testing.F) {
	for _, host := range []string{"localhost", "127.0.0.1:80", "[::1]:80", "evil.example", "127.0.0.1.evil.example", "[fe80::1%25eth0]"} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		if !knownHost(host, []string{"node-a"}) {
			return
		}
		name := hostname(host)
		if _, err := netip.ParseAddr(name); err != nil && name != "localhost" && name != "node-a" {
			t.Fatalf("%q is taken for a known name", host)
		}
	})
}

func FuzzCleanPath(f *testing.F) {
	for _, p := range []string{"/", "/ui/", "/a/../b", "//x", "/a\\b", ""} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		if !cleanPath(&url.URL{Path: p}) {
			return
		}
		if strings.Contains(p, "//") || strings.Contains(p+"/", "/../") || strings.Contains(p+"/", "/./") || path.Clean(p) != "/" && path.Clean(p) != strings.TrimSuffix(p, "/") {
			t.Fatalf("%q passed", p)
		}
	})
}
