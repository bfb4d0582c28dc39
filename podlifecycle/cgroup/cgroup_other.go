//go:build !linux

package cgroup

import (
	"context"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func ensure(string, *specs.LinuxResources) error { return ErrNotSupported }

func remove(context.Context, string) error { return ErrNotSupported }

func list(string) ([]string, error) { return nil, ErrNotSupported }
