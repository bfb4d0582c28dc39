package testimage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// spoiler is a registry that serves some layers otherwise than they were pushed.
type spoiler struct {
	next http.Handler

	mu     sync.Mutex
	layers map[string]func([]byte) []byte // by digest
}

// ServeHTTP answers with spoiled bytes whatever part was asked for, as a
// registry that knows no ranges.
func (s *spoiler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	spoil := s.layers[path.Base(r.URL.Path)]
	s.mu.Unlock()
	if spoil == nil || r.Method != http.MethodGet {
		s.next.ServeHTTP(w, r)
		return
	}
	whole := httptest.NewRecorder()
	r.Header.Del("Range")
	s.next.ServeHTTP(whole, r)
	data := spoil(whole.Body.Bytes())
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(whole.Code)
	_, _ = w.Write(data)
}

func half(data []byte) []byte { return data[:len(data)/2] }

func flipped(data []byte) []byte {
	data = bytes.Clone(data)
	data[len(data)/2] ^= 0xff
	return data
}

// fillOdd pushes what is good for this platform in part, or for none.
func (s *Server) fillOdd(ctx context.Context, prog v1.Image, bad *spoiler) error {
	here, err := multi(prog)
	if err != nil {
		return err
	}
	return errors.Join(
		pushIndex(ctx, s.images.MultiArch, here),
		pushIndex(ctx, s.images.OtherPlatform, nil),
		putManifest(ctx, s.images.Schema1, "application/vnd.docker.distribution.manifest.v1+prettyjws",
			`{"schemaVersion":1,"name":"test/schema1","tag":"1","architecture":"amd64","fsLayers":[],"history":[],"signatures":[]}`),
		putManifest(ctx, s.images.UnknownType, "application/vnd.example.unknown.v9+json",
			`{"schemaVersion":9,"mediaType":"application/vnd.example.unknown.v9+json"}`),
		pushBroken(ctx, s.images.Truncated, prog, bad, half),
		pushBroken(ctx, s.images.Corrupt, prog, bad, flipped),
	)
}

func pushIndex(ctx context.Context, ref string, img v1.Image) error {
	idx, err := index(img)
	if err != nil {
		return err
	}
	tag, err := name.NewTag(ref, name.StrictValidation)
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	if err := remote.WriteIndex(tag, idx, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return nil
}

// putManifest pushes what the client does not know how to.
func putManifest(ctx context.Context, ref, mediaType, text string) error {
	tag, err := name.NewTag(ref, name.StrictValidation)
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	url := fmt.Sprintf("http://%s/v2/%s/manifests/%s", tag.RegistryStr(), tag.RepositoryStr(), tag.TagStr())
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, url, strings.NewReader(text))
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	request.Header.Set("Content-Type", mediaType)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusCreated {
		why, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
		return fmt.Errorf("push %s: %s: %s", ref, answer.Status, why)
	}
	return nil
}

// pushBroken pushes an image whose upper layer comes back spoiled.
func pushBroken(ctx context.Context, ref string, under v1.Image, bad *spoiler, spoil func([]byte) []byte) error {
	img, err := broken(under, path.Base(strings.TrimSuffix(ref, ":1")))
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	digest, err := layers[len(layers)-1].Digest()
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	if err := push(ctx, ref, img, authn.Anonymous); err != nil {
		return err
	}
	bad.mu.Lock()
	defer bad.mu.Unlock()
	bad.layers[digest.String()] = spoil
	return nil
}
