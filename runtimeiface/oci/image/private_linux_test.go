package image_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"

	"github.com/go-logr/logr/funcr"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/internal/kerneltest"
	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

// tokens is a token server on a host of its own.
type tokens struct {
	url      string
	mu       sync.Mutex
	requests []string // what each was shown
	answer   http.HandlerFunc
}

// newTokens gives "t0ken" for joe's secret or for identity token "refresh".
func newTokens() *tokens {
	t := &tokens{}
	t.answer = func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user+":"+password != "joe:$ecret" && r.PostFormValue("refresh_token") != "refresh" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte(`{"token":"t0ken","access_token":"t0ken"}`))
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		t.mu.Lock()
		t.requests = append(t.requests, r.Method+" "+r.Header.Get("Authorization")+r.PostFormValue("refresh_token"))
		answer := t.answer
		t.mu.Unlock()
		answer(w, r)
	}))
	DeferCleanup(server.Close)
	// Another name than the registry's 127.0.0.1: another host.
	t.url = strings.Replace(server.URL, "127.0.0.1", "localhost", 1)
	return t
}

func (t *tokens) seen() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.requests
}

// wantToken lets nobody but bearers of t0ken through.
func wantToken(realm string) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Header.Get("Authorization") != "Bearer t0ken" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`/token",service="here"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	}
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

var _ = Describe("A private registry", func() {
	var h *hub
	BeforeEach(func() {
		kerneltest.Require(GinkgoT(), kerneltest.Root)
		h = newHub()
	})
	pull := func(ctx context.Context, cfg image.Config, ref string, auth image.Auth) error {
		_, err := open(cfg).Pull(ctx, ref, image.PullOptions{Auth: auth})
		return err
	}
	joe := image.Auth{Username: "joe", Password: "$ecret"}

	It("with basic credentials takes them from a file", func(ctx context.Context) {
		ref := h.push("team/web:1", imageOf(lay(file("a", ""))))
		h.onRequest(wantBasic("joe", "$ecret"))
		Expect(pull(ctx, image.Config{}, ref, image.Auth{})).To(MatchError(image.ErrUnauthorized))
		for _, key := range []string{h.host, "http://" + h.host + "/v2/", h.host + "/team", "*.0.0.1:" + strings.Split(h.host, ":")[1]} {
			path := authFile(`{"auths":{"%s":{"auth":"%s"}}}`, key, strings.TrimPrefix(basic("joe", "$ecret"), "Basic "))
			Expect(pull(ctx, image.Config{AuthFiles: []string{path}}, ref, image.Auth{})).To(Succeed(), key)
		}
	})
	It("with tokens has the credentials exchanged at its realm, and sees the token alone", func(ctx context.Context) {
		ref := h.push("web:1", imageOf(lay(file("a", ""))))
		realm := newTokens()
		h.onRequest(wantToken(realm.url))
		path := authFile(`{"auths":{"%s":{"username":"joe","password":"$ecret"}}}`, h.host)
		Expect(pull(ctx, image.Config{AuthFiles: []string{path}}, ref, image.Auth{})).To(Succeed())
		Expect(realm.seen()).To(HaveEach("GET " + basic("joe", "$ecret")))
		Expect(h.shown()).To(HaveEach(Or(Equal("Bearer t0ken"), Equal("Bearer "))))
	})
	It("whose token runs out amid a pull is given a new one", func(ctx context.Context) {
		layer := randomLayer(1, 1<<20)
		ref := h.push("web:1", imageOf(layer))
		realm := newTokens()
		grant := realm.answer
		realm.answer = func(w http.ResponseWriter, r *http.Request) {
			if len(realm.requests) == 1 {
				_, _ = w.Write([]byte(`{"token":"first"}`))
				return
			}
			grant(w, r)
		}
		check := wantToken(realm.url)
		h.onRequest(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.Contains(r.URL.Path, "/manifests/") && r.Header.Get("Authorization") == "Bearer first" {
				next.ServeHTTP(w, r)
				return
			}
			check(w, r, next)
		})
		Expect(pull(ctx, image.Config{MaxParallel: 1}, ref, joe)).To(Succeed())
		Expect(h.shown()).To(ContainElements("Bearer first", "Bearer t0ken"))
		Expect(len(realm.seen())).To(BeNumerically(">=", 2))
	})
	It("takes identity tokens and registry tokens from a file", func(ctx context.Context) {
		ref := h.push("web:1", imageOf(lay(file("a", ""))))
		realm := newTokens()
		h.onRequest(wantToken(realm.url))
		identity := authFile(`{"auths":{"%s":{"identitytoken":"refresh"}}}`, h.host)
		Expect(pull(ctx, image.Config{AuthFiles: []string{identity}}, ref, image.Auth{})).To(Succeed())
		Expect(realm.seen()).To(HaveEach("POST refresh"))
		before := len(realm.seen())
		registry := authFile(`{"auths":{"%s":{"registrytoken":"t0ken"}}}`, h.host)
		Expect(pull(ctx, image.Config{AuthFiles: []string{registry}}, ref, image.Auth{})).To(Succeed())
		Expect(realm.seen()).To(HaveLen(before))
	})
	It("gets a pull's own credentials and no others", func(ctx context.Context) {
		ref := h.push("web:1", imageOf(lay(file("a", ""))))
		h.onRequest(wantBasic("joe", "$ecret"))
		wrong := authFile(`{"auths":{"%s":{"username":"joe","password":"old"}}}`, h.host)
		Expect(pull(ctx, image.Config{AuthFiles: []string{wrong}}, ref, joe)).To(Succeed())
		Expect(h.shown()).To(HaveEach(basic("joe", "$ecret")))
		right := authFile(`{"auths":{"%s":{"username":"joe","password":"$ecret"}}}`, h.host)
		Expect(pull(ctx, image.Config{AuthFiles: []string{right}}, ref, image.Auth{Username: "joe", Password: "old"})).To(MatchError(image.ErrUnauthorized))
	})
	It("is shown what the file says now, and one after the other what fits", func(ctx context.Context) {
		ref := h.push("team/web:1", imageOf(lay(file("a", ""))))
		h.onRequest(wantBasic("joe", "$ecret"))
		path := authFile(`{"auths":{}}`)
		s := open(image.Config{AuthFiles: []string{"/nonexistent/config.json", path}})
		_, err := s.Pull(ctx, ref, image.PullOptions{})
		Expect(err).To(MatchError(image.ErrUnauthorized))
		Expect(err).To(MatchError(ContainSubstring("there are no credentials for " + h.host)))
		writeAuth(path, `{"auths":{"%[1]s":{"username":"joe","password":"$ecret"},"%[1]s/team":{"username":"joe","password":"old"}}}`, h.host)
		_, err = s.Pull(ctx, ref, image.PullOptions{})
		Expect(err).NotTo(HaveOccurred())
		Expect(h.shown()[0]).To(Equal(basic("joe", "old")))
		writeAuth(path, `{"auths":{"%s":{"username":"joe","password":"old"}}}`, h.host)
		_, err = s.Pull(ctx, ref, image.PullOptions{})
		Expect(err).To(MatchError(image.ErrUnauthorized))
	})
	It("that refuses has it told which credentials could not be read or used", func(ctx context.Context) {
		public, private := h.push("public:1", imageOf(lay(file("a", "")))), h.push("private:1", imageOf(lay(file("b", ""))))
		h.onRequest(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.Contains(r.URL.Path, "/public/") || r.URL.Path == "/v2/" {
				next.ServeHTTP(w, r)
				return
			}
			wantBasic("joe", "$ecret")(w, r, next)
		})
		broken := authFile(`{"auths":{"%s":{"password":"$ecret"}`, h.host)
		helper := authFile(`{"credHelpers":{"%s":"gcloud"}}`, h.host)
		s := open(image.Config{AuthFiles: []string{broken, helper}})
		_, err := s.Pull(ctx, public, image.PullOptions{})
		Expect(err).NotTo(HaveOccurred(), "an image for all needs none")
		_, err = s.Pull(ctx, private, image.PullOptions{})
		Expect(err).To(MatchError(image.ErrUnauthorized))
		Expect(err).To(MatchError(image.ErrNotSupported))
		Expect(err).To(MatchError(ContainSubstring("credentials in " + broken + ": no JSON from byte ")))
		Expect(err).To(MatchError(ContainSubstring(fmt.Sprintf("credentials in %s: not supported: credHelpers[%q]", helper, h.host))))
		Expect(err).NotTo(MatchError(ContainSubstring("$ecret")))
	})

	It("that redirects to another host does not send credentials there", func(ctx context.Context) {
		layer := randomLayer(1, 1<<20)
		ref := h.push("web:1", imageOf(layer))
		other := newHub()
		other.push("web:1", imageOf(layer))
		away := func(check func(http.ResponseWriter, *http.Request, http.Handler)) {
			h.onRequest(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				check(w, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if strings.Contains(r.URL.Path, "/blobs/") {
						http.Redirect(w, r, strings.Replace("http://"+other.host, "127.0.0.1", "localhost", 1)+r.URL.Path, http.StatusTemporaryRedirect)
						return
					}
					next.ServeHTTP(w, r)
				}))
			})
		}
		away(wantBasic("joe", "$ecret"))
		Expect(pull(ctx, image.Config{}, ref, joe)).To(Succeed())
		realm := newTokens()
		away(wantToken(realm.url))
		Expect(pull(ctx, image.Config{}, ref, joe)).To(Succeed())
		Expect(other.blobGets(digestOf(layer))).To(Equal(2))
		Expect(other.shown()).To(BeEmpty())
	})
	It("whose realm redirects does not send tokens on", func(ctx context.Context) {
		ref := h.push("web:1", imageOf(lay(file("a", ""))))
		realm, thief := newTokens(), newTokens()
		realm.answer = func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, thief.url+"/token", http.StatusTemporaryRedirect)
		}
		h.onRequest(wantToken(realm.url))
		err := pull(ctx, image.Config{Attempts: 1}, ref, image.Auth{IdentityToken: "refresh"})
		Expect(err).To(MatchError(ContainSubstring("redirect of credentials from")))
		Expect(err).NotTo(MatchError(ContainSubstring("refresh")))
		Expect(pull(ctx, image.Config{Attempts: 1}, ref, joe)).To(MatchError(image.ErrUnauthorized))
		Expect(thief.seen()).To(HaveEach("GET "), "asked, but shown nothing")
	})
	It("without TLS beyond loopback is shown nothing, unless the Config allows it", func(ctx context.Context) {
		ref := h.push("web:1", imageOf(lay(file("a", ""))))
		h.onRequest(wantBasic("joe", "$ecret"))
		ref = strings.Replace(ref, h.host, "reg.example", 1)
		for _, allowed := range []bool{false, true} {
			line := &plainLine{to: h.host}
			err := pull(ctx, image.Config{
				Attempts: 1, Transport: line, PlainHTTP: func(host string) bool { return allowed && host == "reg.example" },
			}, ref, joe)
			Expect(err == nil).To(Equal(allowed), "%v", err)
			Expect(len(line.shown) > 0).To(Equal(allowed))
		}
	})
	It("whose realm is without TLS beyond loopback has nothing shown there", func(ctx context.Context) {
		ref := h.push("web:1", imageOf(lay(file("a", ""))))
		h.onRequest(wantToken("http://realm.example"))
		for _, auth := range []image.Auth{joe, {IdentityToken: "refresh"}} {
			line := &plainLine{to: h.host}
			err := pull(ctx, image.Config{Attempts: 1, Transport: line}, ref, auth)
			Expect(err).To(MatchError(ContainSubstring("plain HTTP to realm.example is not allowed")))
			Expect(line.shown).To(BeEmpty())
		}
	})
	It("that is none is not taken for one without the image", func(ctx context.Context) {
		h.onRequest(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(http.StatusNotFound) })
		err := pull(ctx, image.Config{Attempts: 1}, h.host+"/web:1", image.Auth{})
		Expect(err).To(MatchError(image.ErrUnavailable))
		Expect(err).NotTo(MatchError(image.ErrNotFound))
	})
	It("that echoes credentials does not get them into errors or logs", func(ctx context.Context) {
		ref := h.push("web:1", imageOf(lay(file("a", ""))))
		realm := newTokens()
		var log bytes.Buffer
		var mu sync.Mutex
		logger := funcr.New(func(prefix, args string) {
			mu.Lock()
			defer mu.Unlock()
			log.WriteString(prefix + args + "\n")
		}, funcr.Options{Verbosity: 10})
		echo := func(status int) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(status)
				said := r.Header.Get("Authorization") + " " + r.PostFormValue("refresh_token")
				_, password, _ := r.BasicAuth()
				_, _ = fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"no %s %s","detail":"%s"}],"tok":"%s"}`, said, password, said, password)
			}
		}
		var errs []error
		for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusOK, http.StatusServiceUnavailable} {
			realm.answer = echo(status)
			h.onRequest(wantToken(realm.url))
			errs = append(errs,
				pull(ctx, image.Config{Attempts: 2, Logger: logger}, ref, joe),
				pull(ctx, image.Config{Attempts: 2, Logger: logger}, ref, image.Auth{IdentityToken: "$ecret"}))
			h.onRequest(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
				if r.URL.Path == "/v2/" {
					w.Header().Set("WWW-Authenticate", `Basic realm="here"`)
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				echo(status)(w, r)
			})
			errs = append(errs,
				pull(ctx, image.Config{Attempts: 2, Logger: logger}, ref, joe),
				pull(ctx, image.Config{Attempts: 2, Logger: logger}, ref, image.Auth{RegistryToken: "$ecret"}))
		}
		for _, err := range errs {
			Expect(err).To(HaveOccurred())
			for ; err != nil; err = errors.Unwrap(err) {
				Expect(fmt.Sprintf("%v %+v", err, err)).NotTo(Or(ContainSubstring("ecret"), ContainSubstring("JGVjcmV0"), ContainSubstring("am9lOi")))
			}
		}
		Expect(errs[0]).To(MatchError(ContainSubstring("DENIED: no Basic [redacted]")), "what else it says is told")
		Expect(log.String()).To(ContainSubstring("tried again"))
		Expect(log.String()).NotTo(Or(ContainSubstring("ecret"), ContainSubstring("JGVjcmV0"), ContainSubstring("am9lOi")))
	})
})

// plainLine leads every request without TLS to one host, and fails the others.
type plainLine struct {
	to    string
	mu    sync.Mutex
	shown []string
}

func (l *plainLine) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "http" {
		return refusing{}.RoundTrip(r)
	}
	if a := r.Header.Get("Authorization"); a != "" {
		l.mu.Lock()
		l.shown = append(l.shown, a)
		l.mu.Unlock()
	}
	r = r.Clone(r.Context())
	r.URL.Host = l.to
	return http.DefaultTransport.RoundTrip(r)
}
