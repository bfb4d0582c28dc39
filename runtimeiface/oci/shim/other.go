//go:build !linux

package shim

import "os"

// Main says that there are no shims here and returns the exit code.
func Main() int {
	_, _ = os.Stderr.WriteString("nodekit-shim: not supported on this operating system\n")
	return 1
}
