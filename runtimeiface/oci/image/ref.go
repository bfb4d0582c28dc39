package image

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// The grammar of github.com/distribution/reference v0.6.0, which the kubelet
// goes by, where the parser in use is more generous: it takes "../web".
var (
	refHost = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9A-Fa-f:]+\])(:[0-9]+)?$`)
	refPath = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
)

// maxRef bounds a reference: registry 255, repository 255, tag 128, digest 135.
const maxRef = 1024

// reference is a parsed image name.
type reference struct {
	name.Reference
}

// parseRef reads "web", "web:1", "host:5000/team/web@sha256:...". Docker's
// defaults apply: docker.io, library/, :latest.
func parseRef(ref string) (reference, error) {
	if len(ref) > maxRef {
		return reference{}, fmt.Errorf("%w: %d bytes long", ErrInvalidName, len(ref))
	}
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return reference{}, fmt.Errorf("%w: %q: %w", ErrInvalidName, ref, err)
	}
	repo := parsed.Context()
	if len(repo.RepositoryStr()) > 255 || // "library/" included
		!refHost.MatchString(repo.RegistryStr()) || !refPath.MatchString(repo.RepositoryStr()) {
		return reference{}, fmt.Errorf("%w: %q", ErrInvalidName, ref)
	}
	if digest, ok := parsed.(name.Digest); ok {
		if _, err := v1.NewHash(digest.DigestStr()); err != nil {
			return reference{}, fmt.Errorf("%w: %q: %w", ErrInvalidName, ref, err)
		}
	}
	return reference{parsed}, nil
}

// canonical is the full name, with docker.io as people write it.
func (r reference) canonical() string { return canonicalName(r.Reference.Name()) }

// repo is the canonical repository.
func (r reference) repo() string { return canonicalName(r.Context().Name()) }

// digest is the digest that the reference pins, or "".
func (r reference) digest() string {
	if d, ok := r.Reference.(name.Digest); ok {
		return d.DigestStr()
	}
	return ""
}

func canonicalName(s string) string {
	if rest, ok := strings.CutPrefix(s, name.DefaultRegistry+"/"); ok {
		return "docker.io/" + rest
	}
	return s
}

// canonicalHost is the name of a registry as people write it.
func canonicalHost(host string) string {
	if host == name.DefaultRegistry {
		return "docker.io"
	}
	return host
}

// parseRepo gives a repository of host, which may answer without TLS if plain.
func parseRepo(host, path string, plain bool) (name.Repository, error) {
	var opts []name.Option
	if plain {
		opts = append(opts, name.Insecure)
	}
	registry, err := name.NewRegistry(host, opts...)
	if err != nil {
		return name.Repository{}, fmt.Errorf("%w: %w", ErrInvalidName, err)
	}
	return registry.Repo(path), nil
}

// isImageID tells "sha256:<hex>".
func isImageID(s string) bool {
	_, err := v1.NewHash(s)
	return err == nil
}

// dirName makes a digest a file name without the ':' that overlay options
// would need escaped.
func dirName(digest string) string { return strings.Replace(digest, ":", "-", 1) }

// digestName is what dirName was made of.
func digestName(dir string) string { return strings.Replace(dir, "-", ":", 1) }

// loopback tells whether host, with or without port, can only be this machine.
func loopback(host string) bool {
	if h, _, ok := cutPort(host); ok {
		host = h
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// cutPort splits "host:5000" and "[::1]:5000", and leaves "::1" alone.
func cutPort(host string) (string, string, bool) {
	i := strings.LastIndexByte(host, ':')
	if i < 0 || strings.IndexByte(host, ':') != i && !strings.HasPrefix(host, "[") {
		return host, "", false
	}
	if strings.HasSuffix(host, "]") {
		return host, "", false
	}
	return host[:i], host[i+1:], true
}
