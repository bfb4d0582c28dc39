//go:build !linux

package metrics_test

const workEnv = "NODEKIT_METRICS_WORK"

func doWork(string) int { return 1 }
