// Package security turns the security contexts of a pod and its containers into
// what a runtime wants, by the rules of Kubernetes v1.37.0
// pkg/kubelet/kuberuntime/security_context.go and pkg/securitycontext.
//
//	s, err := security.Config{}.Resolve(pod, container, image.User)
//	if errors.Is(err, security.ErrNonRoot) { // CreateContainerConfigError
//		...
//	}
//
// It resolves and checks; it enforces nothing itself. AppArmor, SELinux and
// Windows options are not resolved: package manifest refuses them by path.
//
// Trap: an image whose user is a name cannot be shown to be other than root
// without its /etc/passwd; with runAsNonRoot and no runAsUser it is refused, as
// the kubelet does.
package security
