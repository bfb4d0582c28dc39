//go:build !linux

package runtimetest

import "errors"

func mountOn(string) error { return errors.ErrUnsupported }

func propagates(string, bool) error { return errors.ErrUnsupported }

func unmount(string) error { return errors.ErrUnsupported }

func deviceNumber(string) (major, minor int64, err error) { return 0, 0, errors.ErrUnsupported }

func owner(string) (string, error) { return "", errors.ErrUnsupported }
