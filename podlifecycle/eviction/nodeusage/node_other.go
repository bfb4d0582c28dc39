//go:build !linux

package nodeusage

import (
	"context"

	"github.com/nodekit/nodekit/podlifecycle/eviction"
)

// Read gives ErrNotSupported.
func (n *Node) Read(context.Context) (eviction.Reading, error) {
	return eviction.Reading{}, ErrNotSupported
}

// Cgroup gives ErrNotSupported.
func (n *Node) Cgroup(context.Context, string) (memory, processes int64, err error) {
	return 0, 0, ErrNotSupported
}

// Disk gives ErrNotSupported.
func (n *Node) Disk(context.Context, string) (eviction.Disk, error) {
	return eviction.Disk{}, ErrNotSupported
}
