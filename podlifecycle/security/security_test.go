package security_test

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/podlifecycle/security"
	"github.com/nodekit/nodekit/runtimeiface"
)

func TestResolve(t *testing.T) {
	for name, c := range map[string]struct {
		config    security.Config
		pod       *corev1.PodSecurityContext
		container *corev1.SecurityContext
		want      runtimeiface.Security
	}{
		"nothing said": {want: runtimeiface.Security{Seccomp: runtimeiface.SeccompUnconfined}},
		"the container wins over the pod": {
			pod:       &corev1.PodSecurityContext{RunAsUser: new(int64(1)), RunAsGroup: new(int64(2))},
			container: &corev1.SecurityContext{RunAsUser: new(int64(3))},
			want: runtimeiface.Security{RunAsUser: new(int64(3)), RunAsGroup: new(int64(2)),
				Seccomp: runtimeiface.SeccompUnconfined},
		},
		"fsGroup is one of the groups": {
			pod:  &corev1.PodSecurityContext{SupplementalGroups: []int64{7}, FSGroup: new(int64(8))},
			want: runtimeiface.Security{SupplementalGroups: []int64{7, 8}, Seccomp: runtimeiface.SeccompUnconfined},
		},
		"least privilege": {
			container: &corev1.SecurityContext{AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"all"}, Add: []corev1.Capability{"CAP_NET_RAW"}}},
			want: runtimeiface.Security{NoNewPrivileges: true, ReadOnlyRootFS: true, DropCapabilities: []string{"ALL"},
				AddCapabilities: []string{"NET_RAW"}, Seccomp: runtimeiface.SeccompUnconfined},
		},
		"a privileged container is not filtered": {
			config:    security.Config{SeccompDefault: true},
			container: &corev1.SecurityContext{Privileged: new(true)},
			want:      runtimeiface.Security{Privileged: true, Seccomp: runtimeiface.SeccompUnconfined},
		},
		"the node's default filter": {
			config: security.Config{SeccompDefault: true},
			want:   runtimeiface.Security{Seccomp: runtimeiface.SeccompRuntimeDefault},
		},
		"a profile of the node": {
			config: security.Config{SeccompRoot: "/etc/seccomp"},
			pod: &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{
				Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: new("a/b.json")}},
			want: runtimeiface.Security{Seccomp: runtimeiface.SeccompLocalhost, SeccompProfile: "/etc/seccomp/a/b.json"},
		},
		"an unmasked /proc": {
			container: &corev1.SecurityContext{ProcMount: new(corev1.UnmaskedProcMount)},
			want: runtimeiface.Security{MaskedPaths: []string{}, ReadonlyPaths: []string{},
				Seccomp: runtimeiface.SeccompUnconfined},
		},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: c.pod}}
			got, err := c.config.Resolve(pod, &corev1.Container{SecurityContext: c.container}, "")
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, %v\nwant %+v", got, err, c.want)
			}
		})
	}
}

func TestRunAsNonRoot(t *testing.T) {
	for name, c := range map[string]struct {
		user  *int64
		image string
		ok    bool
	}{
		"a number in the spec":       {user: new(int64(5)), ok: true},
		"zero in the spec":           {user: new(int64(0)), image: "5"},
		"a number in the image":      {image: "65532:65532", ok: true},
		"zero in the image":          {image: "0:5"},
		"a name in the image":        {image: "app"},
		"no user at all, so root":    {},
		"a name, but the spec knows": {user: new(int64(5)), image: "app", ok: true},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: new(true), RunAsUser: c.user}}}
			_, err := security.Config{}.Resolve(pod, &corev1.Container{Name: "main"}, c.image)
			if (err == nil) != c.ok || err != nil && !errors.Is(err, security.ErrNonRoot) {
				t.Errorf("got %v, want ok %v", err, c.ok)
			}
		})
	}
}

func TestSeccompProfileStaysBelowItsRoot(t *testing.T) {
	for _, path := range []string{"../x", "/etc/x", ""} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: &path}}}}
		if got, err := (security.Config{SeccompRoot: "/s"}).Resolve(pod, &corev1.Container{}, ""); !errors.Is(err, security.ErrSeccomp) {
			t.Errorf("%q gave %+v, %v", path, got, err)
		}
	}
}

func TestEffectiveIsACopy(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{RunAsUser: new(int64(1))}}}
	*security.Effective(pod, &corev1.Container{}).RunAsUser = 2
	if *pod.Spec.SecurityContext.RunAsUser != 1 {
		t.Error("changing the result changed the pod")
	}
}

func ExampleConfig_Resolve() {
	pod := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: new(true)}}}
	_, err := security.Config{}.Resolve(pod, &corev1.Container{Name: "main"}, "root")
	fmt.Println(err)
	// Output: container main: runAsNonRoot: container has runAsNonRoot and image has non-numeric user (root), cannot verify user is non-root
}
