//go:build !linux

package hostnet

import "context"

// Host exists on Linux only.
type Host struct{}

// Open gives ErrNotSupported.
func Open(config Config) (*Host, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	return nil, ErrNotSupported
}

// Close does nothing.
func (*Host) Close() error { return nil }

// Sync gives ErrNotSupported.
func (*Host) Sync(_ context.Context, want Want) (Stats, error) {
	if _, err := want.normal(); err != nil {
		return Stats{}, err
	}
	return Stats{}, ErrNotSupported
}

// Cleanup gives ErrNotSupported.
func (*Host) Cleanup(context.Context) error { return ErrNotSupported }
