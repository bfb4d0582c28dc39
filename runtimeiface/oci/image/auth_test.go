package image_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

var _ = It("A config.json that asks for a credential helper is not supported, by name", func() {
	_, err := image.LookupAuth([]byte(`{"credHelpers":{"gcr.io":"gcloud"}}`), "gcr.io", "web")
	Expect(err).To(MatchError(image.ErrNotSupported))
	Expect(err).To(MatchError(ContainSubstring(`credHelpers["gcr.io"]`)))
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
