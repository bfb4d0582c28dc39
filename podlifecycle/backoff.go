package podlifecycle

import (
	"time"

	"github.com/nodekit/nodekit/runtimeiface"
)

// The back-off of restarts and of image pulls, as Kubernetes v1.37.0
// pkg/kubelet has it: MaxCrashLoopBackOff, initialCrashLoopBackOff, and twice
// the maximum until it is forgotten.
const (
	backoffFirst = 10 * time.Second
	backoffMax   = 300 * time.Second
	backoffReset = 600 * time.Second

	maxLevel = 7
)

// RestartDelay tells how long after its exit a container waits to be started
// at a back-off level: 0 is the first start of all, 1 the first restart, which
// is immediate, then 10, 20, 40, 80, 160 and for ever 300 s.
func RestartDelay(level int) time.Duration {
	if level <= 1 {
		return 0
	}
	if level >= maxLevel {
		return backoffMax
	}
	return backoffFirst << (level - 2)
}

// PullDelay tells how long to wait after so many failed pulls in a row: 10, 20,
// 40, 80, 160 and then 300 s.
func PullDelay(failures int) time.Duration { return RestartDelay(failures + 1) }

// nextLevel is the level of the start that follows on got's exit.
func nextLevel(got runtimeiface.Container) int {
	if ran(got) >= backoffReset {
		return 1
	}
	return min(levelOf(got)+1, maxLevel)
}

// ran tells how long a container that exited had run. A clock that was set
// back between makes it nothing.
func ran(got runtimeiface.Container) time.Duration {
	if got.StartedAt.IsZero() {
		return 0
	}
	return max(0, got.FinishedAt.Sub(got.StartedAt))
}
