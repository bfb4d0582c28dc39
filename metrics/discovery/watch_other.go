//go:build !linux

package discovery

import (
	"context"

	"github.com/nodekit/nodekit/metrics"
)

func walk(context.Context, string, string, func(string)) error { return metrics.ErrNotSupported }

func (d *Discovery) watch(context.Context) (<-chan bool, func()) { return nil, func() {} }

func listenTo(string) {}
