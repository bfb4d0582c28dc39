//go:build unix

package main

import (
	"syscall"
	"time"
)

// burn spins until this process has used so much CPU more.
func burn(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil {
		return err
	}
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			return 0
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	for start := used(); used()-start < d; {
		for range 1 << 16 {
			spin = spin*31 + 1
		}
	}
	return nil
}

var spin uint64
