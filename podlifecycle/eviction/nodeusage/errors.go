package nodeusage

import "errors"

var (
	// ErrNotSupported: this operating system tells it in another way, or not at all.
	ErrNotSupported = errors.New("not supported")
	// ErrGarbled: a file is not what the kernel writes.
	ErrGarbled = errors.New("garbled text")
	// ErrNoCgroup: there is no such cgroup, or no hierarchy with its controller.
	ErrNoCgroup = errors.New("no such cgroup")
)
