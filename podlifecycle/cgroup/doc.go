// Package cgroup makes, limits and removes the cgroups of pods, in every
// hierarchy of a v1, hybrid or v2 machine, through github.com/containerd/cgroups.
//
//	manager, err := podlifecycle.New(podlifecycle.Config{Cgroups: cgroup.New(), ...})
//
// It is a leaf that podlifecycle does not import, because of its weight: main
// passes it on. It meters nothing; that is package metrics.
//
// Trap: paths are absolute from each hierarchy's root, whatever cgroup the
// agent itself is in.
package cgroup
