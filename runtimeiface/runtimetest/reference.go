package runtimetest

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/nodekit/nodekit/runtimeiface"
)

// reference is an image's name in full: registry, repository, and a tag or a digest.
type reference struct{ name, tag, digest string }

// The grammar is that of github.com/distribution/reference v0.6.0.
var (
	pathPattern   = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	hostPattern   = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(:[0-9]+)?$`)
	tagPattern    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// parseRef reads "app", "registry:5000/a/b:tag" or "app@sha256:…". A tag beside
// a digest is dropped, as runtimes do.
func parseRef(s string) (reference, error) {
	bad := func(what string) (reference, error) {
		return reference{}, fmt.Errorf("%w: %q: %s", runtimeiface.ErrInvalidImageName, s, what)
	}
	var ref reference
	rest, digest, hasDigest := strings.Cut(s, "@")
	if hasDigest && !digestPattern.MatchString(digest) {
		return bad("digest")
	}
	if at := strings.LastIndex(rest, ":"); at > strings.LastIndex(rest, "/") {
		rest, ref.tag = rest[:at], rest[at+1:]
		if !tagPattern.MatchString(ref.tag) {
			return bad("tag")
		}
	}
	switch {
	case hasDigest:
		ref.tag, ref.digest = "", digest
	case ref.tag == "":
		ref.tag = "latest"
	}
	host, path, slash := strings.Cut(rest, "/")
	switch {
	case !slash:
		host, path = "docker.io", "library/"+rest
	case !strings.ContainsAny(host, ".:[") && host != "localhost":
		host, path = "docker.io", rest
	}
	if !hostPattern.MatchString(host) {
		return bad("registry")
	}
	if !pathPattern.MatchString(path) {
		return bad("repository")
	}
	ref.name = host + "/" + path
	return ref, nil
}

func (r reference) String() string {
	if r.digest != "" {
		return r.name + "@" + r.digest
	}
	return r.name + ":" + r.tag
}
