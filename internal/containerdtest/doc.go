// Package containerdtest runs a containerd of its own for tests and benchmarks:
// root, state, socket, network and CNI configuration are below one directory,
// and nothing of it is shared with another containerd.
//
// What containerd, its shim and CNI keep at fixed paths makes it want a mount
// and a network namespace of the caller's; [Unshare] gives both to a program
// before it does anything else.
package containerdtest
