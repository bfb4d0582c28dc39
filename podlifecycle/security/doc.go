// Package security merges the security contexts of a pod and of its container
// into who the container's process is and what it may do, as the kubelet of
// Kubernetes v1.37.0 does (pkg/securitycontext, pkg/kubelet/kuberuntime).
//
//	config := security.Config{SeccompRoot: "/var/lib/nodekit/seccomp"}
//	spec.Security, err = config.Resolve(pod, container, image.User)
//	if errors.Is(err, security.ErrNonRoot) {
//		// CreateContainerConfigError, with the kubelet's words
//	}
//
// It is pure. Windows options are not known here; manifest.Unsupported refuses
// them.
//
// # Traps
//
//   - runAsNonRoot is decided by numbers: an image whose user is a name cannot be verified
//     and is refused, unless runAsUser says a number.
//   - A privileged container has no seccomp filter, whatever its context says; container
//     runtimes do the same.
//   - Whether a Localhost profile, of seccomp or AppArmor, is there is found out by the
//     runtime; whether the kernel has AppArmor at all, by package admission.
//   - SELinux labels mean nothing where the kernel has no SELinux, as with the kubelet.
package security
