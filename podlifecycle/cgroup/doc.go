// Package cgroup is a part of podlifecycle.
package cgroup
