//go:build !linux

package cri

import (
	"context"
	"time"
)

// killTree leaves the command to the runtime.
func (r *Runtime) killTree(context.Context, string, []string, time.Time) {}

func killsTrees() bool { return false }
