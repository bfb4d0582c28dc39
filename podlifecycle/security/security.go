package security

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Config is the node's part; the zero value is the kubelet's default.
type Config struct {
	// SeccompDefault makes RuntimeDefault the filter of containers that name none.
	SeccompDefault bool
	// SeccompRoot is the directory of Localhost profiles, absolute; "" refuses them.
	SeccompRoot string
}

// Resolve merges the security contexts of pod and container; the container's
// fields win. imageUser is the image's, runtimeiface.Image.User. The error
// wraps ErrNonRoot if the user would break runAsNonRoot, or ErrSeccomp. Slices
// in the result are the caller's.
func (c Config) Resolve(pod *corev1.Pod, container *corev1.Container, imageUser string) (runtimeiface.Security, error) {
	context := Effective(pod, container)
	if err := verifyNonRoot(pod, container, context, imageUser); err != nil {
		return runtimeiface.Security{}, err
	}
	result := runtimeiface.Security{
		Privileged:     isTrue(context.Privileged),
		RunAsUser:      context.RunAsUser,
		RunAsGroup:     context.RunAsGroup,
		ReadOnlyRootFS: isTrue(context.ReadOnlyRootFilesystem),
		// Not set means allowed, but is no wish either.
		NoNewPrivileges: context.AllowPrivilegeEscalation != nil && !*context.AllowPrivilegeEscalation,
	}
	if context.Capabilities != nil {
		result.AddCapabilities = capabilities(context.Capabilities.Add)
		result.DropCapabilities = capabilities(context.Capabilities.Drop)
	}
	if of := pod.Spec.SecurityContext; of != nil {
		result.SupplementalGroups = append(result.SupplementalGroups, of.SupplementalGroups...)
		result.StrictGroups = of.SupplementalGroupsPolicy != nil && *of.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict
		if of.FSGroup != nil {
			result.SupplementalGroups = append(result.SupplementalGroups, *of.FSGroup)
		}
	}
	if context.ProcMount != nil && *context.ProcMount == corev1.UnmaskedProcMount {
		result.MaskedPaths, result.ReadonlyPaths = []string{}, []string{}
	}
	var err error
	result.Seccomp, result.SeccompProfile, err = c.seccomp(context)
	if err != nil {
		return runtimeiface.Security{}, fmt.Errorf("container %s: %w", container.Name, err)
	}
	if profile := context.AppArmorProfile; profile != nil {
		result.AppArmor = runtimeiface.AppArmorType(profile.Type) // the names are the same
		if profile.LocalhostProfile != nil {
			result.AppArmorProfile = *profile.LocalhostProfile
		}
	}
	if label := context.SELinuxOptions; label != nil {
		result.SELinux = &runtimeiface.SELinux{User: label.User, Role: label.Role, Type: label.Type, Level: label.Level}
	}
	return result, nil
}

// Effective gives the container's security context with what it leaves open
// taken from the pod's; never nil, the caller's own.
func Effective(pod *corev1.Pod, container *corev1.Container) *corev1.SecurityContext {
	result := container.SecurityContext.DeepCopy()
	if result == nil {
		result = &corev1.SecurityContext{}
	}
	of := pod.Spec.SecurityContext.DeepCopy()
	if of == nil {
		return result
	}
	takeIfNil(&result.RunAsUser, of.RunAsUser)
	takeIfNil(&result.RunAsGroup, of.RunAsGroup)
	takeIfNil(&result.RunAsNonRoot, of.RunAsNonRoot)
	takeIfNil(&result.SeccompProfile, of.SeccompProfile)
	takeIfNil(&result.AppArmorProfile, of.AppArmorProfile)
	takeIfNil(&result.SELinuxOptions, of.SELinuxOptions)
	takeIfNil(&result.WindowsOptions, of.WindowsOptions)
	return result
}

func takeIfNil[T any](field **T, value *T) {
	if *field == nil {
		*field = value
	}
}

func isTrue(b *bool) bool { return b != nil && *b }

// capabilities gives names as runtimeiface wants them: CAP_SYS_ADMIN is SYS_ADMIN.
func capabilities(list []corev1.Capability) []string {
	var result []string
	for _, capability := range list {
		result = append(result, strings.TrimPrefix(strings.ToUpper(string(capability)), "CAP_"))
	}
	return result
}

// verifyNonRoot has the texts of Kubernetes v1.37.0
// pkg/kubelet/kuberuntime/security_context.go.
func verifyNonRoot(pod *corev1.Pod, container *corev1.Container, context *corev1.SecurityContext, imageUser string) error {
	if !isTrue(context.RunAsNonRoot) {
		return nil
	}
	which := fmt.Sprintf("(pod: %q, container: %s)", fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID), container.Name)
	if context.RunAsUser != nil {
		if *context.RunAsUser == 0 {
			return nonRootError("container's runAsUser breaks non-root policy " + which)
		}
		return nil
	}
	user, _, _ := strings.Cut(imageUser, ":")
	if user == "" {
		return nonRootError("container has runAsNonRoot and image will run as root " + which)
	}
	switch number, err := strconv.ParseInt(user, 10, 64); {
	case err != nil:
		return nonRootError(fmt.Sprintf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", user, which))
	case number == 0:
		return nonRootError("container has runAsNonRoot and image will run as root " + which)
	}
	return nil
}

func (c Config) seccomp(context *corev1.SecurityContext) (runtimeiface.SeccompType, string, error) {
	profile := context.SeccompProfile
	switch {
	case isTrue(context.Privileged):
		return runtimeiface.SeccompUnconfined, "", nil
	case profile == nil && c.SeccompDefault:
		return runtimeiface.SeccompRuntimeDefault, "", nil
	case profile == nil:
		return runtimeiface.SeccompUnconfined, "", nil
	}
	switch profile.Type {
	case corev1.SeccompProfileTypeUnconfined:
		return runtimeiface.SeccompUnconfined, "", nil
	case corev1.SeccompProfileTypeRuntimeDefault:
		return runtimeiface.SeccompRuntimeDefault, "", nil
	case corev1.SeccompProfileTypeLocalhost:
		if profile.LocalhostProfile == nil || *profile.LocalhostProfile == "" {
			return "", "", fmt.Errorf("localhostProfile must be set if seccompProfile type is Localhost: %w", ErrSeccomp)
		}
		name := *profile.LocalhostProfile
		if c.SeccompRoot == "" {
			return "", "", fmt.Errorf("%s: the node has no directory of profiles: %w", name, ErrSeccomp)
		}
		if !filepath.IsLocal(name) {
			return "", "", fmt.Errorf("%s is not below the directory of profiles: %w", name, ErrSeccomp)
		}
		return runtimeiface.SeccompLocalhost, filepath.Join(c.SeccompRoot, name), nil
	}
	return "", "", fmt.Errorf("type %q: %w", profile.Type, ErrSeccomp)
}
