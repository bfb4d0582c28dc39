//go:build !linux

package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
)

// Unpacking with owners and devices, overlay and its whiteouts are Linux's.

func unsupported() error { return fmt.Errorf("%w on %s", ErrNotSupported, runtime.GOOS) }

func lockFile(string) (*os.File, error) { return nil, unsupported() }

func syncFS(string) error { return unsupported() }

func statFS(string) (Filesystem, error) { return Filesystem{}, unsupported() }

func diskUsage(context.Context, string) (Usage, error) { return Usage{}, unsupported() }

func (s *Store) extract(context.Context, io.Reader, int64, string) (layer, error) {
	return layer{}, unsupported()
}

func (s *Store) mount(string, *record, *os.File) (string, error) { return "", unsupported() }

func detach(string) error { return unsupported() }
