//go:build !linux

package machine

import "errors"

func size(string) (capacity, inodes uint64, err error) { return 0, 0, errors.ErrUnsupported }
