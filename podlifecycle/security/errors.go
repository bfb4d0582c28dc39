package security

import "errors"

// ErrNonRoot: the container would run as root, or nobody can tell, against runAsNonRoot.
var ErrNonRoot = errors.New("runAsNonRoot")

// ErrSeccomp: the seccomp profile cannot be used.
var ErrSeccomp = errors.New("seccomp profile")
