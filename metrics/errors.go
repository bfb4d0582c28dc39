package metrics

import "errors"

// Errors that callers branch on. Those below a Sample stand in Gap.Err.
var (
	// ErrNotSupported: this operating system has no cgroups.
	ErrNotSupported = errors.New("metering is not supported on this operating system")
	// ErrRunning: Run was called twice.
	ErrRunning = errors.New("the meter was already run")
	// ErrUnknownTarget: no target has that cgroup.
	ErrUnknownTarget = errors.New("unknown target")
	// ErrGone: the cgroup is not there: removed, or not made yet.
	ErrGone = errors.New("cgroup is gone")
	// ErrAbsent: this kernel or hierarchy does not offer the file.
	ErrAbsent = errors.New("file is absent")
	// ErrNoController: no mounted hierarchy has the controller.
	ErrNoController = errors.New("no hierarchy has the controller")
	// ErrGarbled: the text is truncated or not what the kernel writes.
	ErrGarbled = errors.New("garbled text")
	// ErrBackwards: a counter fell, so its cgroup is not the one read before.
	ErrBackwards = errors.New("counter went backwards")
	// ErrTooMany: there is more of it than a Meter looks at.
	ErrTooMany = errors.New("too many")
	// ErrForeignProcess: the process is not one of the pod any more, so its
	// network is not the pod's.
	ErrForeignProcess = errors.New("process does not belong to the target")
)
