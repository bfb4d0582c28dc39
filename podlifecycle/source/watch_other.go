//go:build !linux

package source

import (
	"errors"
	"fmt"
)

// watch is Linux's alone, as the kubelet's is (Kubernetes v1.37.0
// pkg/kubelet/config/file_unsupported.go): elsewhere the directory is read again
// every second.
type watch struct{}

func newWatch() (*watch, error) {
	return nil, fmt.Errorf("watch a directory: %w", errors.ErrUnsupported)
}

func (*watch) close()                 {}
func (*watch) woken() <-chan struct{} { return nil }
func (*watch) poke()                  {}
func (*watch) add(string) bool        { return false }
func (*watch) seen() (uint64, bool)   { return 0, false }
func (*watch) settled()               {}
func (*watch) lost() bool             { return true }
