//go:build !unix

package podlifecycle_test

import (
	"testing"
	"time"
)

func cpuTime(testing.TB) time.Duration { return 0 }
