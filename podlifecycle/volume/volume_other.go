//go:build !linux

package volume

import (
	"context"

	"k8s.io/apimachinery/pkg/types"
)

type memory struct {
	mode   uint32
	size   int64
	group  *int64
	noSwap bool
}

func mountMemory(string, memory) error { return ErrNotSupported }

func bindSubPath(_, _, _ string, _ bool) error { return ErrNotSupported }

func readBeneath(string, string, int64) ([]byte, error) { return nil, ErrNotSupported }

func canRecursiveReadOnly() bool { return false }

// GiveToGroup needs Linux, where files have groups; here it is ErrNotSupported.
func (r PluginRequest) GiveToGroup(context.Context, bool) error { return ErrNotSupported }

// RemoveTree needs Linux, where it can tell a mount from a directory; here it is ErrNotSupported.
func RemoveTree(context.Context, string) error { return ErrNotSupported }

// Teardown needs Linux, where it can tell a mount from a directory; here it is ErrNotSupported.
func (m *Manager) Teardown(context.Context, types.UID) error { return ErrNotSupported }
