//go:build !unix

package main

import "errors"

func burn(string) error { return errors.ErrUnsupported }
