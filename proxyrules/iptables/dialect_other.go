//go:build !linux

package iptables

import (
	"context"

	"github.com/nodekit/nodekit/proxyrules"
)

var _ proxyrules.Dialect = (*Dialect)(nil)

// Dialect exists on Linux only.
type Dialect struct{}

// Open gives ErrNotSupported.
func Open(config Config) (*Dialect, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	return nil, ErrNotSupported
}

// Close does nothing.
func (*Dialect) Close() error { return nil }

// Load gives ErrNotSupported.
func (*Dialect) Load(context.Context) (*proxyrules.Table, error) { return nil, ErrNotSupported }

// Sync gives ErrNotSupported.
func (*Dialect) Sync(context.Context, *proxyrules.Table) (proxyrules.SyncStats, error) {
	return proxyrules.SyncStats{}, ErrNotSupported
}

// Cleanup gives ErrNotSupported.
func (*Dialect) Cleanup(context.Context) error { return ErrNotSupported }
