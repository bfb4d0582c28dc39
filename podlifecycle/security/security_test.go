package security_test

import (
	"fmt"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit/nodekit/podlifecycle/security"
	"github.com/nodekit/nodekit/runtimeiface"
)

func to[T any](v T) *T { return &v }

func resolve(config security.Config, of *corev1.PodSecurityContext, own *corev1.SecurityContext, imageUser string) (runtimeiface.Security, error) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u1"}, Spec: corev1.PodSpec{SecurityContext: of}}
	return config.Resolve(pod, &corev1.Container{Name: "app", SecurityContext: own}, imageUser)
}

func TestResolve(t *testing.T) {
	unconfined := runtimeiface.SeccompUnconfined
	localhost := func(name *string) *corev1.SeccompProfile {
		return &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: name}
	}
	for name, test := range map[string]struct {
		config security.Config
		pod    *corev1.PodSecurityContext
		own    *corev1.SecurityContext
		want   runtimeiface.Security
	}{
		"nothing": {want: runtimeiface.Security{Seccomp: unconfined}},
		"strict groups": {pod: &corev1.PodSecurityContext{SupplementalGroups: []int64{3}, SupplementalGroupsPolicy: to(corev1.SupplementalGroupsPolicyStrict)},
			want: runtimeiface.Security{Seccomp: unconfined, SupplementalGroups: []int64{3}, StrictGroups: true}},
		"pod's": {pod: &corev1.PodSecurityContext{RunAsUser: to(int64(1)), RunAsGroup: to(int64(2)), SupplementalGroups: []int64{3}, FSGroup: to(int64(4))},
			want: runtimeiface.Security{Seccomp: unconfined, RunAsUser: to(int64(1)), RunAsGroup: to(int64(2)), SupplementalGroups: []int64{3, 4}}},
		"container's win": {pod: &corev1.PodSecurityContext{RunAsUser: to(int64(1)), RunAsGroup: to(int64(2))}, own: &corev1.SecurityContext{RunAsUser: to(int64(9))},
			want: runtimeiface.Security{Seccomp: unconfined, RunAsUser: to(int64(9)), RunAsGroup: to(int64(2))}},
		"capabilities": {own: &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"CAP_NET_ADMIN", "sys_time"}, Drop: []corev1.Capability{"all"}}},
			want: runtimeiface.Security{Seccomp: unconfined, AddCapabilities: []string{"NET_ADMIN", "SYS_TIME"}, DropCapabilities: []string{"ALL"}}},
		"no escalation":      {own: &corev1.SecurityContext{AllowPrivilegeEscalation: to(false), ReadOnlyRootFilesystem: to(true)}, want: runtimeiface.Security{Seccomp: unconfined, NoNewPrivileges: true, ReadOnlyRootFS: true}},
		"escalation":         {own: &corev1.SecurityContext{AllowPrivilegeEscalation: to(true)}, want: runtimeiface.Security{Seccomp: unconfined}},
		"privileged":         {config: security.Config{SeccompDefault: true}, own: &corev1.SecurityContext{Privileged: to(true)}, want: runtimeiface.Security{Seccomp: unconfined, Privileged: true}},
		"seccomp by default": {config: security.Config{SeccompDefault: true}, want: runtimeiface.Security{Seccomp: runtimeiface.SeccompRuntimeDefault}},
		"seccomp of the pod": {pod: &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}, want: runtimeiface.Security{Seccomp: runtimeiface.SeccompRuntimeDefault}},
		"seccomp of the container": {pod: &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			own: &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}}, want: runtimeiface.Security{Seccomp: unconfined}},
		"seccomp of a file": {config: security.Config{SeccompRoot: "/profiles"}, own: &corev1.SecurityContext{SeccompProfile: localhost(to("a/b.json"))},
			want: runtimeiface.Security{Seccomp: runtimeiface.SeccompLocalhost, SeccompProfile: "/profiles/a/b.json"}},
		"AppArmor and SELinux": {pod: &corev1.PodSecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}, SELinuxOptions: &corev1.SELinuxOptions{Level: "s0:c1"}},
			own:  &corev1.SecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: to("strict")}},
			want: runtimeiface.Security{Seccomp: unconfined, AppArmor: runtimeiface.AppArmorLocalhost, AppArmorProfile: "strict", SELinux: &runtimeiface.SELinux{Level: "s0:c1"}}},
		"unmasked": {own: &corev1.SecurityContext{ProcMount: to(corev1.UnmaskedProcMount)}, want: runtimeiface.Security{Seccomp: unconfined, MaskedPaths: []string{}, ReadonlyPaths: []string{}}},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			got, err := resolve(test.config, test.pod, test.own, "")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(got).To(Equal(test.want))
		})
	}
	for name, profile := range map[string]*corev1.SeccompProfile{
		"climbs": localhost(to("../x")), "absolute": localhost(to("/x")), "without name": localhost(nil), "unknown": {Type: "x"},
	} {
		_, err := resolve(security.Config{SeccompRoot: "/profiles"}, nil, &corev1.SecurityContext{SeccompProfile: profile}, "")
		NewWithT(t).Expect(err).To(MatchError(security.ErrSeccomp), name)
	}
	_, err := resolve(security.Config{}, nil, &corev1.SecurityContext{SeccompProfile: localhost(to("a"))}, "")
	NewWithT(t).Expect(err).To(MatchError("container app: a: the node has no directory of profiles: seccomp profile cannot be used"))
}

func TestRunAsNonRoot(t *testing.T) {
	const which = ` (pod: "web_shop(u1)", container: app)`
	nonRoot := &corev1.PodSecurityContext{RunAsNonRoot: to(true)}
	for name, test := range map[string]struct {
		pod   *corev1.PodSecurityContext
		own   *corev1.SecurityContext
		image string
		want  string
	}{
		"image without user":  {nonRoot, nil, "", "container has runAsNonRoot and image will run as root" + which},
		"image of root":       {nonRoot, nil, "0:5", "container has runAsNonRoot and image will run as root" + which},
		"image of a name":     {nonRoot, nil, "app:app", "container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root" + which},
		"image of a number":   {nonRoot, nil, "1000:0", ""},
		"runAsUser root":      {nonRoot, &corev1.SecurityContext{RunAsUser: to(int64(0))}, "1000", "container's runAsUser breaks non-root policy" + which},
		"runAsUser":           {nonRoot, &corev1.SecurityContext{RunAsUser: to(int64(5))}, "root", ""},
		"container allows":    {nonRoot, &corev1.SecurityContext{RunAsNonRoot: to(false)}, "", ""},
		"container demands":   {nil, &corev1.SecurityContext{RunAsNonRoot: to(true)}, "", "container has runAsNonRoot and image will run as root" + which},
		"nobody said a thing": {nil, nil, "root", ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			_, err := resolve(security.Config{}, test.pod, test.own, test.image)
			if test.want == "" {
				g.Expect(err).NotTo(HaveOccurred())
				return
			}
			g.Expect(err).To(MatchError(test.want))
			g.Expect(err).To(MatchError(security.ErrNonRoot))
		})
	}
}

func TestEffectiveIsACopy(t *testing.T) {
	g := NewWithT(t)
	pod := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{RunAsUser: to(int64(1))}}}
	*security.Effective(pod, &corev1.Container{}).RunAsUser = 2
	g.Expect(*pod.Spec.SecurityContext.RunAsUser).To(Equal(int64(1)))
}

func ExampleConfig_Resolve() {
	nonRoot, user := true, int64(1000)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "1f4c"},
		Spec:       corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &nonRoot}},
	}
	app := &corev1.Container{Name: "app"}
	_, err := security.Config{}.Resolve(pod, app, "root")
	fmt.Println(err)

	app.SecurityContext = &corev1.SecurityContext{RunAsUser: &user}
	got, err := security.Config{}.Resolve(pod, app, "root")
	fmt.Println(*got.RunAsUser, got.Seccomp, err)
	// Output:
	// container has runAsNonRoot and image has non-numeric user (root), cannot verify user is non-root (pod: "web_default(1f4c)", container: app)
	// 1000 Unconfined <nil>
}
