package oci

import (
	"cmp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// parseSignal knows SIGTERM, TERM, 15, SIGRTMIN+3 and SIGRTMAX-1.
func parseSignal(name string) (unix.Signal, error) {
	bad := invalid("StopSignal", "is no signal: "+name)
	if n, err := strconv.Atoi(name); err == nil {
		if n < 1 || n > 64 {
			return 0, bad
		}
		return unix.Signal(n), nil
	}
	full := "SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG")
	if s := unix.SignalNum(full); s != 0 {
		return s, nil
	}
	for prefix, base := range map[string]int{"SIGRTMIN": 34, "SIGRTMAX": 64} {
		if rest, ok := strings.CutPrefix(full, prefix); ok {
			n, err := strconv.Atoi(cmp.Or(rest, "0"))
			if s := base + n; err == nil && s >= 34 && s <= 64 {
				return unix.Signal(s), nil
			}
		}
	}
	return 0, bad
}
