package dockerconfig_test

import (
	"fmt"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/runtimeiface"
	"github.com/nodekit/nodekit/runtimeiface/dockerconfig"
)

func TestDockerconfig(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "dockerconfig")
}

func lookup1(data []byte, host, repo string) ([]dockerconfig.Auth, error) {
	config, err := dockerconfig.Parse(data)
	if err != nil {
		return nil, err
	}
	return dockerconfig.Lookup(host, repo, config)
}

var _ = Describe("A key of auths", func() {
	DescribeTable("fits as the kubelet has it", func(key, host, repo string, fits bool) {
		Expect(dockerconfig.Match(key, host, repo)).To(Equal(fits))
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

	lookup := func(config, host, repo string) []dockerconfig.Auth {
		GinkgoHelper()
		auths, err := lookup1([]byte(config), host, repo)
		Expect(err).NotTo(HaveOccurred())
		return auths
	}
	It("is taken with the longer ones first", func() {
		Expect(lookup(`{"auths":{
			"reg.example": {"username":"a","password":"1"},
			"https://reg.example/team/web": {"username":"c","password":"3"},
			"reg.example/team": {"username":"b","password":"2"},
			"reg.example/other": {"username":"d","password":"4"}}}`, "reg.example", "team/web")).To(Equal([]dockerconfig.Auth{
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
			"f.example": {"email":"joe@example"}}}`, "a.example", "x")).To(Equal([]dockerconfig.Auth{{Username: "joe", Password: "s:ecret"}}))
	})
	It("that cannot be used is told by name alone, and others are used", func() {
		config := `{"auths":{"reg.example/web":{"auth":"$ecret"},"reg.example":{"auth":"c2VjcmV0"},"*.example":{"username":"a","password":"1"}}}`
		auths, err := lookup1([]byte(config), "reg.example", "web")
		Expect(auths).To(Equal([]dockerconfig.Auth{{Username: "a", Password: "1"}}))
		Expect(err).To(MatchError("auths[\"reg.example/web\"]: auth is no base64; auths[\"reg.example\"]: auth is no username:password"))
	})
	It("for programs that hold credentials is not supported, by name", func() {
		config := `{"auths":{"gcr.io":{}},"credHelpers":{"gcr.io":"gcloud","other.example":"x"},"credsStore":"desktop"}`
		auths, err := lookup1([]byte(config), "gcr.io", "web")
		Expect(auths).To(BeEmpty())
		Expect(err).To(MatchError(runtimeiface.ErrNotSupported))
		Expect(err).To(MatchError(ContainSubstring(`credHelpers["gcr.io"]`)))
		Expect(err).To(MatchError(ContainSubstring("credsStore")))
		Expect(err).NotTo(MatchError(ContainSubstring("other.example")))
	})
	It("is of a document that is never quoted", func() {
		for _, config := range []string{`{"auths":{"a":{"password":"$ecret"}`, `{"auths":{"a":{"password":["$ecret"]}}}`, `$ecret`, `{"auths":{"a":"$ecret"}}`} {
			_, err := lookup1([]byte(config), "a", "b")
			Expect(err).To(HaveOccurred())
			Expect(err.Error()).NotTo(ContainSubstring("ecret"))
		}
	})
})

var _ = DescribeTable("A reference names", func(ref, host, repo string) {
	gotHost, gotRepo := dockerconfig.Split(ref)
	Expect([]string{gotHost, gotRepo}).To(Equal([]string{host, repo}))
},
	Entry(nil, "web", "docker.io", "library/web"),
	Entry(nil, "web:1", "docker.io", "library/web"),
	Entry(nil, "team/web@sha256:0123", "docker.io", "team/web"),
	Entry(nil, "docker.io/web:1", "docker.io", "library/web"),
	Entry(nil, "index.docker.io/team/web", "docker.io", "team/web"),
	Entry(nil, "localhost/web", "localhost", "web"),
	Entry(nil, "host:5000/team/web:1@sha256:0123", "host:5000", "team/web"),
	Entry(nil, "reg.example/web", "reg.example", "web"),
	Entry(nil, "[::1]:5000/web:1", "[::1]:5000", "web"),
	Entry(nil, "", "docker.io", "library/"),
)

var _ = Describe("Several configs", func() {
	parse := func(text string) dockerconfig.Config {
		GinkgoHelper()
		c, err := dockerconfig.Parse([]byte(text))
		Expect(err).NotTo(HaveOccurred())
		return c
	}
	It("are one keyring: the most specific key first, of equal ones that of the earlier", func() {
		a := parse(`{"auths":{"reg.example":{"username":"a"},"reg.example/team":{"username":"c"}}}`)
		b := parse(`{"auths":{"reg.example":{"username":"b"},"reg.example/team/web":{"username":"d"}}}`)
		auths, err := dockerconfig.Lookup("reg.example", "team/web", a, b)
		Expect(err).NotTo(HaveOccurred())
		var users []string
		for _, auth := range auths {
			users = append(users, auth.Username)
		}
		Expect(users).To(Equal([]string{"d", "c", "a", "b"}))
	})
	It("may be of the older format", func() {
		c, err := dockerconfig.ParseLegacy([]byte(`{"reg.example":{"auth":"am9lOnNlY3JldA=="}}`))
		Expect(err).NotTo(HaveOccurred())
		Expect(dockerconfig.Lookup("reg.example", "web", c)).To(Equal([]dockerconfig.Auth{{Username: "joe", Password: "secret"}}))
		_, err = dockerconfig.ParseLegacy([]byte(`["secret"]`))
		Expect(err).To(MatchError(Not(ContainSubstring("secret"))))
	})
	It("tell nothing of what they give by fmt", func() {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
			Expect(fmt.Sprintf(verb, []dockerconfig.Auth{{Username: "joe", Password: "secret"}})).NotTo(Or(ContainSubstring("joe"), ContainSubstring("secret")))
		}
	})
})

// FuzzConfig: no input makes lookup panic, or an error tell a password.
func FuzzConfig(f *testing.F) {
	f.Add(`{"auths":{"reg.example":{"auth":"am9lOnNlY3JldA=="}}}`, "reg.example", "web")
	f.Add(`{"auths":{"https://*.example:5000/v1/team":{"username":"joe","password":"secret"}},"credsStore":"x"}`, "a.example:5000", "team/web")
	f.Add(`{"auths":{"[":{}},"credHelpers":{"":""}}`, "[::1]:1", "")
	f.Fuzz(func(t *testing.T, config, host, repo string) {
		auths, err := lookup1([]byte(config), host, repo)
		for _, a := range auths {
			if a == (dockerconfig.Auth{}) {
				t.Fatal("credentials that are none")
			}
		}
		if err != nil && len(err.Error()) > 10*len(config)+500 {
			t.Fatalf("error of %d bytes", len(err.Error()))
		}
	})
}

func ExampleLookup() {
	config, _ := dockerconfig.Parse([]byte(`{"auths":{"*.example/team":{"username":"joe","password":"secret"}}}`))
	host, repo := dockerconfig.Split("registry.example/team/web:1")
	auths, err := dockerconfig.Lookup(host, repo, config)
	fmt.Println(len(auths), auths[0].Username, err)
	// Output: 1 joe <nil>
}
