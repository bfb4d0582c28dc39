// Package credential finds what a registry may be shown for an image: in Secrets
// that a pod names as imagePullSecrets, in docker's config.json files of the node,
// and by the credential provider plug-ins of the kubelet.
//
//	auths, err := credential.FromSecrets(secrets, image)
//	auths, err = credential.FromFiles([]string{"/etc/agent/config.json"}, image)
//	plugins, err := credential.New(credential.Config{Dir: "/usr/libexec/providers", Providers: providers})
//	auths, err = plugins.Credentials(ctx, image)
//
// Each list has the most specific first, and all of it is to be tried. Providers
// reads the file that the kubelet is given as --image-credential-provider-config,
// a CredentialProviderConfig of kubelet.config.k8s.io/v1. A plug-in is a program
// that reads a CredentialProviderRequest of credentialprovider.kubelet.k8s.io/v1
// on its standard input and answers on its standard output; what it answers is
// kept for as long as it says.
//
// Source: Kubernetes v1.37.0 pkg/credentialprovider and its packages secrets and
// plugin.
//
// # What is not supported
//
// Plug-ins of earlier versions of the request, and tokenAttributes: there is no API
// server to make tokens. Both are refused by path.
//
// # Traps
//
//   - Errors come beside what could be found: one bad Secret or plug-in must not keep
//     a pod from the credentials of another.
//   - A plug-in runs with the agent's rights and environment. Dir must be root's.
package credential
