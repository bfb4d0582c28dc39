package image

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	// maxManifest is what registries accept at most (distribution-spec v1.1:
	// "SHOULD support 4 megabytes"), for manifests and configurations.
	maxManifest  = 4 << 20
	maxConfig    = 8 << 20
	maxLayers    = 190 // whose names fit in the page of options that mount(2) takes
	maxRedirects = 10
)

// A remote is one repository of a host, logged in to.
type remote struct {
	repo    name.Repository
	client  *http.Client
	secrets []string
}

// dial does the authentication handshake.
func (s *Store) dial(ctx context.Context, repo name.Repository, auth Auth, plain func(host string) bool) (*remote, error) {
	r := &remote{repo: repo, secrets: secrets(auth)}
	scope := repo.Scope(transport.PullScope)
	tr, err := transport.NewWithContext(ctx, repo.Registry, authenticator(auth), guard{s.transport, plain}, []string{scope})
	if err != nil {
		err = fromRegistry(err, r.secrets)
		if e := new(registryError); errors.As(err, &e) && e.kind == ErrNotFound {
			e.kind = ErrUnavailable // no image was asked for yet: what answers is no registry
		}
		return nil, fmt.Errorf("log in to %s: %w", canonicalHost(repo.RegistryStr()), err)
	}
	r.client = &http.Client{Transport: tr, CheckRedirect: checkRedirect}
	return r, nil
}

func authenticator(a Auth) authn.Authenticator {
	if a == (Auth{}) {
		return authn.Anonymous
	}
	return authn.FromConfig(authn.AuthConfig{
		Username: a.Username, Password: a.Password,
		IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken,
	})
}

// A guard keeps requests without TLS, and the credentials in them, from hosts
// that were not allowed it, also after redirects; and it keeps what a redirect
// would have posted once more, a token, from another host.
type guard struct {
	inner http.RoundTripper
	plain func(host string) bool
}

func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !g.plain(req.URL.Host) {
		return nil, fmt.Errorf("plain HTTP to %s is not allowed", req.URL.Host)
	}
	if from := req.Response; from != nil && req.Body != nil && from.Request.URL.Host != req.URL.Host {
		return nil, fmt.Errorf("redirect of credentials from %s to %s refused", from.Request.URL.Host, req.URL.Host)
	}
	resp, err := g.inner.RoundTrip(req)
	if err == nil && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable) {
		defer resp.Body.Close()
		return nil, &busyError{retryAfter(resp.Header.Get("Retry-After"), time.Now()), transport.CheckError(resp, http.StatusOK)}
	}
	return resp, err
}

// checkRedirect keeps a registry from sending this node to addresses inside
// its network (metadata services, neighbours).
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	to, from := req.URL.Hostname(), via[0].URL.Hostname()
	addr, err := netip.ParseAddr(to)
	if err != nil || to == from || loopback(from) {
		return nil
	}
	addr = addr.Unmap()
	if addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsUnspecified() {
		return fmt.Errorf("redirect from %s to the private address %s refused", from, to)
	}
	return nil
}

// get asks for manifests/X or blobs/X, and only for a span of bytes (first-last) unless "".
func (r *remote) get(ctx context.Context, kind, id string, accept []string, span string) (*http.Response, error) {
	u := url.URL{
		Scheme: r.repo.Scheme(), // the transport corrects it to what answered
		Host:   r.repo.RegistryStr(),
		Path:   "/v2/" + r.repo.RepositoryStr() + "/" + kind + "/" + id,
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if len(accept) > 0 {
		req.Header.Set("Accept", strings.Join(accept, ","))
	}
	if span != "" {
		req.Header.Set("Range", "bytes="+span)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, fromRegistry(err, r.secrets)
	}
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		_ = resp.Body.Close()
		return nil, fromRegistry(err, r.secrets)
	}
	return resp, nil
}

var manifestTypes = []string{
	string(types.OCIManifestSchema1), string(types.DockerManifestSchema2),
	string(types.OCIImageIndex), string(types.DockerManifestList),
}

// manifest fetches a manifest or an index by tag or digest; a digest is
// verified.
func (r *remote) manifest(ctx context.Context, id string) ([]byte, types.MediaType, error) {
	resp, err := r.get(ctx, "manifests", id, manifestTypes, "")
	if err != nil {
		return nil, "", err
	}
	data, err := readAll(resp, maxManifest)
	if err != nil {
		return nil, "", err
	}
	if isImageID(id) {
		err = verify(data, id)
	}
	return data, types.MediaType(resp.Header.Get("Content-Type")), err
}

// config fetches and verifies an image configuration.
func (r *remote) config(ctx context.Context, desc v1.Descriptor) ([]byte, error) {
	if desc.Size < 0 || desc.Size > maxConfig {
		return nil, fmt.Errorf("%w: configuration of %d bytes", ErrCorrupt, desc.Size)
	}
	resp, err := r.get(ctx, "blobs", desc.Digest.String(), nil, "")
	if err != nil {
		return nil, err
	}
	data, err := readAll(resp, maxConfig)
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != desc.Size {
		return nil, fmt.Errorf("%w: it is of %d bytes, the manifest says %d", ErrCorrupt, len(data), desc.Size)
	}
	return data, verify(data, desc.Digest.String())
}

func readAll(resp *http.Response, limit int64) ([]byte, error) {
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, mark(ErrUnavailable, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: document of more than %d bytes", ErrCorrupt, limit)
	}
	return data, nil
}

func verify(data []byte, want string) error {
	got, err := digestOf(data, want)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%w: digest is %s, not %s", ErrCorrupt, got, want)
	}
	return nil
}

// digestOf hashes data as like does.
func digestOf(data []byte, like string) (string, error) {
	algo, _, _ := strings.Cut(like, ":")
	h, err := v1.Hasher(algo)
	if err != nil {
		return "", mark(ErrCorrupt, err)
	}
	_, _ = io.Copy(h, bytes.NewReader(data))
	return algo + ":" + hex.EncodeToString(h.Sum(nil)), nil
}
