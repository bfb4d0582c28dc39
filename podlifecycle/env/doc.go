// Package env works out the environment of a container from its manifest: env,
// envFrom, the downward API, resource limits, service variables and $(VAR)
// expansion, as the kubelet of Kubernetes v1.37.0 does.
//
//	environ, err := env.Resolve(env.Input{
//		Pod: pod, Container: &pod.Spec.Containers[0],
//		Objects: set, Services: set.Services,
//	})
//	if err != nil {
//		return err // names container, field, variable and object
//	}
//	spec.Env = environ
//	spec.Command = env.Expand(container.Command, environ)
//	spec.Args = env.Expand(container.Args, environ)
//
// It is pure, but for Input.File. It neither looks anything up by itself nor knows the image's own
// environment, which a runtime puts before this one.
//
// # Traps
//
//   - status.podIP is what pod.Status says: fill it in before resolving.
//   - $(VAR) sees variables that stand earlier, those of services included,
//     never later ones, nor the image's.
//   - A fileKeyRef is read when the container is made, each time; what its init
//     containers have written is there by then. A file that is missing is an
//     error even for an optional reference, and an empty value is none: both as
//     with the kubelet.
//   - An optional reference that is missing leaves the variable out; it does not
//     become empty.
package env
