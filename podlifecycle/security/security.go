package security

import (
	"fmt"
	"path/filepath"
	"slices"
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
// wraps ErrNonRoot if the user would break runAsNonRoot, and ErrSeccomp if the
// profile cannot be used.
func (c Config) Resolve(pod *corev1.Pod, container *corev1.Container, imageUser string) (runtimeiface.Security, error) {
	effective := Effective(pod, container)
	if err := checkNonRoot(effective, imageUser); err != nil {
		return runtimeiface.Security{}, fmt.Errorf("container %s: %w", container.Name, err)
	}
	privileged := isTrue(effective.Privileged)
	result := runtimeiface.Security{
		Privileged:      privileged,
		RunAsUser:       effective.RunAsUser,
		RunAsGroup:      effective.RunAsGroup,
		NoNewPrivileges: effective.AllowPrivilegeEscalation != nil && !*effective.AllowPrivilegeEscalation,
		ReadOnlyRootFS:  isTrue(effective.ReadOnlyRootFilesystem),
	}
	if capabilities := effective.Capabilities; capabilities != nil {
		result.AddCapabilities = names(capabilities.Add)
		result.DropCapabilities = names(capabilities.Drop)
	}
	if shared := pod.Spec.SecurityContext; shared != nil {
		result.SupplementalGroups = slices.Clone(shared.SupplementalGroups)
		if shared.FSGroup != nil {
			result.SupplementalGroups = append(result.SupplementalGroups, *shared.FSGroup)
		}
	}
	if effective.ProcMount != nil && *effective.ProcMount == corev1.UnmaskedProcMount {
		result.MaskedPaths, result.ReadonlyPaths = []string{}, []string{}
	}
	if privileged { // a privileged container is never filtered
		result.Seccomp = runtimeiface.SeccompUnconfined
		return result, nil
	}
	var err error
	result.Seccomp, result.SeccompProfile, err = c.seccomp(effective.SeccompProfile)
	if err != nil {
		return runtimeiface.Security{}, fmt.Errorf("container %s: %w", container.Name, err)
	}
	return result, nil
}

func (c Config) seccomp(profile *corev1.SeccompProfile) (runtimeiface.SeccompType, string, error) {
	if profile == nil {
		if c.SeccompDefault {
			return runtimeiface.SeccompRuntimeDefault, "", nil
		}
		return runtimeiface.SeccompUnconfined, "", nil
	}
	switch profile.Type {
	case corev1.SeccompProfileTypeRuntimeDefault:
		return runtimeiface.SeccompRuntimeDefault, "", nil
	case corev1.SeccompProfileTypeUnconfined:
		return runtimeiface.SeccompUnconfined, "", nil
	case corev1.SeccompProfileTypeLocalhost:
		if profile.LocalhostProfile == nil || !filepath.IsLocal(*profile.LocalhostProfile) {
			return "", "", fmt.Errorf("%w: localhostProfile must be a path below the node's seccomp directory", ErrSeccomp)
		}
		if c.SeccompRoot == "" {
			return "", "", fmt.Errorf("%w: localhostProfile %s: this node has no seccomp directory", ErrSeccomp, *profile.LocalhostProfile)
		}
		return runtimeiface.SeccompLocalhost, filepath.Join(c.SeccompRoot, *profile.LocalhostProfile), nil
	}
	return "", "", fmt.Errorf("%w: type %q", ErrSeccomp, profile.Type)
}

// checkNonRoot speaks as the kubelet does, for people who search for its texts.
func checkNonRoot(effective *corev1.SecurityContext, imageUser string) error {
	if !isTrue(effective.RunAsNonRoot) {
		return nil
	}
	if user := effective.RunAsUser; user != nil {
		if *user == 0 {
			return fmt.Errorf("%w: container's runAsUser breaks non-root policy", ErrNonRoot)
		}
		return nil
	}
	user, _, _ := strings.Cut(imageUser, ":")
	if user == "" {
		return fmt.Errorf("%w: container has runAsNonRoot and image will run as root", ErrNonRoot)
	}
	uid, err := strconv.ParseInt(user, 10, 64)
	switch {
	case err != nil:
		return fmt.Errorf("%w: container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root", ErrNonRoot, user)
	case uid == 0:
		return fmt.Errorf("%w: container has runAsNonRoot and image will run as root", ErrNonRoot)
	}
	return nil
}

// Effective gives the container's security context with what it leaves open
// taken from the pod's; never nil, the caller's own.
func Effective(pod *corev1.Pod, container *corev1.Container) *corev1.SecurityContext {
	result := &corev1.SecurityContext{}
	if container.SecurityContext != nil {
		result = container.SecurityContext.DeepCopy()
	}
	shared := pod.Spec.SecurityContext.DeepCopy()
	if shared == nil {
		return result
	}
	inherit(&result.RunAsUser, shared.RunAsUser)
	inherit(&result.RunAsGroup, shared.RunAsGroup)
	inherit(&result.RunAsNonRoot, shared.RunAsNonRoot)
	inherit(&result.SeccompProfile, shared.SeccompProfile)
	inherit(&result.AppArmorProfile, shared.AppArmorProfile)
	inherit(&result.SELinuxOptions, shared.SELinuxOptions)
	inherit(&result.WindowsOptions, shared.WindowsOptions)
	return result
}

func inherit[T any](own **T, shared *T) {
	if *own == nil {
		*own = shared
	}
}

func isTrue(b *bool) bool { return b != nil && *b }

func names(capabilities []corev1.Capability) []string {
	var all []string
	for _, capability := range capabilities {
		all = append(all, strings.TrimPrefix(strings.ToUpper(string(capability)), "CAP_"))
	}
	return all
}
