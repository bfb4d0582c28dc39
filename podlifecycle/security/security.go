package security

import (
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
// wraps ErrNonRoot if the user would break runAsNonRoot.
func (c Config) Resolve(pod *corev1.Pod, container *corev1.Container, imageUser string) (runtimeiface.Security, error) {
	return runtimeiface.Security{}, nil
}

// Effective gives the container's security context with what it leaves open
// taken from the pod's; never nil, the caller's own.
func Effective(pod *corev1.Pod, container *corev1.Container) *corev1.SecurityContext { return nil }
