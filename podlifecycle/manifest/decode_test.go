package manifest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/nodekit/nodekit/podlifecycle/manifest"
)

const good = `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, resourceVersion: "7", deletionTimestamp: "2020-01-01T00:00:00Z"}
spec:
  containers: [{name: app, image: app}]
status: {phase: Running}
`

func TestDecodeKinds(t *testing.T) {
	g := NewWithT(t)
	objects, problems := manifest.Decode("all.yaml", strings.NewReader("# a comment\n---\n"+good+`---
# nothing here
--- # a comment
{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {a: "1"}}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Secret, metadata: {name: login}, stringData: {user: joe}}
- {apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80}]}}
- {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e}, addressType: IPv4, endpoints: []}
---
{apiVersion: v1, kind: ConfigMapList, items: [{metadata: {name: bare}}]}
...
`))
	g.Expect(problems).To(BeEmpty())
	g.Expect(objects.Pods).To(HaveLen(1))
	pod := objects.Pods[0]
	g.Expect(pod.Namespace).To(Equal("shop"))
	g.Expect(pod.ResourceVersion).To(BeEmpty())
	g.Expect(pod.DeletionTimestamp).To(BeNil())
	g.Expect(pod.Status.Phase).To(BeEmpty())
	g.Expect(objects.ConfigMaps).To(HaveLen(2))
	g.Expect(objects.ConfigMaps[0].Namespace).To(Equal("default"))
	g.Expect(objects.ConfigMaps[1].Name).To(Equal("bare"))
	g.Expect(objects.Secrets).To(HaveLen(1))
	g.Expect(objects.Services).To(HaveLen(1))
	g.Expect(objects.EndpointSlices).To(HaveLen(1))
}

func TestDecodeJSON(t *testing.T) {
	g := NewWithT(t)
	one := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"%s"}}`
	objects, problems := manifest.Decode("a.json", strings.NewReader(" \n"+fmt.Sprintf(one, "a")+fmt.Sprintf(one, "b")+"\n"))
	g.Expect(problems).To(BeEmpty())
	g.Expect(objects.ConfigMaps).To(HaveLen(2))
	objects, problems = manifest.Decode("bom.json", strings.NewReader("\xef\xbb\xbf"+fmt.Sprintf(one, "a")))
	g.Expect(problems).To(BeEmpty())
	g.Expect(objects.ConfigMaps).To(HaveLen(1))
	for _, nothing := range []string{"", "\n", "---\n", "null", "# comment only\n"} {
		objects, problems = manifest.Decode("empty", strings.NewReader(nothing))
		g.Expect(problems).To(BeEmpty(), "%q", nothing)
		g.Expect(objects).To(Equal(manifest.Objects{}))
	}
}

func TestDecodeProblems(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want string // of the first problem
		is   error
	}{
		"broken YAML": {"apiVersion: v1\nkind: Pod\nspec:\n\tcontainers: []\n",
			"f.yaml: document 1: cannot be parsed as YAML: line 4: found character that cannot start any token", manifest.ErrSyntax},
		"line numbers are the file's": {good + "---\na: b\nc: d: e\n",
			"f.yaml: document 2: cannot be parsed as YAML: line 9: mapping values are not allowed in this context", manifest.ErrSyntax},
		"broken JSON": {"{\"apiVersion\": \"v1\",\n \"kind\": \"Pod\",, }",
			"f.yaml: cannot be parsed as JSON: line 2: invalid character ',' looking for beginning of object key string", manifest.ErrSyntax},
		"unknown field": {strings.Replace(good, "image: app", "imag: app", 1),
			"f.yaml: document 1: Pod shop/web: spec.containers[0].imag: unknown field", manifest.ErrUnknownField},
		"case matters": {strings.Replace(good, "image: app", "Image: app", 1),
			"f.yaml: document 1: Pod shop/web: spec.containers[0].Image: unknown field", manifest.ErrUnknownField},
		"duplicate key in YAML": {strings.Replace(good, "image: app", "image: app, image: b", 1),
			`f.yaml: document 1: Pod shop/web: duplicate field: line 5: key "image" already set in map`, manifest.ErrDuplicateField},
		"duplicate key in JSON": {`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","name":"web"}}`,
			"f.yaml: document 1: Pod default/web: metadata.name: duplicate field", manifest.ErrDuplicateField},
		"wrong type": {strings.Replace(good, "image: app", "image: 5", 1),
			"f.yaml: document 1: Pod shop/web: spec.containers.image: number where string is wanted", nil},
		"bad quantity": {strings.Replace(good, "image: app", "resources: {limits: {memory: lots}}", 1),
			`f.yaml: document 1: Pod shop/web: spec.containers[0].resources.limits[memory]: "lots" is not a quantity such as 100m or 64Mi`, nil},
		"other kind": {"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n",
			"f.yaml: document 1: Deployment default/d: kind: Deployment of apps/v1: kind is not supported", manifest.ErrKind},
		"no kind":        {"metadata: {name: x}\n", "f.yaml: document 1: apiVersion and kind are required: kind is not supported", manifest.ErrKind},
		"not an object":  {"- 1\n- 2\n", "f.yaml: document 1: not an object: cannot be parsed", manifest.ErrSyntax},
		"list in a list": {"apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: List}]\n", "f.yaml: document 1: List: items: a list in a list: kind is not supported", manifest.ErrKind},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			_, problems := manifest.Decode("f.yaml", strings.NewReader(test.text))
			g.Expect(problems).NotTo(BeEmpty())
			g.Expect(problems[0].Error()).To(Equal(test.want))
			if test.is != nil {
				g.Expect(errors.Is(problems[0], test.is)).To(BeTrue())
			}
		})
	}
}

func TestDecodeKeepsWhatIsGood(t *testing.T) {
	g := NewWithT(t)
	objects, problems := manifest.Decode("f.yaml", strings.NewReader(
		strings.Replace(good, "image: app", "imag: app, nam: x", 1)+"---\n"+strings.Replace(good, "name: web", "name: other", 1)+"---\n\t\n---\na: [\n"))
	g.Expect(objects.Pods).To(HaveLen(1))
	g.Expect(objects.Pods[0].Name).To(Equal("other"))
	g.Expect(problems).To(HaveLen(3), "two fields, one document")
	g.Expect(problems[0].Field).To(Equal("spec.containers[0].imag"))
	g.Expect(problems[1].Field).To(Equal("spec.containers[0].nam"))
}

func TestDecodeRefusesTooMuch(t *testing.T) {
	g := NewWithT(t)
	_, problems := manifest.Decode("big", bytes.NewReader(bytes.Repeat([]byte("#"), manifest.MaxSize+1)))
	g.Expect(problems).To(HaveLen(1))
	g.Expect(problems[0]).To(MatchError(manifest.ErrTooLarge))
	_, problems = manifest.Decode("big", bytes.NewReader(bytes.Repeat([]byte("#"), manifest.MaxSize)))
	g.Expect(problems).To(BeEmpty())
	_, problems = manifest.Decode("bad", failingReader{})
	g.Expect(problems).To(HaveLen(1))
	g.Expect(problems[0]).To(MatchError("bad: read: no disk"))
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errors.New("no disk") }

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{good, "{}", "{}{}", "---\n--- a\n", "a: &a [*a]", "kind: List\napiVersion: v1\nitems: [1, null]",
		`{"apiVersion":"v1","kind":"PodList","items":[{}]}`, "\xef\xbb\xbf", "a: b: c", "? x\n", "{a: 1}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, problems := manifest.Decode("f", bytes.NewReader(data))
		for _, p := range problems {
			if p.Err == nil || p.File != "f" || !strings.HasPrefix(p.Error(), "f: ") {
				t.Fatalf("problem without a cause or a place: %#v", p)
			}
		}
		for _, pod := range objects.Pods {
			manifest.Default(pod)
			once, err := json.Marshal(pod)
			if err != nil {
				t.Fatal(err)
			}
			manifest.Default(pod)
			if twice, _ := json.Marshal(pod); !bytes.Equal(once, twice) {
				t.Fatalf("defaulted twice:\n%s\n%s", once, twice)
			}
			manifest.Validate(pod)
			manifest.Unsupported(pod)
		}
		for _, service := range objects.Services {
			manifest.DefaultService(service)
			manifest.ValidateService(service)
		}
		for _, secret := range objects.Secrets {
			manifest.DefaultSecret(secret)
			manifest.ValidateSecret(secret)
		}
	})
}

func ExampleDecode() {
	_, problems := manifest.Decode("web.yaml", strings.NewReader(`
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - name: app
    imag: registry.example/app:1
`))
	fmt.Println(problems[0].Error())
	// Output: web.yaml: document 1: Pod default/web: spec.containers[0].imag: unknown field
}
