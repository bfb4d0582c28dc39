//go:build !linux

package kerneltest

import "errors"

func cgroupIdentity() error { return errors.ErrUnsupported }
