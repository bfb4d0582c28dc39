package testimage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/runtimetest"
)

// TB is what Serve needs of a testing.TB or a GinkgoT().
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Cleanup(func())
}

// Serve starts a Server that lasts as long as the test, and gives its images.
func Serve(tb TB) runtimetest.Images {
	tb.Helper()
	s, err := Start(context.Background())
	if err != nil {
		tb.Fatalf("serve test images: %v", err)
		return runtimetest.Images{}
	}
	tb.Cleanup(s.Close)
	return s.Images()
}

// Server is two registries on loopback, one of them private, with the images
// that the cases want.
type Server struct {
	open, private *httptest.Server
	images        runtimetest.Images
}

// Start builds the images and serves them until Close.
func Start(ctx context.Context) (*Server, error) {
	program, err := Program(ctx)
	if err != nil {
		return nil, err
	}
	quiet := registry.Logger(log.New(io.Discard, "", 0))
	bad := &spoiler{next: registry.New(quiet), layers: map[string]func([]byte) []byte{}}
	s := &Server{
		open:    httptest.NewServer(bad),
		private: httptest.NewServer(locked(registry.New(quiet))),
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	s.images = runtimetest.Images{
		Prog:       host(s.open) + "/test/prog:1",
		Configured: host(s.open) + "/test/configured:1",
		Spare:      host(s.open) + "/test/spare:1",
		SpareAlias: host(s.open) + "/test/spare:alias",
		Missing:    host(s.open) + "/test/missing:1",
		Private:    host(s.private) + "/test/private:1",
		PrivateAuth: &runtimeiface.Auth{
			Username: "user", Password: "secret",
		},
		Unreachable: host(gone) + "/test/prog:1",
		MultiArch:   host(s.open) + "/test/multi:1", OtherPlatform: host(s.open) + "/test/other:1",
		Schema1: host(s.open) + "/test/schema1:1", UnknownType: host(s.open) + "/test/unknown:1",
		Truncated: host(s.open) + "/test/truncated:1", Corrupt: host(s.open) + "/test/corrupt:1",
		Volume: host(s.open) + "/test/volume:1",
	}
	if err := s.fill(ctx, program, bad); err != nil {
		s.Close()
		return nil, fmt.Errorf("fill test registry: %w", err)
	}
	return s, nil
}

// Images are the references of the images, for a runtimetest.Subject.
func (s *Server) Images() runtimetest.Images { return s.images }

// Close ends the registries.
func (s *Server) Close() {
	s.open.Close()
	s.private.Close()
}

func (s *Server) fill(ctx context.Context, program []byte, bad *spoiler) error {
	prog, err := base(program)
	if err != nil {
		return err
	}
	conf, err := configured(prog)
	if err != nil {
		return err
	}
	extra, err := spare(prog)
	if err != nil {
		return err
	}
	vol, err := volume()
	if err != nil {
		return err
	}
	return errors.Join(
		s.fillOdd(ctx, prog, bad),
		push(ctx, s.images.Volume, vol, authn.Anonymous),
		push(ctx, s.images.Prog, prog, authn.Anonymous),
		push(ctx, s.images.Configured, conf, authn.Anonymous),
		push(ctx, s.images.Spare, extra, authn.Anonymous),
		push(ctx, s.images.SpareAlias, extra, authn.Anonymous),
		push(ctx, s.images.Private, extra, &authn.Basic{
			Username: s.images.PrivateAuth.Username, Password: s.images.PrivateAuth.Password,
		}))
}

func push(ctx context.Context, ref string, img v1.Image, auth authn.Authenticator) error {
	tag, err := name.NewTag(ref, name.StrictValidation)
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	if err := remote.Write(tag, img, remote.WithContext(ctx), remote.WithAuth(auth)); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return nil
}

func host(s *httptest.Server) string { return strings.TrimPrefix(s.URL, "http://") }

// locked wants the credentials of Images.PrivateAuth.
func locked(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "user" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}`, http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}
