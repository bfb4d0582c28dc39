//go:build !linux

package metrics

type links struct{}

func (*links) dump() error { return ErrNotSupported }

func (*links) of(uint32) (linkStats, bool) { return linkStats{}, false }

func (*links) to(int32) (uint32, error) { return 0, ErrNotSupported }

func (*links) close() {}
