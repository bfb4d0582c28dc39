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

// A remote is one repository of a registry, logged in to.
type remote struct {
	ref    reference
	client *http.Client
}

// dial does the authentication handshake.
func (s *Store) dial(ctx context.Context, ref reference, auth Auth) (*remote, error) {
	registry := ref.Context().Registry
	host := registry.RegistryStr()
	if auth == (Auth{}) && s.cfg.Auth != nil {
		var err error
		if auth, err = s.cfg.Auth(ctx, host); err != nil {
			return nil, fmt.Errorf("find credentials for %s: %w", host, err)
		}
	}
	allowed := func(h string) bool {
		return loopback(h) || s.cfg.PlainHTTP != nil && s.cfg.PlainHTTP(h)
	}
	if allowed(host) {
		insecure, err := parseInsecure(ref)
		if err != nil {
			return nil, err
		}
		registry = insecure
	}
	guarded := plainGuard{inner: s.transport, allowed: allowed}
	scope := ref.Scope(transport.PullScope)
	tr, err := transport.NewWithContext(ctx, registry, authenticator(auth), guarded, []string{scope})
	if err != nil {
		return nil, fmt.Errorf("log in to %s: %w", host, err)
	}
	return &remote{ref: ref, client: &http.Client{Transport: tr, CheckRedirect: checkRedirect}}, nil
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

// plainGuard keeps requests without TLS, and the credentials in them, from
// hosts that were not allowed it, also after redirects.
type plainGuard struct {
	inner   http.RoundTripper
	allowed func(host string) bool
}

func (g plainGuard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !g.allowed(req.URL.Host) {
		return nil, fmt.Errorf("plain HTTP to %s is not allowed", req.URL.Host)
	}
	return g.inner.RoundTrip(req)
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
	repo := r.ref.Context()
	u := url.URL{
		Scheme: repo.Scheme(), // the transport corrects it to what answered
		Host:   repo.RegistryStr(),
		Path:   "/v2/" + repo.RepositoryStr() + "/" + kind + "/" + id,
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
		return nil, err
	}
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		_ = resp.Body.Close()
		return nil, err
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
		return "", err
	}
	_, _ = io.Copy(h, bytes.NewReader(data))
	return algo + ":" + hex.EncodeToString(h.Sum(nil)), nil
}

// retry runs f until it succeeds, fails for good, or has failed to make
// progress attempts times. f tells whether it got further.
func (s *Store) retry(ctx context.Context, f func() (further bool, err error)) error {
	delay := s.cfg.RetryDelay
	for failed := 0; ; {
		further, err := f()
		if err != nil && ctx.Err() != nil {
			return ctx.Err()
		}
		err = translate(err)
		if err == nil || !errors.Is(err, ErrUnavailable) {
			return err
		}
		if further {
			failed, delay = 0, s.cfg.RetryDelay
		}
		if failed++; failed >= s.cfg.Attempts {
			return err
		}
		s.cfg.Logger.V(4).Info("registry request is tried again", "attempt", failed+1, "cause", err.Error())
		timer := time.NewTimer(delay)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		delay *= 2
	}
}
