package image_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

var _ = Describe("A key of auths", func() {
	DescribeTable("fits as the kubelet has it", func(key, host, repo string, fits bool) {
		Expect(image.MatchRegistry(key, host, repo)).To(Equal(fits))
	},
		Entry(nil, "reg.example", "reg.example", "web", true),
		Entry(nil, "reg.example", "other.example", "web", false),
		Entry(nil, "reg.example", "reg.example:5000", "web", false),
		Entry(nil, "reg.example:5000", "reg.example:5000", "web", true),
		Entry(nil, "reg.example:5000", "reg.example:5001", "web", false),
		Entry(nil, "https://reg.example", "reg.example", "web", true),
		Entry(nil, "http://reg.example", "reg.example", "web", true),
		Entry(nil, "https://reg.example/v1/", "reg.example", "web", true),
		Entry(nil, "https://reg.example/v2/", "reg.example", "web", true),
		Entry(nil, "reg.example/v2", "reg.example", "web", false),
		Entry(nil, "reg.example/team", "reg.example", "team/web", true),
		Entry(nil, "reg.example/team", "reg.example", "other/web", false),
		Entry(nil, "https://reg.example/v1/team", "reg.example", "team/web", true),
		Entry(nil, "reg.example/team/web", "reg.example", "team", false),
		Entry(nil, "*.example", "reg.example", "web", true),
		Entry(nil, "*.example", "a.reg.example", "web", false),
		Entry(nil, "*.*.example", "a.reg.example", "web", true),
		Entry(nil, "*.example", "example", "web", false),
		Entry(nil, "r?g*.example", "reg-1.example", "web", true),
		Entry(nil, "*.example:5000", "reg.example:5000", "web", true),
		Entry(nil, "*.example:5000", "reg.example", "web", false),
		Entry(nil, "*.example:*", "reg.example:5000", "web", false),
		Entry(nil, "*.example/team", "reg.example", "team/web", true),
		Entry(nil, "*.example/*", "reg.example", "team/web", false),
		Entry(nil, "[a.example", "[a.example", "web", true),
		Entry(nil, "[a.example", "a.example", "web", false),
		Entry(nil, "[::1]:5000", "[::1]:5000", "web", true),
		Entry(nil, "", "reg.example", "web", false),
	)

	lookup := func(config, host, repo string) []image.Auth {
		GinkgoHelper()
		auths, err := image.LookupAuth([]byte(config), host, repo)
		Expect(err).NotTo(HaveOccurred())
		return auths
	}
	It("is taken with the longer ones first", func() {
		Expect(lookup(`{"auths":{
			"reg.example": {"username":"a","password":"1"},
			"https://reg.example/team/web": {"username":"c","password":"3"},
			"reg.example/team": {"username":"b","password":"2"},
			"reg.example/other": {"username":"d","password":"4"}}}`, "reg.example", "team/web")).To(Equal([]image.Auth{
			{Username: "c", Password: "3"}, {Username: "b", Password: "2"}, {Username: "a", Password: "1"}}))
	})
	It("may be any name of Docker's registry", func() {
		for _, key := range []string{"https://index.docker.io/v1/", "docker.io", "index.docker.io"} {
			Expect(lookup(`{"auths":{"`+key+`":{"username":"a","password":"1"}}}`, "index.docker.io", "library/web")).To(HaveLen(1), key)
		}
		Expect(lookup(`{"auths":{"docker.io":{"username":"a","password":"1"}}}`, "reg.example", "library/web")).To(BeEmpty())
	})
	It("has its credentials in any of the fields", func() {
		Expect(lookup(`{"auths":{
			"a.example": {"auth":"am9lOnM6ZWNyZXQ="},
			"b.example": {"auth":"am9lOnNlY3JldAAA","username":"x","password":"y"},
			"c.example": {"auth":"am9lOnNlY3JldA"},
			"d.example": {"identitytoken":"i"},
			"e.example": {"registrytoken":"r"},
			"f.example": {"email":"joe@example"}}}`, "a.example", "x")).To(Equal([]image.Auth{{Username: "joe", Password: "s:ecret"}}))
	})
	It("that cannot be used is told by name alone, and others are used", func() {
		config := `{"auths":{"reg.example/web":{"auth":"$ecret"},"reg.example":{"auth":"c2VjcmV0"},"*.example":{"username":"a","password":"1"}}}`
		auths, err := image.LookupAuth([]byte(config), "reg.example", "web")
		Expect(auths).To(Equal([]image.Auth{{Username: "a", Password: "1"}}))
		Expect(err).To(MatchError("auths[\"reg.example/web\"]: auth is no base64; auths[\"reg.example\"]: auth is no username:password"))
	})
	It("for programs that hold credentials is not supported, by name", func() {
		config := `{"auths":{"gcr.io":{}},"credHelpers":{"gcr.io":"gcloud","other.example":"x"},"credsStore":"desktop"}`
		auths, err := image.LookupAuth([]byte(config), "gcr.io", "web")
		Expect(auths).To(BeEmpty())
		Expect(err).To(MatchError(image.ErrNotSupported))
		Expect(err).To(MatchError(ContainSubstring(`credHelpers["gcr.io"]`)))
		Expect(err).To(MatchError(ContainSubstring("credsStore")))
		Expect(err).NotTo(MatchError(ContainSubstring("other.example")))
	})
	It("is of a document that is never quoted", func() {
		for _, config := range []string{`{"auths":{"a":{"password":"$ecret"}`, `{"auths":{"a":{"password":["$ecret"]}}}`, `$ecret`, `{"auths":{"a":"$ecret"}}`} {
			_, err := image.LookupAuth([]byte(config), "a", "b")
			Expect(err).To(HaveOccurred())
			Expect(err.Error()).NotTo(ContainSubstring("ecret"))
		}
	})
})

var _ = Describe("Auth", func() {
	It("is not told by any verb of fmt", func() {
		opts := image.PullOptions{Auth: image.Auth{Username: "joe", Password: "$ecret", IdentityToken: "t0ken", RegistryToken: "t0ken"}}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
			for _, v := range []any{opts, &opts, opts.Auth, &opts.Auth, []image.Auth{opts.Auth}} {
				Expect(fmt.Sprintf(verb, v)).NotTo(Or(ContainSubstring("ecret"), ContainSubstring("t0ken"), ContainSubstring("746f6b656e"), ContainSubstring("joe")), "%T", v)
			}
		}
		Expect(fmt.Sprint(image.Auth{})).To(Equal("anonymous"))
	})
})

var _ = DescribeTable("Retry-After", func(header string, want time.Duration) {
	now := time.Date(2026, 10, 21, 7, 28, 0, 0, time.UTC)
	Expect(image.RetryAfter(header, now)).To(Equal(want))
},
	Entry(nil, "", time.Duration(0)),
	Entry(nil, "0", time.Duration(0)),
	Entry(nil, " 120 ", 2*time.Minute),
	Entry(nil, "-1", time.Duration(0)),
	Entry(nil, "1.5", time.Duration(0)),
	Entry(nil, "99999999999999999999", time.Duration(0)),
	Entry(nil, "Wed, 21 Oct 2026 07:29:30 GMT", 90*time.Second),
	Entry(nil, "Wed, 21 Oct 2026 07:27:00 GMT", time.Duration(0)),
	Entry(nil, "soon", time.Duration(0)),
)

var _ = It("A text of a registry is freed of secrets", func() {
	Expect(image.Redact(`Get "https://joe:pw@s3.example/x?X-Signature=abc": $ecret`+"\nmore", []string{"$ecret"})).
		To(Equal(`Get "https://s3.example/x": [redacted]`))
	Expect(image.Redact("not Bearer abc.def, nor eyJhbGci.eyJzdWI_.c-d!", nil)).To(Equal("not Bearer [redacted], nor [redacted]!"))
	Expect(image.Redact("a=%24ecret", []string{"$ecret"})).To(Equal("a=[redacted]"))
	Expect(len(image.Redact(strings.Repeat("é", 10000), nil))).To(BeNumerically("<", 600))
})

// FuzzAuthConfig: no input makes lookup panic, or an error tell a password.
func FuzzAuthConfig(f *testing.F) {
	f.Add(`{"auths":{"reg.example":{"auth":"am9lOnNlY3JldA=="}}}`, "reg.example", "web")
	f.Add(`{"auths":{"https://*.example:5000/v1/team":{"username":"joe","password":"secret"}},"credsStore":"x"}`, "a.example:5000", "team/web")
	f.Add(`{"auths":{"[":{}},"credHelpers":{"":""}}`, "[::1]:1", "")
	f.Fuzz(func(t *testing.T, config, host, repo string) {
		auths, err := image.LookupAuth([]byte(config), host, repo)
		for _, a := range auths {
			if a == (image.Auth{}) {
				t.Fatal("credentials that are none")
			}
		}
		if err != nil && len(err.Error()) > 10*len(config)+500 {
			t.Fatalf("error of %d bytes", len(err.Error()))
		}
	})
}

// authFile writes a config.json and gives its path.
func authFile(format string, args ...any) string {
	path := filepath.Join(GinkgoT().TempDir(), "config.json")
	writeAuth(path, format, args...)
	return path
}

func writeAuth(path, format string, args ...any) {
	Expect(os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o644)).To(Succeed())
}

// wantBasic lets nobody but user through.
func wantBasic(user, password string) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="here"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	}
}
