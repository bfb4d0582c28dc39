package credential_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/nodekit/nodekit/podlifecycle/credential"
	"github.com/nodekit/nodekit/runtimeiface"
)

func secret(name string, kind corev1.SecretType, key, value string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Type: kind, Data: map[string][]byte{key: []byte(value)}}
}

func users(auths []runtimeiface.Auth) []string {
	var list []string
	for _, a := range auths {
		list = append(list, a.Username+":"+a.Password)
	}
	return list
}

func TestFromSecrets(t *testing.T) {
	g := NewWithT(t)
	secrets := []*corev1.Secret{
		secret("json", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `{"auths":{"*.example":{"username":"any","password":"1"},"reg.example/team":{"username":"team","password":"2"}}}`),
		secret("old", corev1.SecretTypeDockercfg, corev1.DockerConfigKey, `{"reg.example/team/web":{"auth":"am9lOnNlY3JldA=="}}`),
		secret("opaque", corev1.SecretTypeOpaque, corev1.DockerConfigJsonKey, `{}`),
		secret("bad", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `{"auths": $ecret}`),
	}
	auths, err := credential.FromSecrets(secrets, "reg.example/team/web:1")
	g.Expect(users(auths)).To(Equal([]string{"joe:secret", "team:2", "any:1"}), "the most specific first, over all Secrets")
	g.Expect(err).To(MatchError(credential.ErrType))
	g.Expect(err).To(MatchError(ContainSubstring("secret default/opaque: ")))
	g.Expect(err).To(MatchError(ContainSubstring("secret default/bad: no JSON")))
	g.Expect(err).To(MatchError(Not(ContainSubstring("$ecret"))))
	auths, err = credential.FromSecrets(secrets[:2], "web")
	g.Expect(auths).To(BeEmpty())
	g.Expect(err).NotTo(HaveOccurred())
}

func TestFromFiles(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		g.Expect(os.WriteFile(path, []byte(text), 0o600)).To(Succeed())
		return path
	}
	a := file("a", `{"auths":{"docker.io":{"username":"hub","password":"1"}}}`)
	b := file("b", `{"auths":{"https://index.docker.io/v1/":{"username":"index","password":"2"}},"credsStore":"desktop"}`)
	auths, err := credential.FromFiles([]string{filepath.Join(dir, "nowhere"), a, b}, "web:1")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(users(auths)).To(ConsistOf("hub:1", "index:2"))
	_, err = credential.FromFiles([]string{b}, "other.example/web")
	g.Expect(err).To(MatchError(runtimeiface.ErrNotSupported))
	auths, err = credential.FromFiles([]string{dir, file("c", strings.Repeat(" ", 5<<20)), a}, "web")
	g.Expect(err).To(MatchError(And(ContainSubstring("no regular file"), ContainSubstring("more than"))))
	g.Expect(users(auths)).To(Equal([]string{"hub:1"}))
}

func TestProviders(t *testing.T) {
	g := NewWithT(t)
	list, err := credential.Providers([]byte(`
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: cloud
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: ["*.example", "host:5000/team"]
  defaultCacheDuration: 12h
  args: [get]
  env: [{name: REGION, value: north}]
`))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(list).To(Equal([]credential.Provider{{Name: "cloud", MatchImages: []string{"*.example", "host:5000/team"},
		CacheDuration: 12 * time.Hour, Args: []string{"get"}, Env: []string{"REGION=north"}}}))

	_, err = credential.Providers([]byte(`
apiVersion: kubelet.config.k8s.io/v1beta1
kind: Config
providers:
- {name: ../sh, apiVersion: credentialprovider.kubelet.k8s.io/v1alpha1, env: [{value: x}], tokenAttributes: {a: b}}
- {name: a, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [""], defaultCacheDuration: -1s}
- {name: a, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [x], defaultCacheDuration: 0s}
- {apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [x], defaultCacheDuration: 0s}
`))
	for _, path := range []string{"apiVersion: ", "kind: ", "providers[0].name: ", "providers[0].apiVersion: ", "providers[0].env[0].name: ",
		"providers[0].tokenAttributes: Forbidden", "providers[0].matchImages: ", "providers[0].defaultCacheDuration: Required",
		"providers[1].matchImages[0]: ", "providers[1].defaultCacheDuration: ", "providers[2].name: Duplicate", "providers[3].name: Required"} {
		g.Expect(err).To(MatchError(ContainSubstring(path)))
	}
	_, err = credential.Providers([]byte("apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nprovider: []"))
	g.Expect(err).To(MatchError(ContainSubstring("provider")), "unknown fields are refused")
	_, err = credential.New(credential.Config{Dir: "relative", Providers: []credential.Provider{{Name: "a"}}})
	g.Expect(err).To(MatchError(And(ContainSubstring("Dir"), ContainSubstring("Providers[0].matchImages"))))
}

// cloud is a plug-in: it notes each request and answers what is in file "answer".
const cloud = `#!/bin/sh
cat >> "$HERE/requests"; echo >> "$HERE/requests"
echo "$1 $REGION" >> "$HERE/args"
cat "$HERE/answer"
[ ! -e "$HERE/fail" ] || { echo "no token" >&2; exit 3; }
`

type node struct {
	g     Gomega
	dir   string
	clock *clocktesting.FakePassiveClock
	p     *credential.Plugins
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{g: NewWithT(t), dir: t.TempDir(), clock: clocktesting.NewFakePassiveClock(time.Unix(1000, 0))}
	n.g.Expect(os.WriteFile(filepath.Join(n.dir, "cloud"), []byte(cloud), 0o700)).To(Succeed())
	var err error
	n.p, err = credential.New(credential.Config{Dir: n.dir, Clock: n.clock, Providers: []credential.Provider{
		{Name: "cloud", MatchImages: []string{"*.example", "docker.io"}, CacheDuration: time.Minute, Args: []string{"get"}, Env: []string{"REGION=north", "HERE=" + n.dir}},
		{Name: "missing", MatchImages: []string{"both.example"}},
	}})
	n.g.Expect(err).NotTo(HaveOccurred())
	return n
}

func (n *node) answer(cacheKey, duration, auth string) {
	text := fmt.Sprintf(`{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderResponse","cacheKeyType":%q%s,"auth":%s}`, cacheKey, duration, auth)
	n.g.Expect(os.WriteFile(filepath.Join(n.dir, "answer"), []byte(text), 0o600)).To(Succeed())
}

func (n *node) read(name string) string {
	data, err := os.ReadFile(filepath.Join(n.dir, name))
	if err != nil && !os.IsNotExist(err) {
		n.g.Expect(err).NotTo(HaveOccurred())
	}
	return string(data)
}

func (n *node) ask(image string) []string {
	auths, err := n.p.Credentials(context.Background(), image)
	n.g.Expect(err).NotTo(HaveOccurred())
	return users(auths)
}

func (n *node) asked() int { return strings.Count(n.read("requests"), "\n") }

func TestPlugin(t *testing.T) {
	n := newNode(t)
	n.answer("Image", "", `{"*.example/team":{"username":"team","password":"2"},"*.example":{"username":"any","password":"1"},"other.example":{"username":"x"}}`)
	n.g.Expect(n.ask("reg.example/team/web:1")).To(Equal([]string{"team:2", "any:1"}))
	n.g.Expect(n.read("requests")).To(Equal(`{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"reg.example/team/web","kind":"CredentialProviderRequest"}` + "\n"))
	n.g.Expect(n.read("args")).To(Equal("get north\n"))
	n.g.Expect(n.ask("elsewhere.test/web")).To(BeEmpty())
	n.g.Expect(n.asked()).To(Equal(1), "it is not asked for images of others")

	auths, err := n.p.Credentials(context.Background(), "both.example/web")
	n.g.Expect(users(auths)).To(Equal([]string{"any:1"}))
	n.g.Expect(err).To(MatchError(ContainSubstring("credential provider missing: ")), "one that fails does not keep the others from it")
}

func TestPluginCache(t *testing.T) {
	any := `{"*.example":{"username":"any","password":"1"}}`
	for _, c := range []struct {
		key, duration string
		asked         []int // after the same image, another of the registry, another registry, and the first again later
	}{
		{"Image", "", []int{1, 2, 3, 4}},
		{"Registry", "", []int{1, 1, 2, 3}},
		{"Global", "", []int{1, 1, 1, 2}},
		{"Global", `,"cacheDuration":"0s"`, []int{2, 3, 4, 5}},
		{"Global", `,"cacheDuration":"1h"`, []int{1, 1, 1, 1}},
	} {
		t.Run(c.key+c.duration, func(t *testing.T) {
			n := newNode(t)
			n.answer(c.key, c.duration, any)
			n.ask("a.example/one:1")
			var asked []int
			for _, image := range []string{"a.example/one:2", "a.example/two", "b.example/one"} {
				n.g.Expect(n.ask(image)).To(Equal([]string{"any:1"}))
				asked = append(asked, n.asked())
			}
			n.clock.SetTime(n.clock.Now().Add(time.Minute))
			n.ask("a.example/one")
			n.g.Expect(append(asked, n.asked())).To(Equal(c.asked))
		})
	}
}

func TestPluginFails(t *testing.T) {
	n := newNode(t)
	n.answer("Image", "", `{}`)
	n.g.Expect(os.WriteFile(filepath.Join(n.dir, "fail"), nil, 0o600)).To(Succeed())
	_, err := n.p.Credentials(context.Background(), "a.example/web")
	n.g.Expect(err).To(MatchError(And(ContainSubstring("credential provider cloud: exit status 3"), ContainSubstring("no token"))))
	n.g.Expect(os.Remove(filepath.Join(n.dir, "fail"))).To(Succeed())
	for text, want := range map[string]string{
		`{"password":"$ecret"`: "no CredentialProviderResponse",
		`{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1alpha1"}`: "v1alpha1",
		`{"kind":"Other","apiVersion":"credentialprovider.kubelet.k8s.io/v1"}`:                            "Other",
		strings.Repeat("x", 2<<20): "longer than",
	} {
		n.g.Expect(os.WriteFile(filepath.Join(n.dir, "answer"), []byte(text), 0o600)).To(Succeed())
		_, err := n.p.Credentials(context.Background(), "a.example/web")
		n.g.Expect(err).To(MatchError(And(ContainSubstring(want), Not(ContainSubstring("$ecret")))))
	}
	n.answer("Node", "", `{}`)
	_, err = n.p.Credentials(context.Background(), "a.example/web")
	n.g.Expect(err).To(MatchError(ContainSubstring("cacheKeyType")))
	n.answer("Image", `,"cacheDuration":"-1s"`, `{}`)
	_, err = n.p.Credentials(context.Background(), "a.example/web")
	n.g.Expect(err).To(MatchError(ContainSubstring("cacheDuration")))
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = n.p.Credentials(ended, "a.example/web")
	n.g.Expect(err).To(MatchError(context.Canceled))
}

// Many pulls at once ask once.
func TestPluginTogether(t *testing.T) {
	n := newNode(t)
	n.answer("Registry", "", `{"*.example":{"username":"any","password":"1"}}`)
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() { _, _ = n.p.Credentials(context.Background(), fmt.Sprintf("a.example/%d", i)) })
	}
	group.Wait()
	n.g.Expect(n.asked()).To(Equal(1))
}

// FuzzProviders: whatever is read is accepted by New, or refused.
func FuzzProviders(f *testing.F) {
	f.Add("apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders: [{name: a, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [x], defaultCacheDuration: 0s}]")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := credential.Providers([]byte(text))
		if err != nil {
			return
		}
		if _, err := credential.New(credential.Config{Dir: "/plugins", Providers: list}); err != nil {
			t.Fatal(err)
		}
	})
}

func ExampleFromSecrets() {
	auths, err := credential.FromSecrets([]*corev1.Secret{{
		Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":{"*.example":{"username":"joe","password":"secret"}}}`)},
	}}, "registry.example/team/web:1")
	fmt.Println(auths[0].Username, err)
	// Output: joe <nil>
}
