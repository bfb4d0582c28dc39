// Package dockerconfig reads registry credentials in the formats of docker's
// config.json and of the older .dockercfg, and finds those that fit an image, as
// the kubelet's keyring does.
//
//	config, err := dockerconfig.Parse(data) // of a file, or of a Secret's .dockerconfigjson
//	host, repo := dockerconfig.Split("registry.example/team/web:1")
//	auths, err := dockerconfig.Lookup(host, repo, config)
//
// Keys may have a path and, label by label of the host, patterns such as
// *.example; the most specific key comes first, over all configs together. It does
// no I/O, and no error quotes what it reads: that is secret.
//
// It runs no credential helpers: what credHelpers or credsStore would give for the
// image is told as ErrNotSupported, by key.
//
// Source: Kubernetes v1.37.0 pkg/credentialprovider.
package dockerconfig
