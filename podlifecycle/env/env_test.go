package env_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit/nodekit/podlifecycle/env"
)

type objects struct {
	configMaps map[string]map[string]string
	secrets    map[string]map[string][]byte
}

func (o objects) ConfigMap(namespace, name string) *corev1.ConfigMap {
	if data, ok := o.configMaps[namespace+"/"+name]; ok {
		return &corev1.ConfigMap{Data: data}
	}
	return nil
}

func (o objects) Secret(namespace, name string) *corev1.Secret {
	if data, ok := o.secrets[namespace+"/"+name]; ok {
		return &corev1.Secret{Data: data}
	}
	return nil
}

var known = objects{
	configMaps: map[string]map[string]string{"shop/settings": {"level": "debug", "b.c": "2"}, "other/hidden": {"x": "1"}},
	secrets:    map[string]map[string][]byte{"shop/login": {"user": []byte("joe")}},
}

func input(container corev1.Container) env.Input {
	container.Name = "app"
	return env.Input{
		Pod: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u1", Labels: map[string]string{"app": "web", "tier": "a\"b"}},
			Spec: corev1.PodSpec{NodeName: "n1", ServiceAccountName: "sa",
				InitContainers: []corev1.Container{{Name: "setup", Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"memory": resource.MustParse("1Gi")}}}},
				Containers:     []corev1.Container{{Name: "first"}, container}},
			Status: corev1.PodStatus{HostIP: "192.0.2.1", PodIP: "10.0.0.2",
				HostIPs: []corev1.HostIP{{IP: "192.0.2.1"}, {IP: "2001:db8::1"}}, PodIPs: []corev1.PodIP{{IP: "10.0.0.2"}, {IP: "fd00::2"}}},
		},
		Container:   &container,
		Objects:     known,
		Allocatable: corev1.ResourceList{"cpu": resource.MustParse("3500m"), "memory": resource.MustParse("8Gi")},
	}
}

func value(name, text string) corev1.EnvVar { return corev1.EnvVar{Name: name, Value: text} }

func fieldRef(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
}

func resourceRef(name, container, what, divisor string) corev1.EnvVar {
	ref := &corev1.ResourceFieldSelector{ContainerName: container, Resource: what}
	if divisor != "" {
		ref.Divisor = resource.MustParse(divisor)
	}
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: ref}}
}

func configMapKey(name, object, key string, optional *bool) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: object}, Key: key, Optional: optional}}}
}

func secretKey(name, object, key string, optional *bool) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: object}, Key: key, Optional: optional}}}
}

func configMapFrom(prefix, object string, optional *bool) corev1.EnvFromSource {
	return corev1.EnvFromSource{Prefix: prefix, ConfigMapRef: &corev1.ConfigMapEnvSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: object}, Optional: optional}}
}

func secretFrom(prefix, object string, optional *bool) corev1.EnvFromSource {
	return corev1.EnvFromSource{Prefix: prefix, SecretRef: &corev1.SecretEnvSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: object}, Optional: optional}}
}

func TestResolve(t *testing.T) {
	yes := true
	for name, test := range map[string]struct {
		from []corev1.EnvFromSource
		env  []corev1.EnvVar
		want []string
	}{
		"none":             {nil, nil, []string{}},
		"plain":            {nil, []corev1.EnvVar{value("A", "1"), value("B", "")}, []string{"A=1", "B="}},
		"earlier expanded": {nil, []corev1.EnvVar{value("A", "$(B)"), value("B", "x$(A)y")}, []string{"A=$(B)", "B=x$(B)y"}},
		"later wins":       {nil, []corev1.EnvVar{value("A", "1"), value("B", "b"), value("A", "$(A)2")}, []string{"A=12", "B=b"}},
		"escape":           {nil, []corev1.EnvVar{value("A", "1"), value("B", "$$(A) $(A) $ $x $$$(A)")}, []string{"A=1", "B=$(A) 1 $ $x $1"}},
		"env over envFrom": {
			[]corev1.EnvFromSource{configMapFrom("", "settings", nil), secretFrom("S_", "login", nil)},
			[]corev1.EnvVar{value("level", "info"), value("WHO", "$(S_user)")},
			[]string{"b.c=2", "level=info", "S_user=joe", "WHO=joe"},
		},
		"optional and missing": {
			[]corev1.EnvFromSource{configMapFrom("", "none", &yes), secretFrom("", "none", &yes)},
			[]corev1.EnvVar{configMapKey("A", "none", "k", &yes), configMapKey("B", "settings", "none", &yes), secretKey("C", "none", "k", &yes), secretKey("D", "login", "none", &yes)},
			[]string{},
		},
		"keys": {nil, []corev1.EnvVar{configMapKey("A", "settings", "level", nil), secretKey("B", "login", "user", nil)}, []string{"A=debug", "B=joe"}},
		"fields": {nil, []corev1.EnvVar{
			fieldRef("A", "metadata.name"), fieldRef("B", "metadata.namespace"), fieldRef("C", "metadata.uid"), fieldRef("D", "metadata.labels['app']"),
			fieldRef("E", "metadata.annotations['none']"), fieldRef("F", "spec.nodeName"), fieldRef("G", "spec.serviceAccountName"),
			fieldRef("H", "status.hostIP"), fieldRef("I", "status.podIP"), fieldRef("J", "status.podIPs"), fieldRef("K", "status.hostIPs"),
		}, []string{"A=web", "B=shop", "C=u1", "D=web", "E=", "F=n1", "G=sa", "H=192.0.2.1", "I=10.0.0.2", "J=10.0.0.2,fd00::2", "K=192.0.2.1,2001:db8::1"}},
		"resources": {nil, []corev1.EnvVar{
			resourceRef("A", "", "limits.cpu", ""), resourceRef("B", "", "limits.cpu", "1m"), resourceRef("C", "", "requests.cpu", ""),
			resourceRef("D", "setup", "limits.memory", "1Mi"), resourceRef("E", "", "limits.memory", ""),
		}, []string{"A=4", "B=3500", "C=0", "D=1024", "E=8589934592"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			got, err := env.Resolve(input(corev1.Container{EnvFrom: test.from, Env: test.env}))
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(got).To(Equal(test.want))
		})
	}
}

func TestResolveNamesWhatIsMissing(t *testing.T) {
	no := false
	for name, test := range map[string]struct {
		from []corev1.EnvFromSource
		env  []corev1.EnvVar
		want string
		is   error
	}{
		"envFrom config map": {[]corev1.EnvFromSource{configMapFrom("", "none", nil)}, nil,
			"pod shop/web: container app: spec.containers[1].envFrom[0].configMapRef: ConfigMap shop/none: not found", env.ErrMissing},
		"envFrom secret": {[]corev1.EnvFromSource{secretFrom("", "none", &no)}, nil,
			"pod shop/web: container app: spec.containers[1].envFrom[0].secretRef: Secret shop/none: not found", env.ErrMissing},
		"other namespace": {nil, []corev1.EnvVar{configMapKey("A", "hidden", "x", nil)},
			"pod shop/web: container app: spec.containers[1].env[0].valueFrom.configMapKeyRef.name: variable A: ConfigMap shop/hidden: not found", env.ErrMissing},
		"key": {nil, []corev1.EnvVar{value("X", ""), secretKey("A", "login", "pass", nil)},
			`pod shop/web: container app: spec.containers[1].env[1].valueFrom.secretKeyRef.key: variable A: key "pass" of Secret shop/login: not found`, env.ErrMissing},
		"field": {nil, []corev1.EnvVar{fieldRef("A", "spec.hostname")},
			`pod shop/web: container app: spec.containers[1].env[0].valueFrom.fieldRef.fieldPath: variable A: "spec.hostname": no such field`, env.ErrField},
		"container": {nil, []corev1.EnvVar{resourceRef("A", "nobody", "limits.cpu", "")},
			"pod shop/web: container app: spec.containers[1].env[0].valueFrom.resourceFieldRef.containerName: variable A: container nobody: not found", env.ErrMissing},
		"resource": {nil, []corev1.EnvVar{resourceRef("A", "", "limits.gpu", "")},
			`pod shop/web: container app: spec.containers[1].env[0].valueFrom.resourceFieldRef.resource: variable A: resource "limits.gpu": no such field`, env.ErrField},
		"file, nobody to read it": {nil, []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{}}}},
			"pod shop/web: container app: spec.containers[1].env[0].valueFrom.fileKeyRef: variable A: not supported", env.ErrNotSupported},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			got, err := env.Resolve(input(corev1.Container{EnvFrom: test.from, Env: test.env}))
			g.Expect(err).To(MatchError(test.want))
			g.Expect(err).To(MatchError(test.is))
			g.Expect(got).To(BeNil())
			var detail *env.Error
			g.Expect(errors.As(err, &detail)).To(BeTrue())
			g.Expect(detail.Container).To(Equal("app"))
		})
	}
}

func TestLimitsOfThePod(t *testing.T) {
	g := NewWithT(t)
	in := input(corev1.Container{Env: []corev1.EnvVar{resourceRef("CPU", "", "limits.cpu", "1m"), resourceRef("MEMORY", "", "limits.memory", "1Mi")}})
	in.Services, in.Pod.Spec.EnableServiceLinks = nil, new(false)
	in.Pod.Spec.Resources = &corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse("2")}}
	g.Expect(env.Resolve(in)).To(Equal([]string{"CPU=2000", "MEMORY=8192"}), "the pod's, else the node's")
}

func TestResolveTellsOfEveryMissingObject(t *testing.T) {
	g := NewWithT(t)
	in := input(corev1.Container{Env: []corev1.EnvVar{configMapKey("A", "none", "k", nil), secretKey("B", "none", "k", nil)}})
	in.Objects = nil
	_, err := env.Resolve(in)
	g.Expect(strings.Count(err.Error(), "not found")).To(Equal(2))
}

func service(namespace, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
}

func TestServices(t *testing.T) {
	g := NewWithT(t)
	port := corev1.ServicePort{Port: 80, Protocol: corev1.ProtocolTCP}
	services := []*corev1.Service{
		service("shop", "my-db", "10.96.0.9", corev1.ServicePort{Name: "sql-a", Port: 5432, Protocol: corev1.ProtocolTCP}, corev1.ServicePort{Name: "u", Port: 53, Protocol: corev1.ProtocolUDP}),
		service("shop", "headless", "None", port),
		service("other", "far", "10.96.0.8", port),
		service("default", "kubernetes", "10.96.0.1", corev1.ServicePort{Name: "https", Port: 443}),
	}
	in := input(corev1.Container{Env: []corev1.EnvVar{value("MY_DB_PORT", "mine"), value("URL", "$(MY_DB_SERVICE_HOST)")}})
	in.Services = services
	got, err := env.Resolve(in)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(got).To(Equal([]string{
		"MY_DB_PORT=mine", "URL=10.96.0.9",
		"KUBERNETES_PORT=tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1",
		"KUBERNETES_PORT_443_TCP_PORT=443", "KUBERNETES_PORT_443_TCP_PROTO=tcp", "KUBERNETES_SERVICE_HOST=10.96.0.1",
		"KUBERNETES_SERVICE_PORT=443", "KUBERNETES_SERVICE_PORT_HTTPS=443",
		"MY_DB_PORT_53_UDP=udp://10.96.0.9:53", "MY_DB_PORT_53_UDP_ADDR=10.96.0.9", "MY_DB_PORT_53_UDP_PORT=53", "MY_DB_PORT_53_UDP_PROTO=udp",
		"MY_DB_PORT_5432_TCP=tcp://10.96.0.9:5432", "MY_DB_PORT_5432_TCP_ADDR=10.96.0.9", "MY_DB_PORT_5432_TCP_PORT=5432", "MY_DB_PORT_5432_TCP_PROTO=tcp",
		"MY_DB_SERVICE_HOST=10.96.0.9", "MY_DB_SERVICE_PORT=5432", "MY_DB_SERVICE_PORT_SQL_A=5432", "MY_DB_SERVICE_PORT_U=53",
	}))

	no := false
	in.Pod.Spec.EnableServiceLinks = &no
	got, err = env.Resolve(in)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(got).To(ContainElement("KUBERNETES_SERVICE_HOST=10.96.0.1"))
	g.Expect(got).To(ContainElement("URL=$(MY_DB_SERVICE_HOST)"))
	g.Expect(strings.Join(got, "\n")).NotTo(ContainSubstring("MY_DB_SERVICE_HOST=10"))
}

func TestFieldLines(t *testing.T) {
	g := NewWithT(t)
	got, err := env.Field(input(corev1.Container{}).Pod, "metadata.labels")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(got).To(Equal("app=\"web\"\ntier=\"a\\\"b\""))
}

func TestExpand(t *testing.T) {
	environ := []string{"A=1", "B=$(A)", "EMPTY=", "A=2"}
	for in, want := range map[string]string{
		"":              "",
		"plain":         "plain",
		"$(A)":          "2",
		"$(B)":          "$(A)", // values are not expanded again
		"<$(EMPTY)>":    "<>",
		"$(NONE)":       "$(NONE)",
		"$$(A)":         "$(A)",
		"$$$(A)":        "$2",
		"$$$$(A)":       "$$(A)",
		"$(A":           "$(A",
		"$(A $(A)":      "$(A $(A)",
		"$":             "$",
		"a$":            "a$",
		"$A":            "$A",
		"$()":           "$()",
		"$(A)$(A)-$(A)": "22-2",
		"é$(A)é":        "é2é",
	} {
		t.Run(in, func(t *testing.T) {
			NewWithT(t).Expect(env.Expand([]string{in}, environ)).To(Equal([]string{want}))
		})
	}
	NewWithT(t).Expect(env.Expand(nil, environ)).To(BeNil())
}

func TestExpandStrict(t *testing.T) {
	g := NewWithT(t)
	g.Expect(env.ExpandStrict("logs/$(A)/$$x", []string{"A=1"})).To(Equal("logs/1/$x"))
	_, err := env.ExpandStrict("logs/$(B)/$(C)", []string{"A=1"})
	g.Expect(err).To(MatchError(env.ErrMissing))
	g.Expect(err).To(MatchError(`expand "logs/$(B)/$(C)": variable B, C: not found`))
}

func FuzzExpand(f *testing.F) {
	for _, seed := range []string{"$(A)", "$$(A)", "$(", "$$$", "x$(B)$"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := env.Expand([]string{s}, []string{"A=v"})[0]
		if !strings.Contains(s, "$") && got != s {
			t.Fatalf("%q became %q", s, got)
		}
		// Doubling every dollar escapes everything.
		if back := env.Expand([]string{strings.ReplaceAll(s, "$", "$$")}, []string{"A=v"})[0]; back != s {
			t.Fatalf("escaped %q became %q", s, back)
		}
	})
}

func ExampleResolve() {
	container := corev1.Container{Name: "app", Env: []corev1.EnvVar{
		{Name: "POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
		{Name: "GREETING", Value: "hello from $(POD)"},
	}}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{container}},
	}
	environ, err := env.Resolve(env.Input{Pod: pod, Container: &container})
	fmt.Println(environ, err)
	fmt.Println(env.Expand([]string{"echo", "$(GREETING)"}, environ))
	// Output:
	// [POD=web GREETING=hello from web] <nil>
	// [echo hello from web]
}
